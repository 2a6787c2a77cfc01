"""Two sources of noise that are one: what must never happen."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedsus.types import Noise


def twins(noise: Noise) -> tuple[Noise, Noise]:
    """Two sources; the second gives what the first gave, in the same order."""
    drawn: deque[NDArray[Any]] = deque()
    return _First(noise, drawn), _Second(drawn)


class _First:
    def __init__(self, noise: Noise, drawn: deque[NDArray[Any]]) -> None:
        self._noise, self._drawn = noise, drawn

    def normal(self, size: int) -> NDArray[np.float64]:
        return self._kept(self._noise.normal(size))

    def uniform(self, size: int) -> NDArray[np.float64]:
        return self._kept(self._noise.uniform(size))

    def words(self, size: int) -> NDArray[np.uint64]:
        return self._kept(self._noise.words(size))

    def _kept(self, values: NDArray[Any]) -> NDArray[Any]:
        self._drawn.append(values.copy())
        return values


class _Second:
    def __init__(self, drawn: deque[NDArray[Any]]) -> None:
        self._drawn = drawn

    def normal(self, size: int) -> NDArray[np.float64]:
        return self._next(size)

    def uniform(self, size: int) -> NDArray[np.float64]:
        return self._next(size)

    def words(self, size: int) -> NDArray[np.uint64]:
        return self._next(size)

    def _next(self, size: int) -> NDArray[Any]:
        values = self._drawn.popleft()
        if values.size != size:
            raise RuntimeError(f"{size} draws asked, the twin took {values.size}")
        return values
