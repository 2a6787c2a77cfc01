"""Usages with their carbon, and sums of usages: nothing is priced by another hour, nothing unpriced is hidden."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import pytest

from fedsus.costs import Grams, Phase, Usage
from fedsus.energy.grid.intensity import Rate, Step
from fedsus.energy.priced import PricedMeter, together
from fedsus.errors import EnvironmentFault


def usage(joules: float, grams: Grams | None = None, source: str = "one") -> Usage:
    parts: dict[Phase, float] = {"crypto": joules} if joules else {}
    return Usage(
        seconds=2.0,
        joules=parts,
        low=joules / 2,
        high=joules * 2,
        idle=1.0,
        method="counter",
        source=source,
        boundary="b",
        grams=grams,
    )


def grams(value: float, **changes: str) -> Grams:
    found = Grams(value=value, low=value, high=value, method="modelled", kind="average", source="s")
    return replace(found, **changes)  # type: ignore[arg-type]


class Fixed:
    """A meter of so many joules a take; None is off."""

    def __init__(self, joules: float | None) -> None:
        self.joules = joules

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        return nullcontext()

    def take(self) -> Usage | None:
        return None if self.joules is None else usage(self.joules)


class Growing:
    """An intensity that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []

    def over(self, start: float, end: float) -> Rate:
        if end > 100:
            raise EnvironmentFault("no figure")
        self.asked.append((start, end))
        return Rate(value=end, low=0.0, high=2 * end, method="assumed", kind="marginal", source="test")

    def forecast(self, now: float, until: float) -> list[Step]:
        return []


def test_each_interval_is_priced_by_its_own_hours() -> None:
    times, intensity = iter([10.0, 20.0, 36.0, 200.0]), Growing()
    meter = PricedMeter(Fixed(3.6e6), intensity, lambda: next(times))
    first, second = meter.take(), meter.take()
    assert intensity.asked == [(10.0, 20.0), (20.0, 36.0)]
    assert first is not None and first.grams is not None and second is not None and second.grams is not None
    assert (first.grams.value, second.grams.value) == (20.0, 36.0)
    assert (first.grams.low, first.grams.high) == (0.0, 80.0)
    assert (first.grams.method, first.grams.kind) == ("assumed", "marginal")
    with pytest.raises(EnvironmentFault, match="no figure"):
        meter.take()


def test_a_meter_that_is_off_and_an_intensity_that_is_unknown_stay_absent() -> None:
    assert PricedMeter(Fixed(None), Growing(), lambda: 1.0).take() is None
    unpriced = PricedMeter(Fixed(5.0), None, lambda: 1.0).take()
    assert unpriced is not None and unpriced.grams is None and unpriced.total == 5.0


def test_two_intervals_are_one() -> None:
    found = together(usage(4.0, grams(1.0)), replace(usage(6.0, grams(2.0, method="assumed"), "two"), method="assumed"))
    assert found is not None and found.grams is not None
    assert (found.seconds, found.total, found.low, found.high, found.idle) == (4.0, 10.0, 5.0, 20.0, 2.0)
    assert (found.method, found.source, found.boundary) == ("assumed", "one; two", "b")
    assert (found.grams.value, found.grams.method) == (3.0, "assumed")


def test_what_is_absent_of_one_interval_is_neither_zero_nor_lost() -> None:
    assert together(None, None) is None
    assert together(usage(4.0), None) == together(None, usage(4.0)) == usage(4.0)
    for one, other in ((usage(4.0), usage(6.0, grams(2.0))), (usage(4.0, grams(1.0, kind="marginal")), usage(6.0))):
        for found in (together(one, other), together(other, one)):
            assert found is not None and found.grams is None and found.total == 10.0
    slept = together(usage(0.0), usage(6.0, grams(2.0)))  # nothing was used, so that nothing is unpriced
    assert slept is not None and slept.grams == grams(2.0)
    mixed = together(usage(1.0, grams(1.0, kind="marginal")), usage(1.0, grams(1.0)))
    assert mixed is not None and mixed.grams is None
