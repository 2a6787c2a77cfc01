"""Sums that are made late are those that are made at once; a device without caps reads its meter once a round."""

from __future__ import annotations

import pytest
from fake_meter import FakeMeter

from fedsus.costs import Usage
from fedsus.owner.consumed import NOTHING, Consumed
from fedsus.owner.consumption import Consumption
from fedsus.owner.energy_record import Attempt
from fedsus.owner.policy import DayBudget
from fedsus.owner.tallies import Tallies


def usage(joules: float) -> Usage:
    return Usage(
        seconds=1.0,
        joules={"train": joules},
        low=joules / 2,
        high=joules * 2,
        idle=1.0,
        method="assumed",
        source="a number",
        boundary="nothing",
    )


def test_what_is_added_up_late_is_what_is_added_up_at_once() -> None:
    late, once = Tallies(), Tallies()
    for number in range(1, 101):
        attempt = None if number % 5 == 0 else Attempt("a" if number % 3 else "b", number, number)
        used = Consumed(unmeasured=2.0) if number % 7 == 0 else usage(float(number))
        late.add(900.0 * number, attempt, used)
        once.add(900.0 * number, attempt, used)
        assert once.recent.quarters and once.latest != NOTHING
        assert len(late._waiting) <= 32
    assert late.busy and once.busy
    assert late.recent == once.recent
    assert late.reports == once.reports
    assert late.unwritten == once.unwritten
    assert late.latest == once.latest
    total = sum(number for number in range(1, 101) if number % 7)
    assert sum(used.total for used in late.unwritten.values()) == pytest.approx(total)


def test_what_belongs_to_no_run_makes_nobody_busy() -> None:
    tallies = Tallies()
    tallies.add(1.0, None, usage(1.0))
    assert not tallies.busy
    tallies.add(2.0, Attempt("a", 1, 1), usage(1.0))
    assert tallies.busy
    tallies.unwritten.clear()
    assert not tallies.busy


def test_joining_without_caps_leaves_what_was_used_to_the_attempt() -> None:
    meter = FakeMeter()
    consumption = Consumption(meter, None, lambda: 1e9)
    with consumption.phase("communicate"):
        pass
    consumption.join(DayBudget(), "a")
    consumption.working("a", 1, 1)
    with consumption.phase("train"):
        pass
    assert meter.taken == 0
    consumption.rest()
    assert meter.taken == 2.0
    (told,) = consumption._reports.untold.items()
    assert told[0] == "a" and told[1].joules == {"communicate": 1.0, "train": 1.0}


def test_joining_with_a_cap_reads_the_meter_first() -> None:
    meter = FakeMeter()
    consumption = Consumption(meter, None, lambda: 1e9)
    with consumption.phase("communicate"):
        pass
    consumption.join(DayBudget(joules=100.0), "a")
    assert meter.taken == 1.0
    assert consumption.standing(DayBudget(joules=100.0)).today.total == 1.0
