"""Masks are uniform mod 2**bits: per coordinate over sessions, and over coordinates for a session; biased ones fail.

An input plus a uniform mask is uniform, whatever the input: these tests take one that is a constant. The key stream
is AES's, so what can go wrong is ours: how residues are cut from words, counters, signs, reduction, seeds. All keys
are derived from one fixed seed, so the outcome is the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fedsus.secagg.keys import derive
from fedsus.secagg.masks import add_mask
from fedsus.secagg.secret import Secret
from fedsus.types import Ring

NEVER = 1e-9
SEED = Secret(bytes(range(32)))
ROUNDS, WIDTH = 4_000, 1_003
COORDINATES = [0, 1, 2, 3, 4, 5, 501, 999, 1_001, 1_002]  # first blocks of the cipher, the middle, the odd end
LARGE = 2_700_003
"""Each of 2**16 residues about 41 times: one that is missing is noticed, for exp(-41) * 2**16 is below NEVER."""

BITS = pytest.mark.parametrize("bits", [16, 20, 32])


def masked(session: int, size: int, bits: int) -> Ring:
    """A client's vector in one session: a constant input, one mask added and one subtracted."""
    ring = np.full(size, 12_345, dtype=np.uint32)
    name = session.to_bytes(4, "big")
    add_mask(ring, derive(SEED, "self", name), bits, 1)
    add_mask(ring, derive(SEED, "pair", name), bits, -1)
    return ring


def p_counts(counts: NDArray[np.int64]) -> float:
    """Whether values are equally likely: chi-square, on both sides, and the rarest and the most frequent value."""
    values, draws = len(counts), int(counts.sum())
    statistic = float(((counts - draws / values) ** 2).sum() * values / draws)
    uneven = [stats.chi2.sf(statistic, values - 1), stats.chi2.cdf(statistic, values - 1)]
    rarest = values * stats.binom.cdf(counts.min(), draws, 1 / values)
    most_frequent = values * stats.binom.sf(counts.max() - 1, draws, 1 / values)
    return min(1.0, 4 * float(min(*uneven, rarest, most_frequent)))


def p_uniform(residues: Ring, bits: int, resolution: int) -> float:
    """Whether the highest and the lowest ``resolution`` bits of residues mod 2**bits are uniform."""
    ends = (residues >> np.uint32(bits - resolution), residues & np.uint32(2**resolution - 1))
    return min(1.0, 2 * min(p_counts(np.bincount(end, minlength=2**resolution)) for end in ends))


@cache
def history(bits: int) -> Ring:
    """(ROUNDS, len(COORDINATES)) uint32: what a server sees of some coordinates of one client."""
    return np.array([masked(session, WIDTH, bits)[COORDINATES] for session in range(ROUNDS)])


def p_history(rows: Ring, bits: int) -> float:
    """Whether each coordinate is uniform over sessions, and so are its changes between rounds and to its neighbour."""
    mask = np.uint32(2**bits - 1)
    columns = [rows, (rows[1::2] - rows[::2]) & mask, (rows[:, 1:] - rows[:, :-1]) & mask]
    found = [p_uniform(column, bits, 6) for table in columns for column in table.T]
    return min(1.0, len(found) * min(found))


@BITS
def test_each_coordinate_is_uniform_over_sessions(bits: int) -> None:
    assert p_history(history(bits), bits) > NEVER


@BITS
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda rows: rows >> np.uint32(1), id="one bit short"),
        pytest.param(lambda rows: rows - rows // np.uint32(16), id="15/16 of the range"),
        pytest.param(lambda rows: (rows >> np.uint32(1)) + (rows[::-1] >> np.uint32(1)), id="not reduced"),
        pytest.param(lambda rows: rows | np.uint32(1), id="a bit stuck"),
        pytest.param(lambda rows: np.repeat(rows[::2], 2, axis=0), id="a mask for two rounds"),
        pytest.param(lambda rows: rows[:, [0, 0, *range(2, rows.shape[1])]], id="a word for two coordinates"),
        pytest.param(lambda rows: np.where(np.arange(len(rows))[:, None] % 8, rows, 12_345), id="1 of 8 not masked"),
        pytest.param(lambda rows: np.where(np.arange(rows.shape[1]) == 9, rows[:1], rows), id="an end not masked"),
    ],
)
def test_the_test_finds_masks_that_are_not(bits: int, spoil: Callable[[Ring], Ring]) -> None:
    assert p_history(spoil(history(bits)).astype(np.uint32), bits) < NEVER


@BITS
@pytest.mark.parametrize("session", [0, 1, 2**31])
def test_each_session_is_uniform_over_coordinates(bits: int, session: int) -> None:
    assert p_uniform(masked(session, LARGE, bits), bits, 16) > NEVER


def test_all_residues_of_20_bits_are_equally_likely() -> None:
    counts = sum((np.bincount(masked(session, LARGE, 20), minlength=2**20) for session in range(16)), np.zeros(2**20))
    assert p_counts(counts) > NEVER
    counts[-1] = 0  # masks in [0, R - 2]
    assert p_counts(counts) < NEVER


@BITS
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda ring, end: np.where(ring == end, 0, ring), id="[0, R-2]"),
        pytest.param(lambda ring, end: np.where(ring == 0, end, ring), id="[1, R-1]"),
        pytest.param(lambda ring, end: np.arange(len(ring)) * (end // len(ring) or 1) & end, id="too even"),
        pytest.param(lambda ring, end: np.resize(ring[: 1 << 17], len(ring)), id="the counter starts again"),
        pytest.param(lambda ring, end: np.where(np.arange(len(ring)) < LARGE - 20_000, ring, 12_345), id="open end"),
        pytest.param(lambda ring, end: ring & (end >> 4), id="4 bits short: 28 of 32"),
    ],
)
def test_the_test_finds_a_session_that_is_not(
    bits: int, spoil: Callable[[Ring, int], NDArray[np.int64]], request: pytest.FixtureRequest
) -> None:
    """Seen at 16 bits' resolution: for wider residues, the first two are done to their highest 16 bits."""
    ring, shift = masked(0, LARGE, bits), np.uint32(bits - 16)
    if "R-" in request.node.callspec.id:
        ring = spoil(ring >> shift, 2**16 - 1).astype(np.uint32) << shift | ring & np.uint32(2 ** (bits - 16) - 1)
    else:
        ring = spoil(ring, 2**bits - 1).astype(np.uint32)
    assert p_uniform(ring, bits, 16) < NEVER


def test_seeds_have_no_small_space() -> None:
    """50,000 sessions have 50,000 masks; of 2**28 seeds, 5 pairs would be equal."""

    def distinct(sessions: NDArray[np.int64]) -> int:
        heads = np.zeros((len(sessions), 4), dtype=np.uint32)
        for head, session in zip(heads, sessions, strict=True):
            add_mask(head, derive(SEED, "pair", int(session).to_bytes(4, "big")), 32, 1)
        return len(np.unique(heads.view("V16")))

    count = 50_000
    assert distinct(np.arange(count)) == count
    assert distinct(np.random.default_rng(0).integers(0, 2**28, count)) < count
