"""The owner's day: what a round is taken to use, when a device sits out, and until when."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from energy_hands import NOON, Hands, budget, warnings
from fake_meter import stated
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.config import loads
from fedsus.errors import ConfigError, Refusal
from fedsus.owner import days
from fedsus.owner.consumption import BUSY_SECONDS
from fedsus.owner.day_budget import ASSUMED_INTENSITY, SitsOut
from fedsus.owner.policy import Policy


def test_before_the_first_round_a_device_joins_and_near_its_cap_it_sits_out_until_the_next_day() -> None:
    hands, cap = Hands(None), budget(joules=10.0)
    hands.consumption.join(cap, "r")
    hands.work(4.0)
    hands.consumption.join(cap, "r")
    hands.work(4.0, attempt=2)
    with pytest.raises(SitsOut) as refusal:
        hands.consumption.join(cap, "r")
    day = days.named(hands.now + 86_400, "UTC")
    assert str(refusal.value) == (
        "[budget] joules: 8 J of 10 J of today are used, and a round takes 4 J: "
        f"takes part again from {day} 00:00 (UTC)"
    )
    hands.now += 86_400 / 2 - 1
    with pytest.raises(SitsOut):
        hands.consumption.join(cap, "r")
    hands.now += 1
    hands.consumption.join(cap, "r")


def test_a_run_that_was_joined_and_waits_counts_as_a_round() -> None:
    hands, cap = Hands(None), budget(joules=10.0)
    hands.work(4.0)
    hands.consumption.join(cap, "r", others=0)
    with pytest.raises(SitsOut, match="takes part again once these are over") as refusal:
        hands.consumption.join(cap, "r", others=1)
    assert refusal.value.hour is None, "today perhaps"
    hands.work(4.0, attempt=2)
    with pytest.raises(SitsOut, match="takes part again from") as refusal:
        hands.consumption.join(cap, "r", others=1)
    assert refusal.value.hour is not None, "not today, whatever the others take"


def test_the_sum_of_an_attempts_lines_is_its_round() -> None:
    hands, cap = Hands(None), budget(joules=10.0)
    for _ in range(3):
        hands.work(2.0)
        hands.now += BUSY_SECONDS
    with pytest.raises(SitsOut, match="and a round takes 6 J"):
        hands.consumption.join(cap, "r")


def test_a_cap_below_the_rounds_of_a_run_says_so_and_is_tried_again_after_a_month() -> None:
    hands, cap = Hands(None), budget(kwh=1e-6)
    hands.work(5.0)
    with pytest.raises(SitsOut, match=r"5 J of 3.6 J of today are used: takes part again from .* 00:00"):
        hands.consumption.join(cap, "r")
    hands.now += 86_400
    hands.consumption.join(cap, "r")  # one round may have been an accident
    hands.work(4.0, attempt=2)
    hands.consumption.rest()
    hands.now += 86_400
    for _ in range(28):
        with pytest.raises(SitsOut, match="3.6 J a day are less than one round, .* this run's last took 4 J: set"):
            hands.consumption.join(cap, "r")
        hands.meter.use("wait", 0.25)
        hands.consumption.rest()
        hands.now += 86_400
    hands.now += 2 * 86_400
    hands.consumption.rest()
    hands.consumption.join(cap, "r")


def test_one_huge_round_among_others_keeps_no_device_away() -> None:
    hands, cap = Hands(None), budget(joules=10.0)
    for attempt, joules in enumerate((2.0, 2.0, 500.0), 1):
        hands.consumption.join(cap, "r")
        hands.work(joules, attempt=attempt)
    with pytest.raises(SitsOut, match=r"504 J of 10 J of today are used: takes part again"):
        hands.consumption.join(cap, "r")
    hands.now += 86_400
    for attempt in range(4, 9):
        hands.consumption.join(cap, "r")
        hands.work(2.0, attempt=attempt)
    with pytest.raises(SitsOut):
        hands.consumption.join(cap, "r")


def test_three_of_four_large_rounds_do_count() -> None:
    hands, cap = Hands(None), budget(joules=100.0)
    for attempt, joules in enumerate((1.0, 30.0, 30.0, 30.0), 1):
        hands.work(joules, attempt=attempt)
    with pytest.raises(SitsOut, match="91 J of 100 J of today are used, and a round takes 30 J"):
        hands.consumption.join(cap, "r")


def test_another_runs_huge_rounds_are_no_guess_that_takes_more_than_half_a_day() -> None:
    hands, cap = Hands(None), budget(joules=10.0)
    for attempt in (1, 2, 3):
        hands.work(50.0, run="huge", attempt=attempt)
    hands.now += 86_400
    with pytest.raises(SitsOut, match="less than one round"):
        hands.consumption.join(cap, "huge")
    hands.consumption.join(cap, "new")
    hands.work(1.0, run="other")
    hands.work(4.5, run="other", attempt=2)
    with pytest.raises(SitsOut, match="5.5 J of 10 J"):
        hands.consumption.join(cap, "new")


def test_requests_that_came_to_no_training_say_nothing_of_a_round() -> None:
    """Else a server that asks often enough while a device sits out would make rounds look small."""
    hands, cap = Hands(None), budget(joules=10.0)
    hands.work(4.0)
    hands.work(4.0, attempt=2)
    for attempt in range(3, 30):
        hands.consumption.working("r", 1, attempt)
        hands.meter.use("crypto", 2**-10)
        hands.consumption.rest()
    with pytest.raises(SitsOut, match="and a round takes 4 J"):
        hands.consumption.join(cap, "r")


@settings(max_examples=25)
@given(
    rounds=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(1, 64) | st.integers(500, 2000), st.integers(0, 50_000)),
        max_size=24,
    )
)
def test_whatever_rounds_take_a_day_ends_above_its_cap_by_less_than_one(rounds: list[tuple[str, int, int]]) -> None:
    hands, cap = Hands(None), budget(joules=128.0)
    for number, (run, joules, later) in enumerate(rounds, 1):
        hands.now += later
        with contextlib.suppress(SitsOut):
            hands.consumption.join(cap, run)
            assert hands.today(cap) < 128
            hands.work(float(joules), run=run, attempt=number)
            assert hands.today(cap) < 128 + joules


def test_a_refusal_names_the_hour_after_the_owners_midnight() -> None:
    hands = Hands(None)
    hands.work(11.0)
    for zone, hours in (("UTC", 12), ("Asia/Kathmandu", 7), ("Asia/Kolkata", 7), ("America/Los_Angeles", 20)):
        with pytest.raises(SitsOut) as refusal:
            hands.consumption.join(budget(joules=10.0, zone=zone), "r")
        assert refusal.value.hour == NOON / 3600 + hours, "whole hours: 18:15 and 18:30 UTC are told as 19:00"
    with pytest.raises(SitsOut) as refusal:
        hands.consumption.join(budget(joules=10.0, tell_until=False), "r")
    assert refusal.value.hour is None
    hands.work(11.0, attempt=2)
    hands.now += 86_400
    with pytest.raises(SitsOut, match="less than one round") as refusal:
        hands.consumption.join(budget(joules=10.0), "r")
    assert refusal.value.hour is None, "no day has room for it"


def test_the_hour_is_of_the_clock_and_not_of_days_that_were_counted_on() -> None:
    hands, cap = Hands(None), budget(joules=10.0)
    hands.now += 3650 * 86_400  # a wrong date, mended
    hands.work(11.0)
    hands.now -= 3650 * 86_400
    with pytest.raises(SitsOut) as refusal:
        hands.consumption.join(cap, "r")
    assert refusal.value.hour == NOON / 3600 + 12


def test_grams_are_capped_too_and_by_what_is_assumed_where_the_owner_allows(caplog: pytest.LogCaptureFixture) -> None:
    priced = Hands(None, price=stated)
    priced.work(6.0)
    with pytest.raises(SitsOut, match="grams: 6 g CO2e of 10 g CO2e of today"):
        priced.consumption.join(budget(grams=10.0), "r")
    assumed = Hands(None)
    assumed.work(3.6e6)
    with pytest.raises(SitsOut, match=f"{ASSUMED_INTENSITY:.0f} g CO2e of 500 g"):
        assumed.consumption.join(budget(grams=500.0), "r")
    assumed.consumption.join(budget(grams=1000.0), "r")
    assert warnings(caplog) == ["[budget] grams: no carbon intensity is known: give [carbon] of agent.toml a source"]


@pytest.mark.parametrize(
    ("caps", "method", "off", "reason"),
    [
        ({"joules": 9.0}, "assumed", False, "joules are only assumed here"),
        ({"joules": 9.0}, "counter", True, "energy is not measured here"),
        ({"grams": 9.0}, "counter", False, "no carbon intensity is known"),
    ],
)
def test_a_missing_figure_refuses_where_the_owner_says_so(
    caps: dict[str, Any], method: Any, off: bool, reason: str
) -> None:
    hands = Hands(None)
    hands.meter.method, hands.meter.off = method, off
    hands.consumption.join(budget(**caps), "r")
    with pytest.raises(Refusal, match=reason) as refusal:
        hands.consumption.join(budget(missing="refuse", **caps), "r")
    assert str(refusal.value).endswith('([budget] missing = "refuse")')
    hands.consumption.join(budget(missing="refuse"), "r")  # nothing is capped


def test_no_day_gets_younger_and_none_lasts_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hands, cap = Hands(tmp_path), budget(joules=10.0)
    hands.work(8.0)
    hands.now -= 20 * 3600  # yesterday
    assert hands.today() == 8.0
    with pytest.raises(SitsOut):
        hands.consumption.join(cap, "r")
    hands.now += 20 * 3600
    hands.now += 3650 * 86_400  # a wrong date, and
    hands.work(8.0, attempt=2)
    hands.consumption.write()
    hands.now -= 3650 * 86_400  # back again, also over a restart
    hands.again()
    with pytest.raises(SitsOut):
        hands.consumption.join(cap, "r")
    hands.now += 86_400
    hands.consumption.join(cap, "r")
    texts = warnings(caplog)
    assert [text.split(":")[0] for text in texts] == ["the clock went back by 20 h", "the clock went back by 3650 days"]


@pytest.mark.parametrize(
    ("zone", "hours"), [("UTC", 12.0), ("Asia/Tokyo", 3.0), ("America/Los_Angeles", 20.0), ("Asia/Kathmandu", 6.25)]
)
def test_the_owners_zone_says_when_a_day_ends(zone: str, hours: float) -> None:
    hands, cap = Hands(None), budget(joules=10.0, zone=zone)
    hands.work(8.0)
    assert days.ends(NOON, zone) - NOON == hours * 3600
    hands.now += hours * 3600 - 1
    assert hands.today(cap) == 8.0
    hands.now += 1
    assert hands.today(cap) == 0.0


def test_days_with_a_change_of_clocks() -> None:
    spring, autumn = 1_774_742_400.0, 1_792_886_400.0  # 29 March and 25 October 2026, 00:00 UTC
    lengths = [
        days.ends(at + 3600, "Europe/Berlin") - days.begins(at + 3600, "Europe/Berlin") for at in (spring, autumn)
    ]
    assert lengths == [23 * 3600, 25 * 3600]


def test_policies_say_what_is_allowed() -> None:
    found = loads(
        '[budget]\nkwh = 0.5\ngrams = 100\nzone = "Europe/Berlin"\n[reports]\ncosts = false\n', Policy, "policy"
    )
    assert (found.budget.most_joules, found.budget.capped, found.reports.costs) == (1.8e6, True, False)
    assert (Policy().budget.capped, Policy().reports.costs) == (False, True)
    for text, reason in (
        ('[budget]\nzone = "Mars/Base"\n', "no time zone of that name"),
        ('[budget]\nzone = "Europe"\n', "no time zone of that name"),
        ("[budget]\njoules = 0\n", "budget.joules"),
        ("[budget]\ngrams = -1\n", "budget.grams"),
        ('[budget]\nmissing = "guess"\n', "budget.missing"),
    ):
        with pytest.raises(ConfigError, match=reason):
            loads(text, Policy, "policy")
