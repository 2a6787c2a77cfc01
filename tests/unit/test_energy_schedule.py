"""When rounds start: against all ways to place them, with forecasts that end early, lie or change."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.energy.grid.intensity import Rate, Step
from fedsus.energy.grid.schedule import Start, Work, next_start
from fedsus.energy.grid.shifted import Shifted
from fedsus.errors import EnvironmentFault

NOW = 1_700_000_000.0
HOUR = 3600.0


def forecast(*values: float, seconds: float = HOUR, start: float = NOW) -> list[Step]:
    def rate(value: float) -> Rate:
        return Rate(value=value, low=0.0, high=1e6, method="modelled", kind="marginal", source="test")

    return [
        Step(start=start + i * seconds, end=start + (i + 1) * seconds, rate=rate(value))
        for i, value in enumerate(values)
    ]


def start(steps: Sequence[Step], slack: float, rounds: int = 1, seconds: float = HOUR, step: float = HOUR) -> Start:
    return next_start(steps, NOW, slack, Work(rounds=rounds, seconds=seconds), step)


def placed(values: Sequence[float], slack: int, rounds: int, each: int) -> tuple[float, int]:
    """Brute force: the least sum over all ways to place rounds, and the earliest first start that has it."""
    slots = range(rounds * each + slack)
    ways = []
    for starts in itertools.combinations(slots, rounds):
        ends = [one + each for one in starts]
        if ends[-1] <= len(slots) and all(a <= b for a, b in zip(ends, starts[1:], strict=False)):
            ways.append((sum(sum(values[s : s + each]) for s in starts), starts[0]))
    least = min(ways)[0]
    return least, min(first for sum_, first in ways if sum_ == least)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_the_choice_is_the_best_of_all_ways_to_place_the_rounds(data: st.DataObject) -> None:
    rounds, each = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    slack = data.draw(st.integers(0, 5))
    length = rounds * each + slack
    values = data.draw(st.lists(st.integers(0, 6), min_size=length, max_size=length))
    found = start(forecast(*values), slack * HOUR, rounds, each * HOUR)
    least, first = placed(values, slack, rounds, each)
    assert found.at == NOW + first * HOUR
    assert found.mean == pytest.approx(least / (rounds * each))
    assert found.at_once == pytest.approx(sum(values[: rounds * each]) / (rounds * each))


def test_many_short_rounds_fill_the_cleanest_hours_with_pauses_between() -> None:
    """Ninety rounds of a minute take two hours of three quarters: 1 and 5 are the cheapest two of six."""
    found = start(forecast(9, 1, 8, 7, 6, 2), 4 * HOUR, rounds=90, seconds=60.0)
    assert found.at == NOW + HOUR
    assert found.mean == pytest.approx(1.5)
    assert found.saved == pytest.approx(1 - 1.5 / 5)


@pytest.mark.parametrize("slack", [0.0, -5.0, 0.99 * HOUR])
def test_without_a_step_of_slack_it_runs_at_once(slack: float) -> None:
    found = start(forecast(100, 1, 1), slack)
    assert (found.at, found.why) == (NOW, "no slack is left")
    assert start(forecast(100, 1, 1), HOUR).at == NOW + HOUR


def test_no_round_is_put_off_by_more_than_the_slack() -> None:
    found = start(forecast(9, 8, 7, 6, 5, 4, 3, 2, 1), 3 * HOUR)
    assert found.at == NOW + 3 * HOUR


def test_a_flat_forecast_puts_nothing_off() -> None:
    found = start(forecast(*[0.1 + 0.2] * 50), 40 * HOUR, rounds=7, seconds=1000.0, step=300.0)
    assert (found.at, found.why, found.saved) == (NOW, "no later hour is cleaner", 0.0)
    assert start(forecast(0, 0, 0), HOUR).at == NOW


def test_no_forecast_runs_at_once_and_says_so() -> None:
    assert start([], 10 * HOUR) == Start(at=NOW, why="no forecast")
    assert start(forecast(5, seconds=60.0), 10 * HOUR).why == "the forecast ends too soon"


def test_hours_behind_the_forecast_count_as_the_mean_of_what_is_known() -> None:
    """Known: 4, 2. What comes then counts as 3, so that hour 2 is waited for; and 2, 4 runs at once."""
    assert start(forecast(4, 2), 20 * HOUR).at == NOW + HOUR
    assert start(forecast(2, 4), 20 * HOUR).at == NOW
    long = start(forecast(2, 4), 20 * HOUR, rounds=1000)  # now, then a pause: 2 and 3 instead of 2 and 4
    assert (long.at, long.mean, long.at_once) == (NOW, pytest.approx(2.5), pytest.approx(3.0))


def test_a_revised_forecast_moves_the_start_either_way() -> None:
    work = Work(rounds=1, seconds=HOUR)
    first = next_start(forecast(5, 4, 1, 6), NOW, 3 * HOUR, work, HOUR)
    assert first.at == NOW + 2 * HOUR
    later = NOW + HOUR
    assert next_start(forecast(4, 3, 2, start=later), later, 2 * HOUR, work, HOUR).at == later + 2 * HOUR
    assert next_start(forecast(4, 9, 9, start=later), later, 2 * HOUR, work, HOUR).at == later


def test_now_lies_within_a_step_of_the_forecast() -> None:
    steps = forecast(10, 1, 10, start=NOW - HOUR / 2)
    found = next_start(steps, NOW, 2 * HOUR, Work(rounds=1, seconds=HOUR), HOUR / 2)
    assert (found.at, found.mean) == (NOW + HOUR / 2, pytest.approx(1.0))


@pytest.mark.parametrize(
    "steps",
    [
        forecast(1, -1, 3),
        forecast(1, float("nan")),
        forecast(1, float("inf")),
        forecast(1, 2, start=NOW + 5),
        forecast(1, 2, start=NOW - 2 * HOUR),
        [*forecast(1, 2), *forecast(1, start=NOW + 3 * HOUR)],
        [*forecast(1, 2), *forecast(1, start=NOW + HOUR)],
        forecast(1, 2)[::-1],
        forecast(1, 2, seconds=-HOUR),
    ],
    ids=["negative", "nan", "inf", "ahead", "over", "gap", "overlap", "backwards", "negative steps"],
)
def test_a_forecast_that_cannot_be_is_refused(steps: list[Step]) -> None:
    with pytest.raises(EnvironmentFault, match="forecast"):
        start(steps, 10 * HOUR)


def test_a_long_run_over_a_long_forecast_is_quickly_planned() -> None:
    """A hundred thousand rounds, a month of five minutes, a year of slack: what lies behind the forecast is not laid
    out, and the work is bounded."""
    values = [float(i * 7919 % 997) for i in range(30 * 288)]
    found = start(forecast(*values, seconds=300.0), 365 * 24 * HOUR, rounds=100_000, seconds=30.0, step=300.0)
    assert found.at >= NOW
    assert found.mean is not None and found.at_once is not None and found.mean <= found.at_once


class Fixed:
    """A source that knows three hours from `NOW` on, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []

    def over(self, start: float, end: float) -> Rate:
        self.asked.append((start, end))
        return forecast(7)[0].rate

    def forecast(self, now: float, until: float) -> list[Step]:
        self.asked.append((now, until))
        return forecast(5, 4, 1)


def test_a_simulation_asks_in_its_own_time() -> None:
    source = Fixed()
    shifted = Shifted(source, NOW)
    steps = shifted.forecast(10.0, 3 * HOUR)
    assert [(step.start, step.end, step.rate.value) for step in steps] == [
        (0.0, HOUR, 5),
        (HOUR, 2 * HOUR, 4),
        (2 * HOUR, 3 * HOUR, 1),
    ]
    assert shifted.over(0.0, 60.0).value == 7
    assert source.asked == [(NOW + 10, NOW + 3 * HOUR), (NOW, NOW + 60)]
    assert next_start(steps, 0.0, 2 * HOUR, Work(rounds=1, seconds=HOUR), HOUR).at == 2 * HOUR
