"""Budgets of a run: what counts, when a run stops, and what it says; nothing negative, nothing silently zero."""

from __future__ import annotations

import itertools
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from clear_runs import DIMENSION, FakeFleet, config
from hours import HASH
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.config import RunConfig, loads
from fedsus.costs import Grams, Phase, Usage
from fedsus.errors import ConfigError, EnvironmentFault, RunFailed
from fedsus.journal.entries import AttemptAbandoned, AttemptOpened, Entry, RoundReleased, RunClosed
from fedsus.reporting import read
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.budgets import Budgets, tally
from fedsus.rounds.server_half.server import RunLoop
from fedsus.settings.budgets import RunBudget


def usage(joules: float, grams: float | None = None) -> Usage:
    priced = None
    if grams is not None:
        priced = Grams(value=grams, low=grams, high=grams, method="assumed", kind="average", source="test")
    parts: dict[Phase, float] = {"crypto": joules / 2, "communicate": joules / 2}
    return Usage(
        seconds=1.0, joules=parts, low=0.0, high=2 * joules, idle=1.0, method="modelled", source="t", boundary="t",
        grams=priced,
    )  # fmt: skip


@dataclass
class FakeMeter:
    """Uses so much an entry; notes its phases."""

    joules: float = 10.0
    grams: float | None = None
    fails: int = 0
    taken: int = 0
    phases: list[Phase] = field(default_factory=list)

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        self.phases.append(name)
        return nullcontext()

    def take(self) -> Usage | None:
        self.taken += 1
        if self.taken == self.fails:
            raise EnvironmentFault("the counter stopped")
        return usage(self.joules, self.grams)


def run(folder: Path, asked: RunConfig, meter: FakeMeter | None, fleet: FakeFleet | None = None) -> list[Entry]:
    ticks = itertools.count(1_700_000_000.0)
    open_run(folder, "r", asked, np.zeros(DIMENSION, np.float32), lambda: 1.7e9)
    RunLoop(folder, fleet or FakeFleet(), clock=lambda: next(ticks), sleep=lambda _: None, meter=meter).run()
    return read(folder)


def with_budget(asked: RunConfig, **budget: Any) -> RunConfig:
    return asked.model_copy(update={"budget": RunBudget(**budget)})


def attempt(number: int = 1, cohort: int = 3) -> AttemptOpened:
    return AttemptOpened(round=number, attempt=number, plan_digest=HASH, cohort=cohort, time=100.0 * number)


def released(number: int = 1, **changes: Any) -> RoundReleased:
    fields: dict[str, Any] = dict.fromkeys(("refused", "lost", "held_out", "bytes_sent", "bytes_received"), 0)
    fields |= {"round": number, "attempt": number, "survivors": 3, "metrics": None, "saturated": 0, "weight": 1.0}
    return RoundReleased(**(fields | {"checkpoint": HASH, "seconds": 2.0} | changes))


def abandoned(number: int = 1, **changes: Any) -> AttemptAbandoned:
    return AttemptAbandoned(round=number, attempt=number, reason="too few", time=100.0 * number + 5, **changes)


def test_the_server_and_the_reports_count_and_abandoned_attempts_too() -> None:
    entries = [
        attempt(1),
        released(1, server=usage(10, 1.0), costs={"joules": 100.0, "grams": 5.0, "devices": 3.0, "priced": 3.0}),
        attempt(2),
        abandoned(2, server=usage(4, 0.5)),
        attempt(3),
        released(3, server=usage(6, 0.25), costs={"joules": 50.0, "grams": 2.0, "devices": 3.0, "priced": 3.0}),
    ]
    found = tally(entries, RunBudget(), "joules")
    assert (found.server, found.reported, found.assumed, found.total) == (20, 150, 0, 170)
    assert (found.attempts, found.largest, found.silent) == (3, 110, frozenset())
    grams = tally(entries, RunBudget(), "grams")
    assert (grams.server, grams.reported, grams.total, grams.largest) == (1.75, 7.0, 8.75, 6.0)


def test_devices_that_report_nothing_are_assumed_or_said_to_be_left_out() -> None:
    entries = [attempt(1, 4), released(1, lost=1, server=usage(1)), attempt(2, 4), abandoned(2, server=usage(1))]
    found = tally(entries, RunBudget(device_watts=10.0, device_grams_per_kwh=360.0), "joules")
    assert found.assumed == 10 * 4 * 2.0 + 10 * 4 * 5.0  # seconds of the round; from asking to the abandonment
    assert found.silent == frozenset()
    grams = tally(entries, RunBudget(device_watts=10.0, device_grams_per_kwh=360.0), "grams")
    assert grams.assumed == pytest.approx(280 / 3.6e6 * 360)
    assert grams.silent == {"the server"}  # its joules have no price
    assert tally(entries, RunBudget(), "joules").silent == {"the devices"}
    part = [attempt(1), released(1, costs={"joules": 5.0, "grams": 0.0, "devices": 1.0, "priced": 0.0})]
    assert tally(part, RunBudget(device_watts=10.0), "joules").assumed == 10 * 2 * 2.0
    assert tally(part, RunBudget(), "joules").silent == {"the server", "devices that report nothing"}
    noised = [attempt(1), released(1, costs={"joules": 5.0, "grams": 0.0})]  # under DP nobody counts who reports
    assert tally(noised, RunBudget(device_watts=10.0), "joules").assumed == 0


def test_noised_reports_below_zero_neither_add_up_nor_become_negative() -> None:
    def sums(*joules: float) -> list[Entry]:
        pairs = [
            (attempt(n), released(n, server=usage(1), costs={"joules": j, "grams": j})) for n, j in enumerate(joules, 1)
        ]
        return list(itertools.chain.from_iterable(pairs))

    found = tally(sums(-50.0, 60.0, -5.0), RunBudget(), "joules")
    assert (found.reported, found.total) == (5.0, 8.0)
    assert tally(sums(-50.0, -3.0), RunBudget(), "joules").total == 2.0
    assert tally(sums(-50.0), RunBudget(), "joules").largest == 0.0


def test_a_run_stops_at_the_last_round_that_fits(tmp_path: Path) -> None:
    entries = run(tmp_path, with_budget(config(rounds=9), joules=35.0), FakeMeter(10.0))
    rounds = [entry for entry in entries if isinstance(entry, RoundReleased)]
    closed = entries[-1]
    assert isinstance(closed, RunClosed)
    assert [entry.round for entry in rounds] == [1, 2, 3]
    assert (closed.reason, closed.model) == ("stopped", rounds[-1].checkpoint)
    assert closed.because is not None and "\n" not in closed.because
    for part in ("[budget] joules is spent", "30 of 35 J", "server 30", "10 J", "not counted: the devices"):
        assert part in closed.because
    assert "epsilon" not in closed.because


@settings(max_examples=25, deadline=None)
@given(parts=st.lists(st.floats(0, 100), min_size=1, max_size=20), cap=st.floats(1, 500))
def test_no_run_goes_over_its_cap_but_by_growing_rounds(parts: list[float], cap: float) -> None:
    """Attempts are made while the largest one so far would fit: over the cap by no more than the last one grew."""
    entries: list[Entry] = []
    spent = largest = 0.0
    for number, part in enumerate(parts, 1):
        found = tally(entries, RunBudget(joules=cap), "joules")
        assert found.total == pytest.approx(spent) and found.largest == pytest.approx(largest)
        if found.attempts and found.total + found.largest > cap:
            break
        entries += [attempt(number), released(number, server=usage(part))]
        spent += part
        grew, largest = max(part - largest, 0.0), max(part, largest)
        assert spent <= cap + grew + 1e-9 or number == 1


def test_a_budget_below_one_round_says_so(tmp_path: Path) -> None:
    closed = run(tmp_path, with_budget(config(rounds=9), kwh=1e-6), FakeMeter(10.0))[-1]
    assert isinstance(closed, RunClosed) and closed.because is not None
    assert "[budget] kwh is spent" in closed.because and "no round fits" in closed.because


def test_a_run_that_never_released_anything_stops_without_a_model(tmp_path: Path) -> None:
    fleet = FakeFleet({1: dict.fromkeys("012", "lost")})
    closed = run(tmp_path, with_budget(config(rounds=2), joules=5.0), FakeMeter(10.0), fleet)[-1]
    assert isinstance(closed, RunClosed)
    assert (closed.reason, closed.model, closed.model_hash) == ("stopped", None, None)


def test_a_last_evaluation_that_does_not_fit_is_left_out(tmp_path: Path) -> None:
    entries = run(tmp_path, with_budget(config(rounds=2), joules=25.0), FakeMeter(10.0))
    assert [entry.round for entry in entries if isinstance(entry, RoundReleased)] == [1, 2]
    assert isinstance(entries[-1], RunClosed) and entries[-1].reason == "completed"


def test_a_resumed_run_counts_what_was_spent_before(tmp_path: Path) -> None:
    asked = with_budget(config(rounds=9), grams=3.5, device_watts=1e-9, device_grams_per_kwh=1.0)
    open_run(tmp_path, "r", asked, np.zeros(DIMENSION, np.float32), lambda: 1.7e9)
    ticks = itertools.count(1_700_000_000.0)

    def killed(entry: RoundReleased, _: Any) -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        loop = RunLoop(
            tmp_path, FakeFleet(), clock=lambda: next(ticks), sleep=lambda _: None, watch=killed,
            meter=FakeMeter(10.0, 1.0),
        )  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            loop.run()
    RunLoop(tmp_path, FakeFleet(), clock=lambda: next(ticks), sleep=lambda _: None, meter=FakeMeter(10.0, 1.0)).run()
    closed = read(tmp_path)[-1]
    assert isinstance(closed, RunClosed) and closed.because is not None
    assert closed.reason == "stopped" and "3 of 3.5 g CO2e" in closed.because


def test_attempts_that_are_spent_first_say_what_of_the_budget_was(tmp_path: Path) -> None:
    fleet = FakeFleet({2: dict.fromkeys("012", "lost")})
    with pytest.raises(RunFailed) as failed:
        run(tmp_path, with_budget(config(rounds=2, spare=0), joules=500.0), FakeMeter(10.0), fleet)
    assert "all 2 attempts of the run are spent, before 20 of 500 J of [budget] joules" in str(failed.value)


def test_epsilon_is_named_where_energy_is_spent_first() -> None:
    """And with attempts, where those are: noise is calibrated for all of them."""
    privacy = {"unit": "example", "epsilon": 8.0, "delta": 1e-5, "denominator": 80.0}
    plan = {"rounds": 9, "cohort": {"size": 3, "minimum": 3}, "privacy": privacy}
    asked = RunConfig.model_validate({"task": {"name": "heart"}, "plan": plan, "budget": {"joules": 15.0}})
    specification: Any = SimpleNamespace(
        config=asked, privacy=SimpleNamespace(unit="example"), epsilon=lambda attempts: 1.25 * attempts
    )
    entries = [attempt(1), abandoned(1, server=usage(1)), attempt(2), released(2, server=usage(9)), attempt(3)]
    found = Budgets(specification, entries)
    short = found.shortage()
    assert short is not None and "it came before epsilon, of which 3.750 of 8 are spent (planned)" in short
    assert found.beside().startswith(", and epsilon with them, before 10 of 15 J")


def test_a_budget_of_which_nobody_counts_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nobody counts"):
        run(tmp_path / "none", with_budget(config(rounds=1), joules=5.0), None)
    assert not any(isinstance(entry, AttemptOpened) for entry in read(tmp_path / "none"))
    run(tmp_path / "assumed", with_budget(config(rounds=1), joules=5e9 / 10, device_watts=1.0), None)


LEAST = 'task = { name = "heart" }\nplan = { rounds = 2, cohort = { size = 4, minimum = 3 } }\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('energy = { meter = "off" }\nbudget = { joules = 5.0 }', "nothing counts joules"),
        ("budget = { grams = 5.0 }", "budget.grams: nothing counts grams"),
        ('budget = { grams = 5.0 }\nenergy = { meter = "off" }\ncarbon = { country = "DEU" }', "nothing counts grams"),
        ("budget = { joules = 5.0, device_watts = 10.0 }\nschedule = { duration = 60.0 }", "2400 J"),
        ("budget = { device_grams_per_kwh = 300.0 }", "needs 'device_watts'"),
        ("budget = { joules = 0.0 }", "greater than 0"),
        ("budget = { joules = -3.0 }", "greater than 0"),
        ("budget = { kwh = inf }", "finite"),
        ("schedule = { slack_hours = -1.0 }", "greater than or equal to 0"),
        ('schedule = { policy = "cheapest" }', "cleanest"),
    ],
)
def test_budgets_that_cannot_be_meant_are_one_clear_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loads(LEAST + text, RunConfig, "run.toml")
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_the_meter_is_read_at_each_entry_by_phase(tmp_path: Path) -> None:
    meter = FakeMeter(10.0, 1.0)
    fleet = FakeFleet({1: dict.fromkeys("012", "lost")})
    entries = run(tmp_path, config(rounds=1), meter, fleet)
    ended = [entry for entry in entries if isinstance(entry, RoundReleased | AttemptAbandoned)]
    assert len(ended) == meter.taken == 3
    assert all(entry.server == usage(10.0, 1.0) for entry in ended)
    assert {"wait", "encode", "communicate"} == set(meter.phases)


def test_a_meter_that_fails_ends_the_run_after_the_round_that_was_released(tmp_path: Path) -> None:
    """What was learned and paid for is not lost for want of a figure; the figure is absent, not zero."""
    with pytest.raises(EnvironmentFault, match="counter stopped"):
        run(tmp_path, config(rounds=3), FakeMeter(10.0, fails=2))
    rounds = [entry for entry in read(tmp_path) if isinstance(entry, RoundReleased)]
    assert [entry.server is None for entry in rounds] == [False, True]


@pytest.mark.parametrize("lie", [RuntimeError("driver gone"), math.nan, -3.0, 1.7e308])
def test_a_meter_that_breaks_or_lies_loses_no_round_and_no_figure_is_made_of_it(
    tmp_path: Path, lie: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The journal refuses such numbers: written at a round's release, one would lose what was paid for."""

    class Broken(FakeMeter):
        def take(self) -> Usage | None:
            if isinstance(lie, Exception):
                raise lie
            return replace(usage(1.0), joules={"wait": lie})

    rounds = [entry for entry in run(tmp_path, config(rounds=2), Broken()) if isinstance(entry, RoundReleased)]
    assert [entry.round for entry in rounds] == [1, 2, 3]
    assert {entry.server for entry in rounds} == {None}
    assert "what this machine used is not known" in caplog.text


def test_without_a_meter_the_journal_is_silent(tmp_path: Path) -> None:
    entries = run(tmp_path, config(rounds=1), None)
    assert [entry.server for entry in entries if isinstance(entry, RoundReleased)] == [None, None]
