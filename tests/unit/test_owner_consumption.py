"""What a device used: counted once, told once, durable, and within the owner's day."""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from fake_meter import FakeMeter, stated
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.config import loads
from fedsus.costs import Costs, Usage
from fedsus.errors import ConfigError, CorruptionError, EnvironmentFault, Refusal
from fedsus.owner import days, folding
from fedsus.owner.consumption import BUSY_SECONDS, IDLE_SECONDS, Consumption
from fedsus.owner.day_budget import ASSUMED_INTENSITY, SitsOut
from fedsus.owner.energy_record import Attempt, history
from fedsus.owner.note_file import NoteFile
from fedsus.owner.policy import DayBudget, Policy
from fedsus_client.energy_views import Book

NOON = 1_800_014_400.0 - 1_800_014_400.0 % 86_400 + 43_200
RANGES = Costs(joules=1e6, grams=1e3).ranges(private=False)
UNCAPPED = DayBudget()


class Hands:
    """A device's hands: works on attempts, under a clock that is set by hand."""

    def __init__(self, folder: Path | None, now: float = NOON, **options: Any) -> None:
        self.now, self.meter = now, FakeMeter()
        self.path = None if folder is None else folder / "energy.jsonl"
        self.options = options
        self.start()

    def start(self) -> None:
        self.consumption = Consumption(self.meter, self.path, lambda: self.now, **self.options)

    def killed(self) -> None:
        """As by a signal that cannot be caught: nothing more is written, the lock is let go."""
        self.consumption._notes.close()
        self.meter.used.clear()

    def again(self) -> None:
        self.killed()
        self.start()

    def work(self, joules: float, run: str = "r", round: int = 1, attempt: int = 1) -> None:
        self.consumption.working(run, round, attempt)
        self.meter.use("train", joules)
        self.consumption.take()

    def report(self, run: str = "r", round: int = 1, attempt: int = 1) -> dict[str, float]:
        found = self.consumption.report(Attempt(run, round, attempt), RANGES)
        return dict(zip(RANGES, found.tolist(), strict=True))

    def today(self, budget: DayBudget = UNCAPPED) -> float:
        return self.consumption.standing(budget).today.total


def budget(**caps: Any) -> DayBudget:
    return DayBudget.model_validate(caps)


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelno >= logging.WARNING]


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


def test_a_kill_loses_no_more_than_what_was_not_due_and_an_unfinished_line_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hands = Hands(tmp_path)
    hands.work(1.0)
    hands.consumption.tick()
    hands.now += BUSY_SECONDS
    hands.meter.use("train", 2.0)
    hands.consumption.tick()
    hands.meter.use("train", 4.0)
    hands.consumption.take()
    hands.killed()
    assert hands.path is not None
    raw = hands.path.read_bytes()
    for cut in (1, len(raw) // 2, len(raw) - 1):
        hands.path.write_bytes(raw + raw[:cut].rstrip(b"\n"))
        hands.start()
        assert hands.today() == 3.0
        assert hands.path.read_bytes() == raw
        hands.killed()
    assert "an unfinished last line was cut off" in warnings(caplog)[0]


def test_what_waits_is_written_seldom(tmp_path: Path) -> None:
    hands = Hands(tmp_path)
    assert hands.path is not None
    for _ in range(int(IDLE_SECONDS) // 10 * 3):
        hands.now += 10
        hands.meter.use("wait", 1.0)
        hands.consumption.tick()
    assert [one.used.total for one in history(hands.path)] == [60.0, 60.0, 60.0]
    hands.consumption.close()
    assert hands.today() == hands.meter.taken


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b'{"prev":"0","seq":1,"type":"used","v":1}\n',
        json.dumps({"type": "used"}).encode() + b"\n",
    ],
)
def test_anything_else_that_is_broken_is_an_error(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "energy.jsonl").write_bytes(line)
    with pytest.raises(CorruptionError, match="energy.jsonl: line 1"):
        Hands(tmp_path)


@pytest.mark.parametrize(
    "entry",
    [
        {"type": "spent"},
        {"type": "used", "time": "today", "run": None},
        {"type": "used", "time": 1.0, "run": None, "round": None, "attempt": None, "used": {"joules": {"train": -1.0}}},
        {"type": "used", "time": 1.0, "run": None, "round": None, "attempt": None, "used": {"watts": 1.0}},
    ],
)
def test_a_chained_line_that_says_something_else_is_an_error(tmp_path: Path, entry: dict[str, Any]) -> None:
    notes = NoteFile(tmp_path / "energy.jsonl")
    notes.append(entry)
    notes.close()
    with pytest.raises(CorruptionError, match="energy.jsonl: line 1: not of this version"):
        Hands(tmp_path)


def test_the_record_is_read_while_it_is_written(tmp_path: Path) -> None:
    hands = Hands(tmp_path, price=stated)
    hands.work(3.0)
    hands.report()
    assert hands.path is not None
    with hands.path.open("ab") as file:
        file.write(b'{"half')
    (line,) = history(hands.path)
    assert (line.attempt, line.used.total, line.used.grams["average"].value) == (Attempt("r", 1, 1), 3.0, 3.0)
    assert history(tmp_path / "none") == []


def test_a_full_disk_fails_no_round_and_tells_nothing_that_it_could_tell_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = Hands(tmp_path)
    hands.work(1.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert hands.consumption.report(Attempt("r", 1, 1), RANGES).size == 0
        hands.consumption.join(UNCAPPED)
    assert warnings(caplog) == [f"energy is not recorded: {hands.path}: No space left on device"]
    assert hands.report(attempt=2)["joules"] == 1.0
    hands.again()
    assert hands.today() == 1.0


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
                hands.consumption.join(UNCAPPED)
        else:
            hands.consumption.join(UNCAPPED)
        hands.meter.failing = None
        hands.consumption.join(UNCAPPED)
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


def test_a_meter_that_is_off_tells_of_no_device() -> None:
    hands = Hands(None)
    hands.meter.off = True
    hands.work(1.0)
    assert set(hands.report().values()) == {0.0}


def test_before_the_first_round_a_device_joins_and_near_its_cap_it_sits_out_until_the_next_day() -> None:
    hands, cap = Hands(None), budget(joules=10.0)
    hands.consumption.join(cap)
    hands.work(4.0)
    hands.consumption.join(cap)
    hands.work(4.0, attempt=2)
    with pytest.raises(SitsOut) as refusal:
        hands.consumption.join(cap)
    day = days.named(hands.now + 86_400, "UTC")
    assert str(refusal.value) == (
        "[budget] joules: 8 J of 10 J of today are used, and the largest round so far took 4 J: "
        f"takes part again from {day} 00:00 (UTC)"
    )
    hands.now += 86_400 / 2 - 1
    with pytest.raises(SitsOut):
        hands.consumption.join(cap)
    hands.now += 1
    hands.consumption.join(cap)


def test_a_run_that_was_joined_and_waits_counts_as_a_round() -> None:
    hands, cap = Hands(None), budget(joules=10.0)
    hands.work(4.0)
    hands.consumption.join(cap, others=0)
    with pytest.raises(SitsOut):
        hands.consumption.join(cap, others=1)


def test_the_sum_of_an_attempts_lines_is_its_round() -> None:
    hands, cap = Hands(None), budget(joules=10.0)
    for _ in range(3):
        hands.work(2.0)
        hands.now += BUSY_SECONDS
    with pytest.raises(SitsOut, match="largest round so far took 6 J"):
        hands.consumption.join(cap)


def test_a_cap_below_one_round_says_so_and_the_largest_is_forgotten_after_a_month() -> None:
    hands, cap = Hands(None), budget(kwh=1e-6)
    hands.work(5.0)
    for _ in range(29):
        hands.now += 86_400
        hands.work(0.25, attempt=int(hands.now))
        with pytest.raises(
            SitsOut, match="joules: 3.6 J a day are less than one round, for the largest .* took 5 J: set"
        ):
            hands.consumption.join(cap)
    hands.now += 2 * 86_400
    hands.work(0.25, attempt=7)
    hands.consumption.join(cap)


def test_grams_are_capped_too_and_by_what_is_assumed_where_the_owner_allows(caplog: pytest.LogCaptureFixture) -> None:
    priced = Hands(None, price=stated)
    priced.work(6.0)
    with pytest.raises(SitsOut, match="grams: 6 g CO2e of 10 g CO2e of today"):
        priced.consumption.join(budget(grams=10.0))
    assumed = Hands(None)
    assumed.work(3.6e6)
    with pytest.raises(SitsOut, match=f"{ASSUMED_INTENSITY:.0f} g CO2e of 500 g"):
        assumed.consumption.join(budget(grams=500.0))
    assumed.consumption.join(budget(grams=1000.0))
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
    hands.consumption.join(budget(**caps))
    with pytest.raises(Refusal, match=reason) as refusal:
        hands.consumption.join(budget(missing="refuse", **caps))
    assert str(refusal.value).endswith('([budget] missing = "refuse")')
    hands.consumption.join(budget(missing="refuse")), "nothing is capped"


def test_no_day_gets_younger_and_none_lasts_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hands, cap = Hands(tmp_path), budget(joules=10.0)
    hands.work(8.0)
    hands.now -= 20 * 3600  # yesterday
    assert hands.today() == 8.0
    with pytest.raises(SitsOut):
        hands.consumption.join(cap)
    hands.now += 20 * 3600
    hands.now += 3650 * 86_400  # a wrong date, and
    hands.work(8.0, attempt=2)
    hands.consumption.write()
    hands.now -= 3650 * 86_400  # back again, also over a restart
    hands.again()
    with pytest.raises(SitsOut):
        hands.consumption.join(cap)
    hands.now += 86_400
    hands.consumption.join(cap)
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


def test_reports_are_empty_without_a_meter() -> None:
    consumption = Consumption.none()
    consumption.working("r", 1, 1)
    assert consumption.report(Attempt("r", 1, 1), RANGES).size == 0
    consumption.join(UNCAPPED)
    assert np.array_equal(consumption.report(Attempt("r", 1, 1), {}), [])


def test_a_long_record_is_folded_at_the_start_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = Hands(tmp_path, price=stated)
    assert hands.path is not None
    with monkeypatch.context() as quick:
        quick.setattr(os, "fsync", lambda _: None)
        for number in range(1, 241):  # five days, two runs
            hands.now += 1800
            run = "ab"[number % 2]
            hands.work(float(number), run, round=number, attempt=number)
            hands.report(run, round=number, attempt=number)
            if number not in (100, 239, 240):
                hands.consumption.certified(run, number)
            hands.meter.use("crypto", 0.5)
            hands.consumption.rest()
        hands.consumption.write()
    before = Book(hands.path, UNCAPPED, lambda: hands.now)
    told = hands.consumption._reports
    hands.killed()
    monkeypatch.setattr(folding, "_LONG", 20)
    long = hands.path.read_bytes()
    hands.start()
    hands.again()  # what was folded is read
    short = hands.path.read_bytes()
    assert len(short) < 0.9 * len(long)
    after = Book(hands.path, UNCAPPED, lambda: hands.now)
    assert after.days(30) == before.days(30)
    assert after.standing == before.standing
    assert hands.consumption._reports == told
    assert hands.consumption.standing(UNCAPPED).largest == before.standing.largest
    hands.again()
    assert hands.path.read_bytes() == short, "it is not folded again"
    hands.work(1.0)
    assert hands.report()["joules"] == 1.0


def test_a_crash_while_a_record_is_folded_leaves_it_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = NoteFile(tmp_path / "energy.jsonl")
    notes.append({"type": "told", "run": "r", "attempt": 1})
    before = (tmp_path / "energy.jsonl").read_bytes()
    with monkeypatch.context() as crash:
        crash.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(EnvironmentFault, match="Input/output error"):
            notes.replace([])
    assert (tmp_path / "energy.jsonl").read_bytes() == before
    notes.append({"type": "told", "run": "r", "attempt": 2})
    notes.close()
    assert len(NoteFile.read_only(tmp_path / "energy.jsonl")) == 2
