"""How far one client or one example moves the integers, noise aside: the bounds hold for the worst vectors we know."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from noised_plans import adaptive, banded, client_central, client_distributed, example_distributed, plan_of

from fedsus.encoding import residues
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.encoding.noised import shortened
from fedsus.errors import ConfigError
from fedsus.privacy import factorisation, sensitivity
from fedsus.privacy.noise import SeededNoise
from fedsus.protection import ClientDistributed, Private, Shares
from fedsus.types import LocalUpdate, LocalUpdates

HUGE = 3.0e38


class NoNoise:
    """A table that draws zeros: what is left are the integers that noise would hide."""

    def draw(self, noise: object, size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        del noise
        return np.zeros(size, dtype=np.int64)


@pytest.fixture(autouse=True)
def _without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsus.encoding.skellam.skellam", lambda variance: NoNoise())


def integers(privacy: Private, delta: np.ndarray[Any, Any], seed: int = 0, round: int = 1) -> Any:
    mechanism = mechanism_of(plan_of(privacy, len(delta), round=round))
    ring = mechanism.encode(LocalUpdate(delta, 1.0, np.zeros(0), 0, None), SeededNoise(seed))
    return residues.signed(ring, mechanism.bits).astype(np.int64)


def worst(dimension: int, clip: float) -> Iterator[np.ndarray[Any, np.dtype[np.float32]]]:
    """Vectors that make rounding long: half steps, one coordinate, all equal, far too long, not finite."""
    random = np.random.default_rng(dimension)
    even = np.full(dimension, clip / math.sqrt(dimension), dtype=np.float32)
    one = np.zeros(dimension, dtype=np.float32)
    one[0] = clip
    yield from (np.zeros(dimension, np.float32), even, -even, one, 1e6 * one, np.full(dimension, HUGE, np.float32))
    for bad in (np.nan, np.inf, -np.inf):
        broken = even.copy()
        broken[-1] = bad
        yield broken
    for scale in (1e-30, 1e-3, 1.0, 1e3):
        yield (scale * clip * random.normal(size=dimension)).astype(np.float32)


@pytest.mark.parametrize("dimension", [1, 2, 3, 17, 1000])
@pytest.mark.parametrize(("clip", "granularity"), [(1.0, 32.0), (0.001, 0.5), (1e5, 4.0)])
def test_a_clients_integers_stay_within_their_bound(dimension: int, clip: float, granularity: float) -> None:
    privacy: Any = client_distributed(dimension, clip, granularity=granularity)
    bound = sensitivity.client_update(clip, privacy.shares.scale, sensitivity.padded(dimension))
    assert bound.l2**2 <= (privacy.shares.scale * clip + math.sqrt(sensitivity.padded(dimension))) ** 2
    longest = 0.0
    for seed, delta in enumerate(worst(dimension, clip)):
        whole = integers(privacy, delta, seed)
        assert int(whole @ whole) <= sensitivity.largest_square(clip, privacy.shares.scale, len(whole))
        assert math.sqrt(int(whole @ whole)) <= bound.l2
        assert int(np.abs(whole).sum()) <= bound.l1
        longest = max(longest, math.sqrt(int(whole @ whole)))
    assert longest > 0.4 * bound.l2, "the bound is no far cry from what happens"


def test_rounding_is_drawn_again_until_it_is_short_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    class Upwards(SeededNoise):
        """Rounds everything away from zero's cell, until asked often enough."""

        asked = 0

        def uniform(self, size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
            Upwards.asked += 1
            return np.full(size, np.nextafter(1.0, 0.0)) if Upwards.asked < 1000 else super().uniform(size)

    dimension, clip = 1024, 1.0
    privacy: Any = client_distributed(dimension, clip, granularity=0.5)
    mechanism = mechanism_of(plan_of(privacy, dimension))
    delta = np.random.default_rng(1).normal(size=dimension).astype(np.float32)
    ring = mechanism.encode(LocalUpdate(delta, 1.0, np.zeros(0), 0, None), Upwards(1))
    whole = residues.signed(ring, 32).astype(np.int64)
    assert 1 < Upwards.asked < 1000, "it gave up redrawing, and cut towards zero"
    assert int(whole @ whole) <= sensitivity.largest_square(clip, privacy.shares.scale, dimension)


finite = st.floats(-5, 5, width=64)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 40), st.integers(0, 2**31), st.sampled_from([(1.0, 32.0), (0.01, 1.0), (10.0, 7.5)]))
def test_one_example_moves_a_rounded_sum_by_no_more_than_its_bound(
    data: st.DataObject, dimension: int, seed: int, numbers: tuple[float, float]
) -> None:
    clip, granularity = numbers
    privacy: Any = example_distributed(dimension, clip, granularity=granularity)
    total = data.draw(arrays(np.float64, dimension, elements=finite)) * clip * 10
    gradient = data.draw(arrays(np.float64, dimension, elements=finite))
    norm = float(np.linalg.norm(gradient))
    gradient *= clip / norm if norm > 0 else 0.0
    moved = integers(privacy, total + gradient, seed) - integers(privacy, total, seed)
    bound = sensitivity.example_update(clip, privacy.shares.scale, sensitivity.padded(dimension))
    assert math.sqrt(int(moved @ moved)) <= bound.l2
    assert int(np.abs(moved).sum()) <= bound.l1


def test_the_bound_on_one_vector_does_not_hold_for_the_difference_of_two() -> None:
    """Why the example unit has a bound of its own: with the client's, this pair would be under-noised."""
    dimension, clip = 4096, 1.0
    privacy: Any = example_distributed(dimension, clip, granularity=0.5)
    random = np.random.default_rng(3)
    gradient = random.normal(size=dimension)
    gradient *= clip / np.linalg.norm(gradient)
    total = 50 * random.normal(size=dimension)
    one, other = integers(privacy, total + gradient, 1), integers(privacy, total, 2)  # independent dithers
    apart = one - other
    assert int(apart @ apart) > sensitivity.largest_square(clip, privacy.shares.scale, dimension)


class Half(SeededNoise):
    """One dither for all."""

    def uniform(self, size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.full(size, 0.5)


def test_sums_beyond_what_float64_carries_are_shortened_together() -> None:
    privacy: Any = example_distributed(4, 1.0)
    limit = sensitivity.LARGEST_SUM / privacy.shares.scale
    far = np.array([4.0, 3.0, 2.0, 1.0]) * limit
    step = np.array([0.0, 0.0, 0.0, 1.0])
    mechanism = mechanism_of(plan_of(privacy, 4))
    both = LocalUpdates(np.stack([far, far + step]), np.ones(2), np.zeros((2, 0)), np.zeros(2, np.int64))
    whole = mechanism._rounded(both, Half(0))  # type: ignore[attr-defined]
    bound = sensitivity.example_update(1.0, privacy.shares.scale, 4)
    assert np.linalg.norm(whole[0].astype(np.float64)) == pytest.approx(sensitivity.LARGEST_SUM, rel=1e-9)
    assert np.linalg.norm((whole[1] - whole[0]).astype(np.float64)) <= bound.l2


def test_sums_on_both_sides_of_the_longest_are_no_further_apart_than_before() -> None:
    """A sum that is a little too long must not become shorter than one that is not: that would be a jump."""
    norms = sensitivity.LARGEST_SUM * (1 + np.linspace(-4e-12, 4e-12, 101))
    lengths = norms * shortened(norms, sensitivity.LARGEST_SUM)
    assert lengths.max() <= sensitivity.LARGEST_SUM
    assert np.diff(lengths).min() > -1e-4, "in steps: float64 rounding alone"


def test_no_bound_is_checked_beyond_what_int64_adds_up() -> None:
    """A device would refuse the epsilon of such steps; whoever has granted any gets no wrapped square."""
    for clip, scale in ((1.0, 3e9), (1e9, 1e15)):
        privacy = ClientDistributed(
            epsilon=3.0,
            delta=1e-5,
            clip=clip,
            shares=Shares(scale=scale, variance=1.0, bits=32, colluders=1, survivors=4),
        )
        with pytest.raises(ConfigError, match="steps are too fine"):
            mechanism_of(plan_of(privacy, 2))


@pytest.mark.parametrize(
    "privacy", [client_central(0.7), adaptive(0.7), banded(0.7)], ids=["fixed", "adaptive", "banded"]
)
@pytest.mark.parametrize("dimension", [1, 2, 3, 17, 1000])
def test_a_centrally_noised_update_is_within_its_steps(privacy: Any, dimension: int) -> None:
    mechanism: Any = mechanism_of(plan_of(privacy, dimension))
    most = 0.0
    for delta in worst(dimension, 0.7):
        whole = integers(privacy, delta)[:dimension]
        assert int(whole @ whole) <= mechanism._steps**2
        most = max(most, int(whole @ whole) / mechanism._steps**2)
    assert most > 0.99


@pytest.mark.parametrize("make", [client_distributed, example_distributed])
def test_another_example_changes_no_length_and_no_bits(make: Any) -> None:
    """Sizes and costs on the wire are constants of the plan."""
    mechanism = mechanism_of(plan_of(make(300), 300))
    for delta in worst(300, 1.0):
        ring = mechanism.encode(LocalUpdate(delta, 5.0, np.zeros(0), 0, None), SeededNoise(0))
        assert ring.shape == (512,)


@pytest.mark.parametrize("bands", [1, 2, 3, 8])
@pytest.mark.parametrize("participations", [1, 2, 5])
def test_the_sensitivity_of_banded_noise_is_the_worst_pattern_of_rounds(bands: int, participations: int) -> None:
    rounds = bands * participations + 3
    column = np.zeros(rounds)
    column[:bands] = factorisation.coefficients(bands)
    matrix = np.stack([np.concatenate([np.zeros(t), column[: rounds - t]]) for t in range(rounds)], axis=1)
    assert np.allclose((np.linalg.inv(matrix) @ matrix), np.eye(rounds))
    worst_found = 0.0
    random = np.random.default_rng(bands)
    for _ in range(200):
        moved, at = np.zeros(rounds), int(random.integers(0, 3))
        for _ in range(participations):
            if at >= rounds:
                break
            moved[at] = random.choice([-1.0, 1.0])
            at += bands + int(random.integers(0, 2))
        worst_found = max(worst_found, float(np.linalg.norm(matrix @ moved)))
    bound = factorisation.sensitivity(bands, participations)
    assert worst_found <= bound * (1 + 1e-12)
    assert worst_found > 0.9 * bound


def test_banded_noise_is_the_inverse_of_its_matrix() -> None:
    bands, rounds, dimension = 4, 9, 3
    fresh = np.random.default_rng(0).normal(size=(rounds, dimension))
    earlier, rows = np.zeros((bands - 1, dimension)), []
    for row in fresh:
        rows.append(factorisation.next_noise(row, earlier))
        earlier = np.concatenate([rows[-1][np.newaxis], earlier])[: bands - 1]
    column = np.zeros(rounds)
    column[:bands] = factorisation.coefficients(bands)
    matrix = np.stack([np.concatenate([np.zeros(t), column[: rounds - t]]) for t in range(rounds)], axis=1)
    assert np.allclose(matrix @ np.array(rows), fresh)
    assert factorisation.coefficients(3) == pytest.approx([1.0, 0.5, 0.375])
