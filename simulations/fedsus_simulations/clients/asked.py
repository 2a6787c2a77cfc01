"""Clients of one request: their names and where they are in the population."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from fedsus.types import Member
from fedsus_simulations.clients.blocks import blocks_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus_simulations.clients.population import Population


@dataclass(frozen=True, slots=True)
class Asked:
    """Some clients.

    Attributes:
        names: in the order of the request.
        positions: in the population, (m,) int64.
    """

    names: list[str]
    positions: NDArray[np.int64]

    @classmethod
    def of(cls, names: Iterable[str], population: Population) -> tuple[Asked, list[str]]:
        """Those of the population, and the names that nobody in it bears."""
        known, positions, unknown = [], [], []
        for name in names:
            position = population.position(name)
            if position is None:
                unknown.append(name)
            else:
                known.append(name)
                positions.append(position)
        return cls(known, np.array(positions, dtype=np.int64)), unknown

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return zip(self.names, self.positions.tolist(), strict=True)

    def where(self, mask: NDArray[np.bool_]) -> Asked:
        """Those for whom ``mask`` (m,) says True."""
        if mask.all():
            return self
        return Asked([self.names[at] for at in np.flatnonzero(mask)], self.positions[mask])

    def split(self, refused: Collection[int]) -> tuple[Asked, Asked]:
        """Those whose position is not among ``refused``, and those whose is."""
        if not refused:
            return self, Asked([], self.positions[:0])
        mask = np.isin(self.positions, list(refused))
        return self.where(~mask), self.where(mask)

    def blocks(self, stack: int) -> list[Asked]:
        """Blocks of at most so many, as `blocks_of` cuts them."""
        parts = blocks_of(range(len(self)), stack) if self else []
        return [self._at(part[0], part[-1] + 1) for part in parts]

    def _at(self, start: int, end: int) -> Asked:
        return Asked(self.names[start:end], self.positions[start:end])


class Available(Sequence[Member]):
    """Clients that can be asked, made when they are looked at: a round's cost does not grow with the registered.

    Args:
        positions: of those that are there; None: everybody.
    """

    def __init__(self, names: Sequence[str], positions: NDArray[np.int64] | None) -> None:
        self._names, self._positions = names, positions

    def __len__(self) -> int:
        return len(self._names) if self._positions is None else len(self._positions)

    @overload
    def __getitem__(self, at: int) -> Member: ...
    @overload
    def __getitem__(self, at: slice) -> list[Member]: ...
    def __getitem__(self, at: int | slice) -> Member | list[Member]:
        if isinstance(at, slice):
            return [self[number] for number in range(len(self))[at]]
        name = self._names[at if self._positions is None else int(self._positions[at])]
        return Member(name, name)
