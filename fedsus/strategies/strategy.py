"""The interface of a strategy, and what all of them do with their state.

State is a few named arrays: ``model`` (d,) float32, ``momentum`` and ``second`` (d,) float32 where there are such, and
``steps`` () int64. Arithmetic is float64, a cache-sized chunk at a time, and in one fixed order: equal states and means
give equal bits. A step allocates the new state and nothing else that grows with d.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from fedsus.errors import CorruptionError, ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fedsus.types import Arrays, Vector

_CHUNK: Final = 32 * 1024  # coordinates at a time: 256 KiB of float64


class Strategy(Protocol):
    """Turns the mean update of each round into the next model. Never changes what it is given."""

    def init(self, model: Vector) -> Arrays:
        """The state before the first round, for a model (d,) float32."""
        ...

    def step(self, state: Arrays, mean: Vector) -> Arrays:
        """The state after a round whose mean update was ``mean`` (d,) float32.

        Raises:
            CorruptionError: the state lacks an array of this strategy, or one has another shape.
            ProtocolViolation: ``mean`` is not (d,).
        """
        ...

    def model(self, state: Arrays) -> Vector:
        """The model (d,) float32 of a state."""
        ...


class Chunked:
    """What the built-in strategies share: which arrays they keep, and a loop over chunks.

    Attributes:
        moments: names of the state's vectors beside ``model``, with their first value.
    """

    moments: dict[str, float]

    def init(self, model: Vector) -> Arrays:
        """See `Strategy.init`."""
        state: dict[str, NDArray[np.generic]] = {"model": np.array(model, dtype=np.float32)}
        for name, first in self.moments.items():
            state[name] = np.full(model.shape, first, dtype=np.float32)
        return state | {"steps": np.array(0, dtype=np.int64)}

    def step(self, state: Arrays, mean: Vector) -> Arrays:
        """See `Strategy.step`."""
        model = self._vector(state, "model", None)
        if mean.shape != model.shape:
            raise ProtocolViolation(f"mean update: shape {mean.shape}, the model has {model.shape}")
        old = {name: self._vector(state, name, model.shape) for name in ("model", *self.moments)}
        new = {name: np.empty(model.shape, dtype=np.float32) for name in old}
        for part in _chunks(len(model)):
            values = {name: array[part].astype(np.float64) for name, array in old.items()}
            self._update(values, mean[part].astype(np.float64))
            for name, array in new.items():
                array[part] = values[name]
        return {**new, "steps": np.array(int(state["steps"]) + 1, dtype=np.int64)}

    def model(self, state: Arrays) -> Vector:
        """See `Strategy.model`."""
        return self._vector(state, "model", None)

    def _update(self, values: dict[str, NDArray[np.float64]], mean: NDArray[np.float64]) -> None:
        """Change the chunk's ``values`` in place or by new arrays of the same names."""
        raise NotImplementedError

    @staticmethod
    def _vector(state: Arrays, name: str, shape: tuple[int, ...] | None) -> Vector:
        array = state.get(name)
        if array is None or array.dtype != np.float32 or array.ndim != 1 or "steps" not in state:
            raise CorruptionError(f"strategy state: '{name}' is missing or no float32 vector")
        if shape is not None and array.shape != shape:
            raise CorruptionError(f"strategy state: '{name}' has shape {array.shape}, the model {shape}")
        return array


def _chunks(length: int) -> Iterator[slice]:
    for start in range(0, length, _CHUNK):
        yield slice(start, min(start + _CHUNK, length))
