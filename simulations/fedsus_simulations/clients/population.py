"""The clients of a simulation and their data: who they are, how much each has, and its shard when it is asked for.

A population of a hundred thousand costs what its data cost: a shard is cut out of them when its client is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, overload

import numpy as np

from fedsus.tasks.task import Shard
from fedsus_simulations.scenario.seeding import generator

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
        """Examples that no client trains on, to test the model with; None where there are none."""
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
    """Clients whose shards are there already: hospitals, persons, roles.

    Attributes:
        names: in alphabetical order.
        sizes: training examples of each, (clients,).
        central: what no client trains on.
    """

    shards: tuple[Shard, ...]
    names: tuple[str, ...]
    sizes: NDArray[np.int64]
    central: Batch | None
    positions: Mapping[str, int]

    @classmethod
    def of(cls, shards: Mapping[str, Shard]) -> Given:
        """Clients by name. What all of them hold out is the central test set: the data have no other."""
        import torch

        names = tuple(sorted(shards))
        ordered = tuple(shards[name] for name in names)
        sizes = np.array([shard.size for shard in ordered], dtype=np.int64)
        held_out = tuple(torch.cat(parts) for parts in zip(*(shard.held_out for shard in ordered), strict=True))
        positions = {name: position for position, name in enumerate(names)}
        return cls(ordered, names, sizes, held_out if len(held_out[0]) else None, positions)

    def position(self, name: str) -> int | None:
        """The position of a name; None where nobody bears it."""
        return self.positions.get(name)

    def shard(self, position: int) -> Shard:
        """One client's data."""
        return self.shards[position]


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
    def of_sizes(cls, rows: NDArray[np.int64], sizes: NDArray[np.int64]) -> Rows:
        """Rows one client after the other, and how many each has."""
        starts = np.zeros(len(sizes) + 1, dtype=np.int64)
        np.cumsum(sizes, out=starts[1:])
        return cls(rows, starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, at: int) -> NDArray[np.int64]:
        return self.rows[self.starts[at] : self.starts[at + 1]]


@dataclass(frozen=True, slots=True)
class Divided:
    """Clients that share one data set's training part out among them.

    Attributes:
        whole: the data.
        train, held_out: rows of ``whole.train`` of each client, to train on and held out.
        sizes: training examples of each, (clients,).
    """

    whole: Shard
    train: Rows
    held_out: Rows
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, whole: Shard, train: Rows, held_out: Rows) -> Divided:
        """The clients of these rows."""
        return cls(whole, train, held_out, np.diff(train.starts))

    @property
    def names(self) -> Numbered:
        """Numbered."""
        return Numbered(len(self.train))

    @property
    def central(self) -> Batch | None:
        """The data's own held-out part."""
        return _some(self.whole.held_out)

    def position(self, name: str) -> int | None:
        """The position of a name; None where nobody bears it."""
        return self.names.position(name)

    def shard(self, position: int) -> Shard:
        """One client's data: copies of its rows."""
        return _taken(self.whole, self.train[position], self.held_out[position])


@dataclass(frozen=True, slots=True)
class Sampled:
    """Any number of clients, each with random rows of one data set's training part; others may have the same.

    A client's rows are distinct, and are drawn anew each time it is asked for: a registered client takes no memory.

    Attributes:
        whole: the data.
        clients: how many.
        train, held_out: rows of each client, to train on and held out.
        seed: of the simulation.
    """

    whole: Shard
    clients: int
    train: int
    held_out: int
    seed: int

    @property
    def names(self) -> Numbered:
        """Numbered."""
        return Numbered(self.clients)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Training examples of each, (clients,): one number, seen so often."""
        return np.broadcast_to(np.int64(self.train), self.clients)

    @property
    def central(self) -> Batch | None:
        """The data's own held-out part."""
        return _some(self.whole.held_out)

    def position(self, name: str) -> int | None:
        """The position of a name; None where nobody bears it."""
        return self.names.position(name)

    def shard(self, position: int) -> Shard:
        """One client's data: copies of its rows."""
        rows = generator(self.seed, "rows", position).choice(
            self.whole.size, self.train + self.held_out, replace=False, shuffle=True
        )
        return _taken(self.whole, rows[: self.train], rows[self.train :])


def _some(batch: Batch) -> Batch | None:
    return batch if len(batch[0]) else None


def _taken(whole: Shard, train: NDArray[np.int64], held_out: NDArray[np.int64]) -> Shard:
    """These rows of the training part."""
    import torch

    def of(rows: NDArray[np.int64]) -> Batch:
        index = torch.from_numpy(rows)
        return tuple(tensor[index] for tensor in whole.train)

    return Shard(of(train), of(held_out))
