"""The sampler's table against 70 digits, and each word's way through it."""

from __future__ import annotations

import bisect
import math
import pickle
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skellam_reference import DIGITS, Reference

from fedsus.errors import ConfigError
from fedsus.privacy import accounting, sampling
from fedsus.privacy.noise import SeededNoise
from fedsus.privacy.sampling import SkellamTable, skellam
from fedsus_simulations.scenario.seeding import SeededClient

ONE = 1 << 127


class Told:
    """Gives the words it was told, and counts them."""

    def __init__(self, *words: int) -> None:
        self._words, self.taken = list(words), 0

    def words(self, size: int) -> NDArray[np.uint64]:
        given, self._words = self._words[:size], self._words[size:]
        assert len(given) == size, "more words than expected"
        self.taken += size
        return np.array(given, dtype=np.uint64)

    def normal(self, size: int) -> NDArray[np.float64]:
        raise NotImplementedError

    uniform = normal


def entries(table: SkellamTable) -> list[int]:
    """The table's P(|X| <= k) * 2**127."""
    return [(int(high) >> 1 << 64) + int(low) for high, low in zip(table._high[:-1], table._low, strict=True)]


@pytest.mark.parametrize("variance", [1e-6, 0.1, 1.0, 5.5, 100.0, 12345.678, 1e7, 1e9 / 7])
def test_each_entry_is_right_to_its_last_bit(variance: float) -> None:
    table, reference = SkellamTable(variance), Reference(variance)
    found = entries(table)
    ks = range(len(found)) if len(found) < 50 else sorted({*range(8), *np.linspace(8, len(found) - 1, 24, dtype=int)})
    with mpmath.workdps(DIGITS):
        for k in map(int, ks):
            assert abs(found[k] - reference.within(k) * ONE) < mpmath.mpf("0.5001"), k
        assert 0 < (1 - reference.within(len(found))) * 2 * ONE < 1, "less than 2**-128 is left beyond the table"
        assert (1 - reference.within(len(found) - 1)) * 2 * ONE >= mpmath.mpf("0.9999"), "and no entry too many"


@pytest.mark.parametrize("variance", [1e-6, 0.1, 1.0, 30.0])
def test_the_reference_agrees_with_bessel_functions(variance: float) -> None:
    reference = Reference(variance)
    with mpmath.workdps(DIGITS):
        v, total = mpmath.mpf(variance), mpmath.mpf(0)
        for k in range(20):
            total += (2 if k else 1) * mpmath.exp(-v) * mpmath.besseli(k, v)
            assert abs(total - reference.within(k)) < mpmath.mpf(10) ** -65
    assert abs(float(reference.up_to(-3) + reference.up_to(2)) - 1) < 1e-15


@pytest.mark.parametrize("variance", [1e-6, 0.1, 1.0, 20.0])
def test_the_distance_is_a_bound_and_not_a_loose_one(variance: float) -> None:
    table, reference = SkellamTable(variance), Reference(variance)
    found = [0, *entries(table), ONE]
    with mpmath.workdps(DIGITS):
        exact = [mpmath.mpf(0), *(reference.within(k) for k in range(len(found) - 1))]
        chances = [mpmath.mpf(b - a) / ONE for a, b in pairwise(found)]
        off = sum(abs(c - (b - a)) for c, (a, b) in zip(chances, pairwise(exact), strict=True)) + 1 - exact[-1]
        assert off / 2 <= table.distance
    assert table.distance < (len(found) + 2) * 2.0**-127


def test_a_million_draws_of_a_large_variance_cost_nothing_of_delta() -> None:
    assert 1e6 * skellam(1e7).distance < 1e-27


@pytest.mark.parametrize("variance", [5e-324, 1e-300, 1e-44])
def test_a_variance_that_is_next_to_nothing_gives_zeros(variance: float) -> None:
    table = SkellamTable(variance)
    assert not table.draw(SeededNoise(1), 1000).any()
    assert not table.draw(Told(2**64 - 1, 2**64 - 2, 0), 3).any()
    assert variance <= table.distance < 2.0**-126


@pytest.mark.parametrize("variance", [0.0, -1.0, math.inf, -math.inf, math.nan, 8.8e10, 1e300, 1.7e308])
def test_what_has_no_table_is_refused_in_one_line(variance: float) -> None:
    with pytest.raises(ConfigError, match=r"^variance of Skellam noise = \S+: expected [^\n]+$"):
        skellam(variance)
    assert sampling._reach(8.7e10) < 1 << 22, "the message tells the limit"


@pytest.mark.parametrize("variance", [1e-6, 0.3, 1.0, 40.0, 1e3, 1e5, 1e7])
def test_every_word_goes_where_its_bits_say(variance: float) -> None:
    """Against bisection in Python integers, at random words and at those next to the entries."""
    table = skellam(variance)
    found = entries(table)
    near = np.concatenate([table._high[:-1][:: max(1, len(found) // 3000)] + np.uint64(i) for i in (2, 3)])
    words = [0, 1, *map(int, SeededNoise(1).words(20_000)), *map(int, near), *(int(w) - 4 for w in near if w > 4)]
    ties = {entry >> 64 for entry in found}
    words = [word for word in words if word >> 1 not in ties]
    draws = table.draw(Told(*words), len(words))
    for word, draw in zip(words, draws.tolist(), strict=True):
        size = bisect.bisect_right(found, word >> 1 << 64)
        assert draw == (-size if word & 1 else size)


@pytest.mark.parametrize("variance", [1e-6, 0.3, 40.0, 1e5])
@pytest.mark.parametrize("sign", [0, 1])
def test_a_tie_is_settled_by_a_further_word(variance: float, sign: int) -> None:
    table = skellam(variance)
    found = entries(table)
    for k in range(0, len(found), max(1, len(found) // 50)):
        low = found[k] & (2**64 - 1)
        for further in {0, max(low - 1, 0), low, min(low + 1, 2**64 - 1), 2**64 - 1}:
            noise = Told((found[k] >> 64 << 1) | sign, 0, further)
            first, second = table.draw(noise, 2).tolist()
            assert noise.taken == 3 and second == 0
            assert first == (-1) ** sign * bisect.bisect_right(found, (found[k] >> 64 << 64) | further)


def test_the_deep_tail_shares_a_word_and_is_told_apart_by_the_further_one() -> None:
    table = skellam(40.0)
    found = entries(table)
    last = found[-1] >> 64
    assert last == (1 << 63) - 1 and found[-2] >> 64 == last, "several entries with the same 63 bits"
    reached = set()
    for further in [0, 2**64 - 1, *(max(0, (e & (2**64 - 1)) + i) for e in found if e >> 64 == last for i in (-1, 0))]:
        (draw,) = table.draw(Told(2**64 - 1, further), 1).tolist()
        assert draw == -bisect.bisect_right(found, (last << 64) | further)
        reached.add(-draw)
    assert max(reached) == len(found), "the largest size can be drawn"


def test_ties_in_any_place_of_a_long_draw_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_CHUNK", 4)
    table = skellam(40.0)
    found = entries(table)
    tie = found[5] >> 64 << 1
    low = found[5] & (2**64 - 1)
    words = [0, tie, 0, tie | 1, low, low - 1, 0, 0, tie, 0, low]
    assert table.draw(Told(*words), 8).tolist() == [0, 6, 0, -5, 0, 0, 6, 0]


@pytest.mark.parametrize("size", [0, 1, 2, 7, (1 << 15) - 1, 1 << 15, (1 << 15) + 1, 70_001])
def test_sizes_and_words_taken(size: int) -> None:
    class Counted(SeededNoise):
        taken = 0

        def words(self, size: int) -> NDArray[np.uint64]:
            Counted.taken += size
            return super().words(size)

    draws = skellam(1e4).draw(Counted(1), size)
    assert draws.shape == (size,) and draws.dtype == np.int64 and Counted.taken == size
    np.testing.assert_array_equal(draws[:50], skellam(1e4).draw(SeededNoise(1), min(size, 50)))


def test_flipping_the_lowest_bit_flips_the_sign_alone() -> None:
    words = SeededNoise(3).words(5000)
    first, second = (skellam(1e3).draw(Told(*map(int, w)), 5000) for w in (words, words ^ np.uint64(1)))
    np.testing.assert_array_equal(first, -second)


@settings(max_examples=60, deadline=None)
@given(variance=st.floats(-300, 4.5).map(lambda power: 10.0**power), seed=st.integers(0, 1 << 30))
def test_any_variance_makes_a_table_in_order(variance: float, seed: int) -> None:
    table = SkellamTable(variance)
    found = entries(table)
    assert all(a <= b for a, b in pairwise([1, *found, ONE - 1]))
    assert 0 < table.distance < (len(found) + 4) * 2.0**-127
    draws = table.draw(SeededNoise(seed), 100)
    assert np.abs(draws).max() <= 8 * max(variance, 1.0) ** 0.5 + 12


def test_tables_are_kept_shared_and_not_for_writing() -> None:
    table = skellam(77.0)
    assert skellam(77.0) is table and repr(table) == "SkellamTable(77.0)"
    for array in (table._high, table._low, table._guide):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    again = pickle.loads(pickle.dumps(table))
    np.testing.assert_array_equal(again.draw(SeededNoise(1), 9), table.draw(SeededNoise(1), 9))


def test_an_entry_at_the_start_of_a_bucket_is_left_open() -> None:
    """The first word of the bucket ties with it."""
    high = np.array([5 << 60, 2**64 - 1], dtype=np.uint64)
    assert sampling._guide(high, 4).tolist() == [0] * 6 + [1] * 10


def test_simulated_clients_draw_their_own_and_the_same_again() -> None:
    table = skellam(100.0)
    first, again, other = (table.draw(SeededClient(1, name), 200) for name in ("a", "a", "b"))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("variance", [1e-3, 1.0, 1e7, 1e9])
def test_a_draw_is_as_close_to_the_law_as_accounting_takes_it_to_be(variance: float) -> None:
    assert SkellamTable(variance).distance <= accounting.DRAW_DISTANCE


def test_a_table_that_is_further_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "DRAW_DISTANCE", 2.0**-120)
    with pytest.raises(ConfigError, match="more than is accounted for"):
        SkellamTable(1e6)
