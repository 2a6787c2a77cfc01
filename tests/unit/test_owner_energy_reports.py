"""What a device tells of what it used: all of it, and once."""

from __future__ import annotations

import numpy as np
import pytest
from energy_hands import RANGES, UNCAPPED, Hands, warnings
from fake_meter import stated
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.costs import Costs, Usage
from fedsus.errors import EnvironmentFault
from fedsus.owner.consumption import Consumption
from fedsus.owner.energy_record import Attempt


def test_a_report_names_what_a_plan_names() -> None:
    hands = Hands(None, price=stated)
    hands.work(3.0)
    hands.meter.use("crypto", 0.5)
    found = hands.report()
    assert found == {
        "joules": 3.5,
        "grams": 3.5,
        "spread": (7.0 - 1.75) / 2,
        "devices": 1.0,
        "counted": 1.0,
        "priced": 1.0,
        **dict.fromkeys((f"joules_{phase}" for phase in ("load", "encode", "communicate", "wait", "evaluate")), 0.0),
        "joules_train": 3.0,
        "joules_crypto": 0.5,
    }
    private = Costs(joules=10.0, grams=1.0).ranges(private=True)
    hands.work(2.0)
    assert hands.consumption.report(Attempt("r", 2, 2), private).tolist() == [2.0, 2.0]


def test_what_is_modelled_is_not_counted_and_grams_of_a_part_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    def priced(usage: Usage, start: float, end: float) -> Usage:
        if hands.meter.method == "modelled":
            raise EnvironmentFault("the source is silent")
        return stated(usage, start, end)

    hands = Hands(None, price=priced)
    hands.work(1.0)
    hands.meter.method = "modelled"
    hands.work(2.0)
    found = hands.report()
    assert (found["joules"], found["counted"], found["priced"], found["grams"]) == (3.0, 0.0, 0.0, 0.0)
    assert warnings(caplog) == ["the carbon of energy is not known: the source is silent"]


def test_more_than_the_bound_is_left_to_the_mechanism_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    hands = Hands(None)
    hands.work(2e6)
    assert hands.report()["joules"] == 2e6
    assert "costs: joules 2e+06 is more than the plan's bound 1e+06: the bound is told" in warnings(caplog)


def test_a_certified_report_is_not_told_again_and_an_abandoned_one_is() -> None:
    hands = Hands(None)
    hands.work(1.0)
    assert hands.report(round=1, attempt=1)["joules"] == 1.0
    hands.work(2.0, attempt=2)
    assert hands.report(round=1, attempt=2)["joules"] == 3.0, (
        "the first attempt was abandoned: the round is asked again"
    )
    hands.consumption.certified("r", 1)  # of an attempt that is over
    hands.consumption.certified("r", 2)
    hands.consumption.certified("r", 2)
    hands.work(4.0, round=2, attempt=3)
    assert hands.report(round=2, attempt=3)["joules"] == 4.0
    hands.work(8.0, round=3, attempt=4)
    assert hands.report(round=3, attempt=4)["joules"] == 8.0, "round 2 ended without our seeing how: never twice"
    hands.consumption.withdrawn("r", 4)
    assert hands.report(round=4, attempt=5)["joules"] == 8.0, "it had not left"


def test_a_server_that_asks_a_round_again_and_again_does_not_see_one_devices_sums_grow() -> None:
    """Each attempt uses 4 J; of which the server may have opened the sum, without this device."""
    hands, found = Hands(None), []
    for attempt in range(1, 7):
        hands.work(4.0, attempt=attempt)
        found.append(hands.report(attempt=attempt)["joules"])
        if attempt == 4:
            hands.consumption.withdrawn("r", attempt)  # as by a deadline while it trains
    assert found == [4.0, 8.0, 4.0, 8.0, 12.0, 4.0]


def test_two_runs_and_none() -> None:
    hands = Hands(None)
    hands.meter.use("wait", 64.0)
    hands.consumption.rest()
    hands.work(1.0, run="a")
    hands.work(2.0, run="b")
    hands.work(4.0, run="a")
    hands.consumption.rest()
    hands.meter.use("wait", 128.0)
    hands.consumption.rest()
    assert hands.report(run="a")["joules"] == 5.0
    assert hands.report(run="b")["joules"] == 2.0
    assert hands.today() == 64 + 7 + 128


STEPS = st.one_of(
    st.tuples(st.just("work"), st.sampled_from("ab"), st.integers(1, 2**20)),
    st.tuples(
        st.sampled_from(["report", "next", "certified", "withdrawn", "killed"]), st.sampled_from("ab"), st.just(0)
    ),
)


@settings(max_examples=50)
@given(steps=st.lists(STEPS, max_size=40))
def test_no_joule_is_told_twice_and_none_is_lost_but_for_an_end_that_was_not_seen(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int]]
) -> None:
    """Whatever is certified or abandoned, in whatever order, also over restarts: told + under way + untold = used."""
    hands = Hands(tmp_path_factory.mktemp("energy"))
    used, told, unseen = dict.fromkeys("ab", 0.0), dict.fromkeys("ab", 0.0), dict.fromkeys("ab", 0.0)
    flying: dict[str, tuple[int, float, bool]] = {}
    repeated: set[str] = set()
    at = {run: [1, 0] for run in "ab"}
    for step, run, number in steps:
        round, attempt = at[run]
        match step:
            case "work":
                hands.work(number, run, round, attempt + 1)
                used[run] += number
            case "report":
                at[run][1] += 1
                before = flying.pop(run, None)
                again = before is not None and before[0] == round and not before[2]
                if before is not None and not again:
                    unseen[run] += before[1]
                flying[run] = round, hands.report(run, round, attempt + 1)["joules"], again or run in repeated
                repeated.discard(run)
            case "next":
                at[run][0] += 1
            case "certified":
                hands.consumption.certified(run, attempt)
                told[run] += flying.pop(run, (0, 0.0, False))[1]
            case "withdrawn":
                hands.consumption.withdrawn(run, attempt)
                repeated.update({run} if flying.pop(run, (0, 0.0, False))[2] else ())
            case "killed":
                hands.consumption.write()
                hands.again()
    hands.consumption.take()
    for run in "ab":
        under_way = flying.get(run, (0, 0.0, False))[1]
        left = hands.consumption._reports.untold.get(run)
        assert told[run] + unseen[run] + under_way + (left.total if left else 0.0) == used[run]
    hands.killed()


def test_a_meter_that_is_off_tells_of_no_device() -> None:
    hands = Hands(None)
    hands.meter.off = True
    hands.work(1.0)
    assert set(hands.report().values()) == {0.0}


def test_reports_are_empty_without_a_meter() -> None:
    consumption = Consumption.none()
    consumption.working("r", 1, 1)
    assert consumption.report(Attempt("r", 1, 1), RANGES).size == 0
    consumption.join(UNCAPPED, "r")
    assert np.array_equal(consumption.report(Attempt("r", 1, 1), {}), [])
