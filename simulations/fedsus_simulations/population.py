"""The clients of a simulation and their data: who they are, how much each has, and its shard when it is asked for.

A population of a hundred thousand costs what its data cost: a shard is cut out of them when its client is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, overload

import numpy as np

from fedsus.tasks.task import Shard

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus.tasks.task import Batch


class Population(Protocol):
    """All registered clients."""

    @property
    def names(self) -> Sequence[str]:
        """Their names, in order; a client's position in it is what workers are told."""
        ...

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Training examples of each, (clients,)."""
        ...

    @property
    def central(self) -> Batch | None:
        """The data's own test part, which no client has; None where there is none."""
        ...

    def position(self, name: str) -> int | None:
        """The position of a name; None where nobody bears it."""
        ...

    def shard(self, position: int) -> Shard:
        """One client's data."""
        ...


class Numbered(Sequence[str]):
    """``client-000``, ``client-001``, ...: names that take no memory; sorted as text they are in order."""

    PREFIX = "client-"

    def __init__(self, count: int) -> None:
        self._count, self._width = count, len(str(max(count - 1, 0)))

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self._name(number) for number in range(self._count)[at]]
        return self._name(range(self._count)[at])

    def _name(self, number: int) -> str:
        return f"{self.PREFIX}{number:0{self._width}}"

    def position(self, name: str) -> int | None:
        """The position of a name; None where it is none of these."""
        digits = name.removeprefix(self.PREFIX)
        if not (digits.isascii() and digits.isdecimal()) or len(digits) != self._width or digits == name:
            return None
        return int(digits) if int(digits) < self._count else None


@dataclass(frozen=True, slots=True)
class Given:
    """Clients whose shards are there already: hospitals, persons, roles."""

    shards: Mapping[str, Shard]
    central: Batch | None = None

    @property
    def names(self) -> Sequence[str]:
        """In alphabetical order."""
        return sorted(self.shards)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Training examples of each, (clients,)."""
        return np.array([self.shards[name].size for name in self.names], dtype=np.int64)

    def position(self, name: str) -> int | None:
        """The position of a name; None where nobody bears it."""
        return self.names.index(name) if name in self.shards else None

    def shard(self, position: int) -> Shard:
        """One client's data."""
        return self.shards[self.names[position]]


@dataclass(frozen=True, slots=True)
class Rows:
    """Row numbers of many clients in one array.

    Attributes:
        rows: (total,) int64.
        starts: (clients + 1,) int64, rising.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[NDArray[np.int64]]) -> Rows:
        """Rows given client by client."""
        starts = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in parts], out=starts[1:])
        return cls(np.concatenate([np.zeros(0, dtype=np.int64), *parts]), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, at: int) -> NDArray[np.int64]:
        return self.rows[self.starts[at] : self.starts[at + 1]]


@dataclass(frozen=True, slots=True)
class Divided:
    """Clients that share one data set out among them.

    Attributes:
        whole: the data; its held-out part is the central test set.
        train, held_out: rows of ``whole.train`` of each client, one after the other: client i has
            ``rows[starts[i]:starts[i + 1]]``. Clients' held-out rows are of ``whole.held_out``, none where empty.
    """

    whole: Shard
    train: Rows
    held_out: Rows

    @property
    def names(self) -> Numbered:
        """Numbered."""
        return Numbered(len(self.train))

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Training examples of each, (clients,)."""
        return np.diff(self.train.starts)

    @property
    def central(self) -> Batch | None:
        """The data's own held-out part."""
        return self.whole.held_out if len(self.whole.held_out[0]) else None

    def position(self, name: str) -> int | None:
        """The position of a name; None where nobody bears it."""
        return self.names.position(name)

    def shard(self, position: int) -> Shard:
        """One client's data: copies of its rows."""
        import torch

        def of(batch: Batch, rows: NDArray[np.int64]) -> Batch:
            index = torch.from_numpy(rows)
            return tuple(tensor[index] for tensor in batch)

        return Shard(
            of(self.whole.train, self.train[position]),
            of(self.whole.held_out, self.held_out[position]),
        )
