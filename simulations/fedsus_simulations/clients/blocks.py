"""Blocks of a cohort, and what a fleet asks of those that train them.

A block is the unit: its clients are trained together, so the same blocks give the same integers wherever they run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fedsus.rounds.messages import Request
    from fedsus.types import Ring

Block = Sequence[int]
"""Positions of clients in the population."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Added:
    """The sum of some blocks.

    Attributes:
        blocks: their numbers.
        total: the sum of their clients' integers, (size,) uint32.
        refused: positions of their clients that are not in it.
    """

    blocks: Sequence[int]
    total: Ring
    refused: frozenset[int]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The integers of one block's clients.

    Attributes:
        rings: (m, size) uint32, of those who did not refuse, in order.
        refused: positions of the others.
    """

    rings: NDArray[np.uint32]
    refused: frozenset[int]


class Workers(Protocol):
    """Trains the blocks of one request."""

    def totals(self, request: Request, blocks: Sequence[Block]) -> Iterator[Added]:
        """Sums of blocks as they come; each block is in one of them.

        Raises:
            EnvironmentFault: a worker failed more often than it may; the run stays open, and can be resumed.
        """
        ...

    def rings(self, request: Request, blocks: Sequence[Block]) -> Iterator[Encoded]:
        """The integers of each block's clients, in the order of the blocks.

        Raises:
            EnvironmentFault: as `totals`.
        """
        ...

    def close(self) -> None:
        """Stop what was started."""
        ...


def blocks_of(names: Sequence[T], stack: int) -> list[Sequence[T]]:
    """A cohort in blocks of at most ``stack`` clients, as even as can be, in order."""
    count = -(-len(names) // stack)
    ends = [len(names) * number // count for number in range(count + 1)]
    return [names[start:end] for start, end in pairwise(ends)]
