"""How simulated devices behave: the same whoever is asked, as often as was said, for as long as the numbers give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsus.config import loads
from fedsus.errors import ConfigError
from fedsus_simulations.clients.availability import HOUR, Availability
from fedsus_simulations.clients.traces import Instant, SeededTraces, traces_of
from fedsus_simulations.scenario.draws import divided, uniforms
from fedsus_simulations.scenario.seeding import number
from fedsus_simulations.scenario.traces import CURVES, DEFAULTS, TracesConfig

EVERYONE = np.arange(20_000)
TEN = np.full(len(EVERYONE), 10)


def traces(clients: int = len(EVERYONE), seed: int = 1, **asked: Any) -> SeededTraces:
    found = traces_of(TracesConfig.model_validate(asked), seed, clients)
    assert isinstance(found, SeededTraces)
    return found


def splitmix(key: int, times: int) -> list[int]:
    """The generator as its paper writes it, one number after the other."""
    found = []
    for _ in range(times):
        key = (key + 0x9E3779B97F4A7C15) % 2**64
        z = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        found.append(z ^ z >> 31)
    return found


def test_numbers_are_splitmix64s() -> None:
    assert splitmix(1234567, 1) == [6457827717110365317]  # the value that its implementations are tested with
    expected = [(value >> 11) * 2.0**-53 for value in splitmix(number(3, "x", 7), 50)]
    assert uniforms(3, range(50), "x", 7).tolist() == expected


@given(st.permutations(range(40)), st.integers(0, 2**31 - 1))
def test_a_client_draws_the_same_whoever_is_asked_with_it(order: list[int], seed: int) -> None:
    whole = uniforms(seed, range(1000), "dropout", 4)
    assert (uniforms(seed, order, "dropout", 4) == whole[order]).all()
    assert ((whole >= 0) & (whole < 1)).all()


def test_purposes_attempts_and_seeds_draw_apart() -> None:
    draws = [
        uniforms(1, EVERYONE, "dropout", 1),
        uniforms(1, EVERYONE, "dropout", 2),
        uniforms(1, EVERYONE, "straggler", 1),
        uniforms(2, EVERYONE, "dropout", 1),
    ]
    for one in draws:
        counts, _ = np.histogram(one, 50, (0.0, 1.0))
        assert ((counts - 400) ** 2 / 400).sum() < 95  # chi-squared of 49 degrees exceeds it once in 10,000
    correlations = np.corrcoef(draws)[np.triu_indices(4, 1)]
    assert (abs(correlations) < 5 / math.sqrt(len(EVERYONE))).all()


@given(st.lists(st.floats(0.01, 1), max_size=6), st.integers(0, 300), st.integers(0, 1000))
def test_shares_are_exact_in_number(weights: list[float], count: int, seed: int) -> None:
    shares = [weight / (sum(weights) + 1e-9) for weight in weights]
    kinds = divided(seed, shares, count, "x")
    assert kinds.shape == (count,)
    found = np.bincount(kinds, minlength=len(shares) + 1)
    assert all(abs(found[at] - share * count) <= 1 for at, share in enumerate(shares))
    if shares:
        assert found[-1] <= 1  # rounding alone


def test_which_clients_have_a_share_is_random() -> None:
    first = divided(1, [0.5], 1000, "x")
    assert 100 < np.count_nonzero(first[:500]) < 400
    assert (first != divided(2, [0.5], 1000, "x")).any()
    assert (first == divided(1, [0.5], 1000, "x")).all()


def test_without_traces_nothing_happens() -> None:
    found = traces_of(None, 1, 10)
    assert isinstance(found, Instant)
    assert found.available(1e9) is None
    assert found.reached(1e9, EVERYONE[:5]).all()
    assert not found.training(EVERYONE, 1, TEN, 10**9, 10**9).any()
    assert not found.light(EVERYONE, 10**9).any()


def test_availability_follows_the_curve_of_the_hour() -> None:
    found = traces(availability="night", hour=22.5)
    for hours in (0.0, 3.0, 13.0, 24.0, 49.0):
        here = found.available(hours * HOUR)
        assert here is not None
        assert abs(len(here) / len(EVERYONE) - CURVES["night"][int(22.5 + hours) % 24]) < 0.02
        assert found.reached(hours * HOUR, here).all()
        assert np.count_nonzero(found.reached(hours * HOUR, EVERYONE)) == len(here)


def test_an_hour_changes_availability_and_a_second_within_it_does_not() -> None:
    found = Availability(1, 1000, CURVES["office"])
    seven = found.there(7 * HOUR)
    assert found.there(8 * HOUR - 1) is seven
    eight = found.there(8 * HOUR)
    again = found.there(7 * HOUR)
    assert seven is not None and eight is not None and again is not None
    assert (again == seven).all()  # whichever hours were asked before
    assert (eight[seven]).all()  # who comes at 7 is still there at 8, when more are
    assert np.count_nonzero(eight) > np.count_nonzero(seven)


def test_days_differ() -> None:
    found = Availability(1, 1000, (0.5,) * 24)
    monday, tuesday = found.there(0.0), found.there(24 * HOUR)
    assert monday is not None and tuesday is not None
    assert 400 < np.count_nonzero(monday != tuesday) < 600


def test_always_is_everybody_whatever_the_hour() -> None:
    assert traces(availability="always", time_zones=24).available(1e7) is None


def test_time_zones_shift_the_curve() -> None:
    curve = [0.0] * 24
    curve[6] = 1.0
    for zones in (1, 6, 24):
        found = Availability(1, 24_000, curve, hour=3.0, zones=zones)
        rates = [np.count_nonzero(found.there(hour * HOUR)) / 24_000 for hour in range(24)]  # type: ignore[arg-type]
        awake = [hour for hour in range(24) if (6 - 3 - hour) % 24 < zones]
        assert all(abs(rates[hour] - 1 / zones) < 0.02 for hour in awake)
        assert sum(rates) == pytest.approx(1.0)  # each client is there in one hour of its day


def test_a_client_is_the_same_in_any_cohort_and_attempt() -> None:
    classes = [{"name": "phone", "share": 0.5}, {"name": "gpu", "share": 0.5}]
    asked = {"dropout": 0.2, "spread": 0.7, "stragglers": 0.3, "classes": classes}
    found, again = traces(**asked), traces(**asked)
    whole = found.training(EVERYONE, 3, TEN, 1000, 2000)
    some = np.array([17, 3, 19_999])
    again.training(some, 2, TEN[:3], 5, 5)
    assert again.training(some, 3, TEN[:3], 1000, 2000).tolist() == whole[some].tolist()
    assert (found.training(EVERYONE, 4, TEN, 1000, 2000) != whole).any()


def test_seconds_are_latency_bytes_and_examples() -> None:
    given = {"examples_per_second": 50.0, "down_mbps": 8.0, "up_mbps": 2.0, "latency": 0.25}
    found = traces(classes=[{"name": "toaster", **given}])
    times = found.training(EVERYONE[:3], 1, np.array([0, 50, 500]), 3_000_000, 500_000)
    assert times.tolist() == pytest.approx([0.5 + 3 + 2, 0.5 + 3 + 2 + 1, 0.5 + 3 + 2 + 10])
    assert found.light(EVERYONE[:2], 2_000_000).tolist() == pytest.approx([2.5, 2.5])


def test_known_classes_need_no_numbers_and_may_have_others() -> None:
    slow = {"name": "phone", "share": 0.5, "examples_per_second": 1.0}
    found = traces(classes=[slow, {"name": "gpu", "share": 0.5}])
    kinds = np.array(found.kinds(EVERYONE))
    assert np.count_nonzero(kinds == "phone") == len(EVERYONE) // 2
    times = found.training(EVERYONE, 1, TEN, 0, 0)
    assert times[kinds == "phone"] == pytest.approx(2 * DEFAULTS["phone"]["latency"] + 10)
    expected = 2 * DEFAULTS["gpu"]["latency"] + 10 / DEFAULTS["gpu"]["examples_per_second"]
    assert times[kinds == "gpu"] == pytest.approx(expected)


def test_as_many_fall_out_as_was_said_and_others_each_time() -> None:
    found = traces(dropout=0.2)
    first, second = (np.isinf(found.training(EVERYONE, attempt, TEN, 0, 0)) for attempt in (1, 2))
    for lost in (first, second):
        assert abs(lost.mean() - 0.2) < 0.015
    assert abs((first & second).mean() - 0.04) < 0.01
    assert not np.isinf(found.light(EVERYONE, 100)).any()


def test_as_many_are_slow_as_was_said() -> None:
    base = traces().training(EVERYONE, 1, TEN, 100, 100)
    ratio = traces(stragglers=0.3, slowdown=4.0).training(EVERYONE, 1, TEN, 100, 100) / base
    assert set(np.round(ratio, 9)) == {1.0, 4.0}
    assert abs(np.count_nonzero(ratio > 2) / len(EVERYONE) - 0.3) < 0.015


def test_speeds_are_log_normal_and_stay() -> None:
    found = traces(spread=0.5, classes=[{"name": "phone", "latency": 0.0}])
    speeds = np.log(10 / (found.training(EVERYONE, 1, TEN, 0, 0) * DEFAULTS["phone"]["examples_per_second"]))
    assert abs(speeds.mean()) < 0.02
    assert abs(speeds.std() - 0.5) < 0.02
    assert abs(((speeds / 0.5) ** 4).mean() - 3) < 0.25
    assert (found.training(EVERYONE, 2, TEN, 0, 0) == found.training(EVERYONE, 1, TEN, 0, 0)).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('availability = "nigth"', "'availability': expected one of 'always', 'night', 'office', or 24 numbers"),
        ("availability = [0.5, 0.5]", "or 24 numbers from 0 to 1, one an hour"),
        (f"availability = {[0.5] * 23 + [1.5]}", "or 24 numbers from 0 to 1"),
        (f"availability = {str([True] * 24).lower()}", "or 24 numbers from 0 to 1"),
        ("dropout = 1.0", "'dropout' = 1.0: should be less than 1"),
        ("dropouts = 0.1", "unknown field 'dropouts'; did you mean 'dropout'?"),
        ("hour = 24.0", "'hour' = 24.0"),
        ("time_zones = 0", "'time_zones' = 0"),
        ('[[classes]]\nname = "toaster"', "field 'classes.0.examples_per_second' is missing"),
        ('[[classes]]\nname = "gpu"\nshare = 0.5', "the shares of classes add up to 0.5; they must to 1"),
        ('[[classes]]\nname = "gpu"\nshare = 0.5\n' * 2, "classes: each name once"),
        ('[[classes]]\nname = "gpu"\nspeed = 3.0', "unknown field 'classes.0.speed'"),
    ],
)
def test_mistakes_are_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as found:
        loads(text, TracesConfig, "scenario.toml")
    assert message in str(found.value)
    assert "\n" not in str(found.value)
