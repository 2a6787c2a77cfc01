"""A random part of an update, the same on all clients: unbiased, summed exactly, and never beyond its sensitivity."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noised_plans import CLIENTS, client_central, client_distributed, example_distributed, plan_of
from reduced_plans import NAMES, Name, of, reduced, stack, update

from fedsus.costs import Costs
from fedsus.encoding.mechanism import FixedPoint
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.encoding.packing import packed_size
from fedsus.encoding.reduction import Reduced, Reduction, chosen, least
from fedsus.privacy.noise import SeededNoise
from fedsus.protection import NoPrivacy
from fedsus.rounds.server_half.traffic import upload
from fedsus.types import LocalUpdate

SIGMAS = 6.5
"""Two-sided chance of a normal beyond it: 8e-11; of a hundred, or of a mean of a thousand, still below 1e-6."""


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("dimension", [2, 3, 7, 64, 100, 129, 1000])
def test_all_coordinates_bring_the_update_back_and_a_part_is_a_part_of_it(dimension: int, rotated: bool) -> None:
    rows = np.random.default_rng(dimension).normal(size=(4, dimension))
    whole = Reduction(b"s", dimension, dimension, rotated, 1.0)
    assert np.linalg.norm(whole.reduce(rows), axis=1) == pytest.approx(np.linalg.norm(rows, axis=1), rel=1e-12)
    assert whole.expand(whole.reduce(rows)[0]) == pytest.approx(rows[0], abs=1e-12)
    half = dataclasses.replace(whole, coordinates=-(-dimension // 2))
    kept = chosen(b"s", dimension, half.coordinates)
    assert np.array_equal(half.reduce(rows), whole.reduce(rows)[:, kept])
    inverse = half.reduce(half.expand(rows[0, : half.coordinates])[np.newaxis])[0]
    assert inverse * half.coordinates / dimension == pytest.approx(rows[0, : half.coordinates], abs=1e-12)


def test_rotated_updates_are_flat_wherever_they_were_concentrated() -> None:
    for dimension in (64, 100, 127, 129, 1000):
        rotation = Reduction(b"s", dimension, dimension, True, 1.0)
        largest = np.abs(rotation.reduce(np.eye(dimension))).max()
        assert largest < 6 / math.sqrt(dimension)


def test_what_is_chosen_is_the_same_everywhere_and_without_replacement() -> None:
    kept = chosen(b"seed", 1000, 250)
    assert (kept.dtype, len(set(kept.tolist())), kept.min() >= 0, kept.max() < 1000) == (np.int64, 250, True, True)
    assert (np.diff(kept) > 0).all()
    assert hashlib.sha256(kept.astype("<u4").tobytes()).hexdigest()[:16] == "b67c328c1c188733"
    assert least(np.array([5, 1, 5, 0, 5], np.uint64), 3).tolist() == [0, 1, 3], "of equal numbers the first"
    assert least(np.array([1, 1, 1], np.uint64), 3).tolist() == [0, 1, 2]


def test_each_coordinate_is_chosen_equally_often() -> None:
    draws, dimension, count = 3000, 23, 5
    times = np.zeros(dimension)
    for seed in range(draws):
        times[chosen(seed.to_bytes(4, "big"), dimension, count)] += 1
    share = count / dimension
    assert np.abs(times - draws * share).max() < SIGMAS * math.sqrt(draws * share * (1 - share))


@pytest.mark.parametrize("name", NAMES)
def test_the_choice_is_of_the_round_and_its_model_and_of_nothing_else(name: Name) -> None:
    first = of(reduced(NoPrivacy(), 100, name))
    again = reduced(NoPrivacy(), 100, name, attempt=2, run="other", exchange="secure_sum", session="1" * 64)
    assert of(again) == first, "a second attempt shows no other coordinates, and a simulated run is as a deployed one"
    for changes in ({"round": 2, "attempt": 2}, {"model": "1" * 64}):
        other = of(reduced(NoPrivacy(), 100, name, **changes))
        assert not np.array_equal(chosen(other.seed, 100, 25), chosen(first.seed, 100, 25))
    assert (
        hashlib.sha256(first.reduce(np.arange(100.0)[np.newaxis]).tobytes()).hexdigest()[:16]
        == {
            "rand_k": "edc290ba9816b000",
            "projection": "aa16047e41b51873",
        }[name]
    )


def estimates(name: Name, delta: Any, privacy: Any, rounds: int = 1000) -> Any:
    """What comes back of ``delta`` without noise in so many rounds, (rounds, d)."""
    plans = (reduced(privacy, len(delta), name, round=1 + r, rounds=rounds, attempt=1 + r) for r in range(rounds))
    return np.array([one.expand(one.reduce(delta[np.newaxis])[0]) for one in map(of, plans)])


def off(found: Any, expected: Any) -> float:
    """How many standard errors the mean of ``found`` is off, at most."""
    error = found.std(axis=0, ddof=1) / math.sqrt(len(found))
    return float((np.abs(found.mean(axis=0) - expected) / error).max())


@pytest.mark.parametrize("privacy", [NoPrivacy(), example_distributed(8)], ids=["none", "example"])
@pytest.mark.parametrize("name", NAMES)
def test_what_comes_back_is_unbiased_and_as_far_off_as_was_proved(name: Name, privacy: Any) -> None:
    delta = np.random.default_rng(4).normal(size=24)
    found = estimates(name, delta, privacy)
    assert off(found, delta) < SIGMAS
    errors = ((found - delta) ** 2).sum(axis=1, keepdims=True)
    assert off(errors, (24 / 6 - 1) * (delta @ delta)) < SIGMAS
    for forgotten in (math.sqrt(6 / 24), 6 / 24):
        assert off(found * forgotten, delta) > 2 * SIGMAS, "a forgotten upscale is caught, on one side or on both"


@given(st.integers(0, 2**32 - 1), st.sampled_from(NAMES), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_the_sum_of_parts_is_the_part_of_the_sum_exactly(seed: int, name: Name, count: int) -> None:
    """Of whole numbers: 64 coordinates are rotated by eighths, and nothing is rounded."""
    rows = np.random.default_rng(seed).integers(-(2**20), 2**20, size=(count, 64)).astype(np.float64)
    one = Reduction(seed.to_bytes(8, "big"), 64, 20, name == "projection", 1.0)
    assert np.array_equal(one.reduce(rows).sum(axis=0), one.reduce(rows.sum(axis=0, keepdims=True))[0])


@pytest.mark.parametrize("name", NAMES)
def test_fixed_point_sums_of_parts_are_exact_and_come_back_to_within_its_steps(name: Name) -> None:
    plan = reduced(NoPrivacy(), 200, name, metrics=False)
    mechanism = mechanism_of(plan)
    assert isinstance(mechanism, Reduced) and isinstance(mechanism.inner, FixedPoint)
    deltas = np.random.default_rng(0).normal(scale=0.05, size=(CLIENTS, 200)).astype(np.float32)
    noises = [SeededNoise(0)] * CLIENTS
    rings = mechanism.encode_all(stack(deltas), noises)
    assert all(
        np.array_equal(ring, mechanism.encode(update(delta), noises[0]))
        for ring, delta in zip(rings, deltas, strict=True)
    )
    total = np.zeros(mechanism.size, dtype=np.uint32)
    mechanism.add_to(total, stack(deltas), noises)
    assert np.array_equal(total, rings.sum(axis=0, dtype=np.uint32))
    _, mean = mechanism.release({}, total, CLIENTS, noises[0])
    expected = mechanism.reduction.expand(mechanism.reduction.reduce(deltas.mean(axis=0)[np.newaxis])[0])
    assert mean.delta.dtype == np.float32
    assert mean.delta == pytest.approx(expected, abs=1e-4)
    if name == "rand_k":
        kept = chosen(mechanism.reduction.seed, 200, 50)
        assert np.count_nonzero(mean.delta) == 50 and np.count_nonzero(mean.delta[kept]) == 50
    assert upload(plan, None).update == packed_size(50 + 3, 32)


@pytest.mark.parametrize("privacy", [NoPrivacy(), client_distributed(10, metrics=9.0)], ids=["none", "client"])
def test_metrics_and_costs_stay_whole(privacy: Any) -> None:
    costs = Costs(joules=100.0, grams=10.0)
    told = {"metrics": True, "costs": costs, "exchange": "secure_sum", "session": "1" * 64}
    mechanism, whole = mechanism_of(reduced(privacy, 40, **told)), mechanism_of(plan_of(privacy, 40, **told))
    sent, all_of_it = (10, 40) if isinstance(privacy, NoPrivacy) else (16, 64)
    assert mechanism.size == whole.size - all_of_it + sent
    used = np.array([high / 4 for _, high in costs.ranges(not isinstance(privacy, NoPrivacy)).values()])
    one = LocalUpdate(np.zeros(40, np.float32), 10.0, np.array([20.0, 6.0]), 8, None, used)
    found = []
    for each in (mechanism, whole):
        total = np.zeros(each.size, dtype=np.uint64)
        for seed in range(CLIENTS):
            total += each.encode(one, SeededNoise(seed))
        ring = (total % (1 << each.bits)).astype(np.uint32)
        found.append(each.release({}, ring, CLIENTS, SeededNoise(0))[1])
    assert found[0].totals == pytest.approx(found[1].totals, rel=0.05) and len(found[0].totals) == 2
    assert found[0].costs == pytest.approx(CLIENTS * used, rel=0.2) and len(found[0].costs) == len(used)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_counts_for_nothing_also_where_it_is_not_sent(name: Name, bad: float) -> None:
    mechanism, good = mechanism_of(reduced(NoPrivacy(), 40, name)), np.full(40, 0.01, np.float32)
    assert isinstance(mechanism, Reduced)
    left_out = min(set(range(40)) - set(chosen(mechanism.reduction.seed, 40, 10).tolist()))
    broken = good.copy()
    broken[left_out] = bad
    total = np.zeros(mechanism.size, dtype=np.uint32)
    mechanism.add_to(total, stack(np.array([good, broken])), [SeededNoise(0)] * 2)
    _, mean = mechanism.release({}, total, 2, SeededNoise(0))
    assert np.isfinite(mean.delta).all() and mean.weight == 10.0 and mean.saturated == 10


@pytest.mark.parametrize("privacy", [NoPrivacy(), client_distributed(33), client_central()])
def test_a_share_of_all_is_no_reduction_and_an_evaluation_has_none(privacy: Any) -> None:
    one = update(np.random.default_rng(0).normal(size=33).astype(np.float32))
    whole = mechanism_of(plan_of(privacy, 33))
    all_of_it = mechanism_of(reduced(privacy, 33, share=1.0))
    assert type(all_of_it) is type(whole)
    assert np.array_equal(all_of_it.encode(one, SeededNoise(1)), whole.encode(one, SeededNoise(1)))
    if not isinstance(privacy, NoPrivacy):
        return
    evaluated = reduced(privacy, 33, purpose="evaluate", round=7, attempt=7)
    assert (
        mechanism_of(evaluated).size == mechanism_of(plan_of(privacy, 33, purpose="evaluate", round=7, attempt=7)).size
    )
