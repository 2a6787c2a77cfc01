"""What a round loop used between two entries: known as a whole or not at all, and asked for often in a long wait."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_meter import FakeMeter

from fedsus.costs import MOST_SOURCES, Usage
from fedsus.energy.priced import together
from fedsus.errors import EnvironmentFault
from fedsus.rounds.server_half.noting import UsageOf


@pytest.mark.parametrize("fault", [EnvironmentFault("no counter"), RuntimeError("driver gone")])
def test_an_interval_that_is_not_known_leaves_none_of_its_entry(fault: Exception) -> None:
    """The others would pass for the whole."""
    meter = FakeMeter()
    usage = UsageOf(meter)
    for failing in ((fault, None), (None, fault)):
        for each in failing:
            meter.use("wait", 1.0)
            meter.failing = each
            usage.mark()
        meter.failing = None
        assert usage.take() is None
        meter.use("wait", 4.0)
        taken = usage.take()
        assert taken is not None and taken.total >= 4.0, "the next entry is known again"


def test_a_long_wait_is_several_intervals_and_their_sum_is_the_entrys() -> None:
    slept, taken = list[float](), 0

    class Counted(FakeMeter):
        def take(self) -> Usage | None:
            nonlocal taken
            taken += 1
            return super().take()

    meter = Counted()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        meter.use("wait", seconds / 64)

    usage = UsageOf(meter)
    rest = usage.sleeping(sleep)
    for _ in range(26 * 60):
        rest(60.0)
    assert taken == 26 * 6
    found = usage.take()
    assert found is not None and found.total == sum(slept) / 64 == 26 * 3600 / 64
    assert found.source == "a fake"


def test_sources_that_come_and_go_are_named_once() -> None:
    meter = FakeMeter()
    one = two = meter.take()
    assert one is not None
    for number in range(50):
        two = together(two, replace(one, source=f"counter; model {number % 3}", boundary=f"part {number % 2}"))
    assert two is not None
    assert two.source == "a fake; counter; model 0; model 1; model 2"
    assert two.boundary == "nothing; part 0; part 1"
    assert len(two.source.split("; ")) <= MOST_SOURCES
