"""One random number for each client, by name: the same for a client whoever is asked with it, and in whatever order.

A generator would have to draw for all registered clients to reach the asked ones; a hash of seed, purpose and client
is drawn for the asked ones alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus_simulations.scenario.seeding import generator, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_MIXES: Final = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST: Final = np.uint64(31)


def uniforms(seed: int, positions: Sequence[int] | NDArray[np.int64], *names: object) -> NDArray[np.float64]:
    """A number in [0, 1) for each client and named purpose, (m,) float64.

    Element p of the stream that SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014,
    fig. 17) makes from the purpose's key: its state only counts, so any element can be had alone.
    """
    state = np.asarray(positions, dtype=np.uint64) + np.uint64(1)
    state *= _STEP
    state += np.uint64(number(seed, *names))
    for shift, factor in _MIXES:
        state ^= state >> shift
        state *= factor
    state ^= state >> _LAST
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def divided(seed: int, shares: Sequence[float], count: int, *names: object) -> NDArray[np.int8]:
    """Which of the shares each of ``count`` clients belongs to, (count,) int8: random, and in number exact.

    Shares are rounded so that they add up; what they leave of 1 goes to a last one, numbered ``len(shares)``.
    """
    ends = np.rint(np.cumsum(shares) * count).astype(np.int64)
    kinds = np.searchsorted(ends, np.arange(count), side="right").astype(np.int8)
    kinds[generator(seed, *names).permutation(count)] = kinds.copy()
    return kinds
