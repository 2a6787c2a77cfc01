"""Meters and prices that fail or lie: what they leave out is marked, and fails no round."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from energy_hands import UNCAPPED, Hands, warnings
from fake_meter import stated

from fedsus.costs import Usage
from fedsus.errors import Refusal


def test_a_meter_that_fails_is_marked_and_refuses_where_the_owner_says_so(caplog: pytest.LogCaptureFixture) -> None:
    for refuse in ((), ("meter", "carbon")):
        hands = Hands(None, refuse=refuse)
        hands.meter.failing = RuntimeError("driver\ngone")
        hands.now += 30
        with hands.consumption.phase("train"):
            pass
        hands.consumption.take()
        hands.consumption.take()
        assert hands.consumption.standing(UNCAPPED).today.unmeasured == 30
        if refuse:
            with pytest.raises(Refusal, match=r'RuntimeError: driver gone \(\[energy\] missing = "refuse"\)'):
                hands.consumption.join(UNCAPPED, "r")
        else:
            hands.consumption.join(UNCAPPED, "r")
        hands.meter.failing = None
        hands.consumption.join(UNCAPPED, "r")
    assert warnings(caplog) == ["energy is not measured: RuntimeError: driver gone"] * 2


@pytest.mark.parametrize(
    "lie",
    [
        {"joules": {"train": -5.0}},
        {"joules": {"train": math.nan}},
        {"joules": {"train": 1.7e308}},
        {"seconds": -1.0},
        {"high": math.inf},
    ],
)
def test_a_figure_that_no_meter_can_measure_is_not_written_where_it_would_break_the_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lie: dict[str, Any]
) -> None:
    hands = Hands(tmp_path)
    honest = hands.meter.take
    with patch.object(hands.meter, "take", lambda: replace(honest(), **lie)):
        hands.work(2.0)
        assert set(hands.report().values()) == {0.0}, "it is not told either"
    hands.work(3.0, attempt=2)
    assert hands.report(attempt=2)["joules"] == 3.0
    hands.again()
    assert hands.today() == 3.0
    assert warnings(caplog) == ["energy is not measured: a figure that is NaN, negative or beyond any machine"]


def test_a_price_that_none_can_be_is_not_known() -> None:
    def priced(usage: Usage, start: float, end: float) -> Usage:
        found = stated(usage, start, end)
        return replace(found, grams=replace(found.grams, low=-math.inf))

    hands = Hands(None, price=priced)
    hands.work(2.0)
    assert (found := hands.report())["joules"] == 2.0
    assert (found["grams"], found["priced"]) == (0.0, 0.0)


def test_sources_of_a_sum_stay_few_however_many_faults_are_in_it() -> None:
    def priced(usage: Usage, start: float, end: float) -> Usage:
        found = stated(usage, start, end)
        return replace(found, grams=replace(found.grams, source=f"a number; held since {start:.0f}"))

    hands = Hands(None, price=priced)
    for _ in range(50):
        hands.now += 60
        hands.work(1.0)
    found = hands.consumption.standing(UNCAPPED).today.grams["average"].source.split("; ")
    assert (len(found), found[0], found[-1]) == (12, "a number", "and others")
