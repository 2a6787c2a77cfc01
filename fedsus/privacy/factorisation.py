"""Noise that is correlated over rounds: a banded factorisation of the matrix of prefix sums.

Training adds up what rounds release, so what matters is the error of prefix sums. Noise C^-1 Z, with C lower triangular
and Toeplitz, is cancelled in part by that of later rounds; releasing G + C^-1 Z is post-processing of C G + Z, a single
Gaussian mechanism, whatever was chosen after seeing earlier rounds (Denisov et al. 2022, Theorem 2.1). C holds the
first b coefficients of the square root of the prefix sums, c_i = binom(2 i, i) / 4^i (Kalinin and Lampert 2024).

If a client takes part at most k times, at least b rounds apart, its columns of C do not overlap, so it moves C G by at
most sqrt(k) ||c||_2 times its bound. Both are enforced by the clients themselves, and no sampling of them is counted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def coefficients(bands: int) -> NDArray[np.float64]:
    """The first column of C down to its last band, (bands,) float64; the first is 1."""
    found = np.ones(bands)
    for i in range(1, bands):
        found[i] = found[i - 1] * (2 * i - 1) / (2 * i)
    return found


def sensitivity(bands: int, participations: int) -> float:
    """How far one client moves C G, as a multiple of its bound in one round."""
    return math.sqrt(participations * float(np.sum(coefficients(bands) ** 2)))


def next_noise(fresh: NDArray[np.float64], earlier: NDArray[np.float64]) -> NDArray[np.float64]:
    """One row of C^-1 Z.

    Args:
        fresh: this round's row of Z, (d,) float64.
        earlier: the rows of C^-1 Z of the b - 1 rounds before, the newest first, (b - 1, d) float64; zeros before
            the first.
    """
    weights = coefficients(len(earlier) + 1)[1:]
    row: NDArray[np.float64] = fresh - weights @ earlier
    return row
