"""Rounds wait for cleaner hours: never longer than the slack, whatever clocks and forecasts do; then as ever."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import pytest
from hours import BEGAN, HASH, HOUR, Hours, Time
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.errors import EnvironmentFault
from fedsus.journal.entries import AttemptAbandoned, AttemptOpened, Entry, RoundReleased, RunOpened
from fedsus.rounds.server_half.postponing import Postponing, Stopwatch
from fedsus.settings.schedule import ScheduleSettings


def opened() -> RunOpened:
    return RunOpened(run="r", config={}, model_hash=HASH, checkpoint=HASH, fedsus_version="0", time=BEGAN)


def round_of(seconds: float, waited: float = 0.0, number: int = 1) -> list[Entry]:
    fields: dict[str, Any] = dict.fromkeys(("survivors", "refused", "lost", "held_out", "bytes_sent"), 1)
    fields |= {"metrics": None, "saturated": 0, "checkpoint": HASH, "bytes_received": 1, "weight": 1.0}
    return [
        AttemptOpened(round=number, attempt=number, plan_digest=HASH, cohort=3),
        RoundReleased(round=number, attempt=number, seconds=seconds, waited=waited, **fields),
    ]


def postponing(
    time: Time, intensity: Hours | None, slack: float, entries: Sequence[Entry] = (), **more: Any
) -> Postponing:
    asked = ScheduleSettings(policy="cleanest", slack_hours=slack, step_minutes=30.0, duration=HOUR)
    return Postponing(asked, intensity, time, time.sleep, entries=entries or [opened()], **more)


def test_it_waits_for_the_cleanest_hour_and_tells_until_when() -> None:
    time, told = Time(), list[tuple[float | None, str]]()
    waited = postponing(time, Hours(9, 5, 1, 7), 3, waits=lambda *said: told.append(said)).wait(1)
    assert (waited, time.now) == (2 * HOUR, BEGAN + 2 * HOUR)
    assert told == [(BEGAN + 2 * HOUR, "for a cleaner hour")] * 4 + [(None, "")]


def test_looking_at_the_forecast_is_no_wait() -> None:
    time, told = Time(tick=0.25), list[float | None]()
    assert postponing(time, Hours(1, 9, 9), 3, waits=lambda until, _: told.append(until)).wait(1) == 0.0
    assert (time.slept, told) == (0.0, [])


def test_immediate_is_immediate() -> None:
    time = Time()
    asked = ScheduleSettings(slack_hours=9, duration=HOUR)
    assert Postponing(asked, Hours(9, 1), time, time.sleep, entries=[opened()]).wait(1) == 0.0
    assert time.slept == 0.0


def test_what_was_waited_and_any_time_in_which_nobody_was_asked_uses_the_slack_up() -> None:
    entries = [opened(), *round_of(HOUR, waited=HOUR)]
    values = [9.0] * 9 + [1.0] * 9
    for now, left in ((2.0, 2.0), (3.0, 1.0), (4.0, 0.0), (40.0, 0.0)):  # an hour of work, one of waiting; down since
        time = Time(BEGAN + now * HOUR)
        falling = Hours(*[100.0 - hour for hour in range(60)])
        assert postponing(time, falling, 3, entries).wait(1) == left * HOUR, now
    late = Time(BEGAN + 8 * HOUR)
    assert postponing(late, Hours(*values), 6, entries).wait(1) == 0.0  # 9 would be cleaner, and is too late


def test_a_first_round_of_unknown_length_is_not_put_off(caplog: pytest.LogCaptureFixture) -> None:
    time = Time()
    asked = ScheduleSettings(policy="cleanest", slack_hours=9, step_minutes=30.0)
    entries: list[Entry] = [opened()]
    found = Postponing(asked, Hours(9, 5, 1, 7), time, time.sleep, entries=entries)
    with caplog.at_level(logging.INFO, "fedsus.server"):
        assert found.wait(2) == 0.0
    assert "duration" in caplog.text
    entries += round_of(0.5 * HOUR)
    time.now += 0.5 * HOUR
    assert found.wait(1) == 1.5 * HOUR  # at 2 h, by the length that was measured


@pytest.mark.parametrize("values", [(), (9.0, -1.0), (9.0, float("nan"))], ids=["none", "negative", "nan"])
def test_without_a_forecast_that_can_be_used_it_runs_at_once_and_says_so(
    caplog: pytest.LogCaptureFixture, values: tuple[float, ...]
) -> None:
    time = Time()
    with caplog.at_level(logging.INFO, "fedsus.server"):
        assert postponing(time, Hours(*values), 9).wait(1) == 0.0
        assert postponing(time, None, 9).wait(1) == 0.0
    assert caplog.text.count("rounds start at once") == 2


def test_a_source_that_fails_while_waiting_ends_the_wait() -> None:
    def revised(now: float) -> Sequence[float]:
        if now > BEGAN + HOUR:
            raise EnvironmentFault("no answer within 5 s")
        return 9, 8, 7, 1

    time = Time()
    assert postponing(time, Hours(revised=revised), 9).wait(1) == 1.5 * HOUR


def test_a_forecast_that_always_promises_better_costs_no_more_than_the_slack() -> None:
    """Each look shows a cleaner hour behind the one that was waited for."""

    def revised(now: float) -> Sequence[float]:
        return [100.0] * (int((now - BEGAN) // HOUR) + 1) + [1.0] * 100

    time = Time()
    assert postponing(time, Hours(revised=revised), 5).wait(1) == 5 * HOUR


@pytest.mark.parametrize("moves", [0.0, -HOUR, 0.5, -0.001], ids=["stands", "back", "slow", "creeps back"])
def test_a_lying_clock_adds_no_slack(moves: float) -> None:
    """By what it slept itself, no wait is longer than the slack, whatever the clock says meanwhile."""
    time = Time()
    time.moves = (lambda seconds: moves * seconds) if moves != -HOUR else (lambda _: -HOUR)
    falling = Hours(*[1000.0 - hour for hour in range(200)])
    waited = postponing(time, falling, 4).wait(1)
    assert 0 <= waited <= 4 * HOUR
    assert time.slept <= 4 * HOUR


def test_a_clock_that_jumps_ahead_uses_the_slack_up() -> None:
    time = Time()
    time.moves = lambda _: 50 * HOUR
    assert postponing(time, Hours(*[1000.0 - hour for hour in range(200)]), 4).wait(1) == 50 * HOUR
    assert time.slept == 0.5 * HOUR


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    slack=st.integers(0, 12),
    rounds=st.integers(1, 4),
    length=st.sampled_from([0.1, 0.5, 1.0, 1.7]),
)
def test_no_run_ends_later_than_its_deadline(values: list[int], slack: int, rounds: int, length: float) -> None:
    """Rounds of their true length, which no setting knows; the last is released within the slack."""
    time, entries = Time(), list[Entry]([opened()])
    found = postponing(time, Hours(*map(float, values)), slack, entries)
    total = 0.0
    for number in range(1, rounds + 1):
        waited = found.wait(rounds - number + 1)
        total += waited
        time.now += length * HOUR
        entries += round_of(length * HOUR, waited, number)
    assert total <= slack * HOUR + 1e-6
    assert time.now <= BEGAN + (rounds * length + slack) * HOUR + 1e-6


def test_stopwatches_tell_how_long_attempts_lasted() -> None:
    attempt = AttemptOpened(round=1, attempt=1, plan_digest=HASH, cohort=3, time=BEGAN + 5)
    abandoned = AttemptAbandoned(round=1, attempt=1, reason="too few", time=BEGAN + 12, virtual=30.0)
    entries: list[Entry] = [opened(), attempt, abandoned, *round_of(3.0)]
    watch, simulated = Stopwatch(), Stopwatch(virtual=True)
    assert [watch.feed(entry) for entry in entries] == [None, None, 7.0, None, 3.0]
    assert [simulated.feed(entry) for entry in entries] == [None, None, 30.0, None, 0.0]
    back = AttemptAbandoned(round=1, attempt=1, reason="clock set back", time=BEGAN)
    assert Stopwatch().feed(back) == 0.0
    watch.feed(attempt)
    assert watch.feed(back) == 0.0
