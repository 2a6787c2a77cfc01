"""Blocks: each repetition has every way once, in an order of its own; ratios are within a block.

A block's ways run one after the other, so what the machine does meanwhile hits all of them about alike; the random
order keeps a slow drift from favouring any (randomised complete blocks, Fisher 1935).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from fedsus.errors import RunFailed

T = TypeVar("T")

SEED: Final = 20
RESAMPLES: Final = 2_000
LEVEL: Final = 0.95


def orders(ways: Sequence[T], blocks: int, seed: int = SEED) -> Iterator[list[T]]:
    """All ways in a random order, ``blocks`` times; the same for the same seed."""
    generator = np.random.default_rng(seed)
    for _ in range(blocks):
        yield [ways[place] for place in generator.permutation(len(ways))]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median over blocks and its interval; both ends are the median where there is one block."""

    median: float
    low: float
    high: float
    blocks: int

    def __str__(self) -> str:
        if self.blocks == 1:
            return f"{self.median:.3g}"
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def estimate(values: Sequence[float], seed: int = SEED) -> Estimate:
    """The median of a figure of each block, and the percentile bootstrap's interval of it (Efron 1979) over blocks.

    It is too short of few blocks, by as much as `held` says.

    Raises:
        RunFailed: there is no block.
    """
    if not values:
        raise RunFailed("benchmark: no block was measured")
    found = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(found), (RESAMPLES, len(found)))
    low, high = np.quantile(np.median(found[drawn], axis=1), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Estimate(statistics.median(values), float(low), float(high), len(values))


def held(blocks: int) -> float:
    """How often the interval of an `estimate` has the true median inside, if blocks are independent; at least.

    Its ends are order statistics: with the r-th least and the r-th largest of n, 1 - 2 P(fewer than r of n are below).
    """
    rank = math.ceil(estimate(range(1, blocks + 1)).low)
    return 1 - sum(math.comb(blocks, below) for below in range(rank)) / 2.0 ** (blocks - 1)


def span(loads: Sequence[float]) -> str:
    """Load averages at the ends of blocks, for a note."""
    ends = f"{min(loads):.1f} to {max(loads):.1f}, median {statistics.median(loads):.1f}"
    return f"load average at the end of a block {ends}"


def words(blocks: int) -> str:
    """What an interval over that many blocks is, for a note."""
    if blocks == 1:
        return "one block, so that there is no interval"
    return (
        f"median over {blocks} blocks and its bootstrap interval ({RESAMPLES:,} resamples, {100 * LEVEL:g} %), which "
        f"holds the true median in at least {100 * held(blocks):.0f} of 100 such executions, if blocks are independent"
    )
