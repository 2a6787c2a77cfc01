"""What a receipt says, against sums by hand from the entries that the journal was given."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
from receipts import clear_run, costs, exact_run, example_run, private_run, usage

from fedsus.errors import ConfigError, CorruptionError
from fedsus.journal import NAME, AttemptOpened, Entry, RoundReleased, RunClosed, RunOpened
from fedsus.privacy import accounting
from fedsus.privacy.adversaries import spent
from fedsus.privacy.stated import alike, rounded, shown
from fedsus.reporting import noise, read, sci, summary
from fedsus.reporting.figures import Absent, Figure
from fedsus.reporting.figures import exact as exactly
from fedsus.reporting.predicate import Measured, Metric, Predicate, Statement, schema
from fedsus.reporting.receipt import head_of, make
from fedsus.reporting.statement import plain, statement
from fedsus.rounds.planning.specification import specification_of

ROOT = Path(__file__).parents[2]
SECOND = "b" * 64
ONE: Final = {"unit": "1", "method": "summed", "source": "a mean"}


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exact_run(tmp_path_factory.mktemp("exact")).folder


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return private_run(tmp_path_factory.mktemp("private")).folder


@pytest.fixture(scope="module")
def quiet(private: Path) -> list[Entry]:
    """The entries of the private run, as if its metrics and costs had a twentieth of the noise."""
    return quieter(private)


def quieter(folder: Path, factor: float = 20.0) -> list[Entry]:
    opened, *others = read(folder)
    assert isinstance(opened, RunOpened)
    config = json.loads(json.dumps(opened.config))
    config["privacy"]["shares"]["metrics"] /= factor**2
    return [replace(opened, config=config), *others]


def said(folder: Path, entries=None) -> Predicate:
    found = read(folder) if entries is None else entries
    return statement(found, head_of((folder / NAME).read_bytes())).predicate


def test_who_took_part_and_what_was_asked(exact: Path) -> None:
    found = said(exact)
    there = found.participation
    assert (there.survivors, there.refused, there.lost) == (15, 3, 0)
    assert (there.attempts, there.abandoned, there.cut_off) == (5, 1, 1)
    assert [(plan.round, plan.attempt, int(plan.digest, 16)) for plan in found.asked.plans] == [
        (1, 1, 1),
        (2, 2, 2),
        (2, 3, 3),
        (3, 4, 4),
        (3, 5, 5),
    ]
    assert "server" not in found.asked.configuration, "the operator's own files are nobody's business"
    assert found.run.status == "completed"
    assert found.time.waited.value == 60 * (1 + 2 + 3)
    assert found.secure_sum.colluders == 2
    assert found.secure_sum.threshold == 5
    assert found.budgets.ended_by == "all 3 rounds were released"


def test_joules_of_the_server_are_the_sums_of_its_entries(exact: Path) -> None:
    server = said(exact).energy.server
    assert server.total.value == pytest.approx(3.5 * 4)
    assert (server.total.low, server.total.high) == (pytest.approx(0.8 * 14), pytest.approx(1.2 * 14))
    assert server.phases["crypto"].value == pytest.approx(3.5 * 3)
    assert server.phases["crypto"].high == pytest.approx(1.2 * 3.5 * 3)
    assert set(server.phases) == {"crypto", "communicate"}, "a phase that nobody measured is absent, not 0"
    assert (server.covered, server.of, server.idle.value) == (4, 5, 80.0), "nobody noted the attempt that was cut off"


def test_joules_of_the_devices_without_dp(exact: Path) -> None:
    devices = said(exact).energy.devices
    assert devices.total.value == pytest.approx(150)
    assert devices.total.low == pytest.approx(135, abs=1e-3)
    assert devices.total.method == "assumed", "no report tells whether its model's watts were known"
    assert "6 of 15" in devices.total.source
    assert devices.phases["train"].value == pytest.approx(135)


def test_all_counters_make_a_counter(exact: Path) -> None:
    entries = [
        replace(entry, costs=costs() | {"counted": 5.0}) if isinstance(entry, RoundReleased) else entry
        for entry in read(exact)
    ]
    assert said(exact, entries).energy.devices.total.method == "counter"


def test_the_range_of_noised_reports_is_three_deviations(private: Path, quiet: list[Entry]) -> None:
    """The noise of the sum over three rounds, in joules, computed from the calibrated shares."""
    shares = specification_of(quiet[0]).privacy.shares
    one = math.sqrt(shares.metrics * 5) / 4096 * 1000.0
    devices = said(private, quiet).energy.devices
    assert devices.total.value == pytest.approx(51)
    assert devices.total.high - 51 == pytest.approx(3 * one * math.sqrt(3) + 3 * 5 / 2 / 4096 * 1000)
    assert devices.total.low == 0.0
    assert devices.phases == {}


def test_joules_and_metrics_are_told_with_their_noise_under_the_example_unit_too(tmp_path: Path) -> None:
    folder = example_run(tmp_path / "examples").folder
    entries = quieter(folder, 60.0)
    shares = specification_of(entries[0]).privacy.shares
    one, found = math.sqrt(shares.metrics * 5) / 4096, said(folder, entries)
    devices = found.energy.devices
    assert devices.total.value == pytest.approx(51)
    assert devices.total.high - 51 == pytest.approx(3 * one * 1000 * math.sqrt(3) + 3 * 5 / 2 / 4096 * 1000)
    accuracy = found.metrics["accuracy"].last.value
    assert accuracy.value == pytest.approx(0.8) and accuracy.high - 0.8 == pytest.approx(3 * one / 5)
    (goal,) = [loss for loss in said(folder).privacy.losses if loss.goal]
    assert (goal.unit, goal.adversary) == ("example", "server") and goal.epsilon <= 8.0
    assert any("one example may move all that its client tells" in line for line in goal.assumptions)


def test_a_noised_sum_below_zero_says_so(private: Path, quiet: list[Entry]) -> None:
    entries = [
        replace(entry, costs={"joules": -9.0, "grams": 0.1}) if isinstance(entry, RoundReleased) else entry
        for entry in quiet
    ]
    total = said(private, entries).energy.devices.total
    assert total.value == 0.0
    assert "below zero" in total.source


@pytest.mark.parametrize(("joules", "accuracy"), [(1e6, 25.0), (-1e6, -25.0)])
def test_no_noised_figure_goes_beyond_what_it_can_be(
    private: Path, quiet: list[Entry], joules: float, accuracy: float
) -> None:
    """Three rounds of five reports, of at most 1,000 J each; an accuracy of 0 to 1."""
    beyond = {"costs": {"joules": joules, "grams": joules}, "metrics": {"accuracy": accuracy, "loss": accuracy}}
    found = said(private, [replace(e, **beyond) if isinstance(e, RoundReleased) else e for e in quiet])
    end = float(joules > 0)
    total, last = found.energy.devices.total, found.metrics["accuracy"].last.value
    assert (total.low, total.value, total.high) == (15_000 * end,) * 3
    assert (last.low, last.value, last.high) == (end,) * 3
    assert found.carbon.operational[1].grams.high == 15 * end


def test_what_noise_hides_is_no_figure_and_nothing_is_made_of_it(private: Path) -> None:
    found = said(private)
    for name, of in (("accuracy", "0 to 1"), ("loss", "0 to 10")):
        assert re.search(rf"noise of \+-[0-9.]+ hides it: its range is {of}$", found.metrics[name].absent)
    assert re.search(r"noise of \+-11,[0-9]{3} J hides it: its range is 0 to 15,000 J", found.energy.devices.absent)
    server, devices = found.carbon.operational
    assert "its range is 0 to 15 g CO2e" in devices.grams.absent
    assert found.carbon.total == server.grams.model_copy(update={"source": found.carbon.boundary})
    assert "not known: devices (noise of" in found.carbon.boundary and "devices (noise of" in found.sci.boundary
    assert "accuracy is not known: noise of" in found.sci.per_accuracy_point.absent


def test_a_carbon_that_is_noise_alone_is_absent_with_its_rate(private: Path) -> None:
    entries = [replace(e, server=None) if hasattr(e, "server") else e for e in read(private)]
    found = said(private, entries)
    assert "devices: noise of" in found.carbon.total.absent and "noise of" in found.sci.per_round.absent
    assert found.carbon.boundary.startswith("no operational carbon is known; not known: server, devices (noise")


@pytest.mark.parametrize(("deviation", "gone"), [(0.249, False), (0.25, True), (0.0, False)])
def test_noise_hides_a_figure_where_95_percent_of_it_span_all_that_it_can_be(deviation: float, gone: bool) -> None:
    assert (noise.hidden(deviation, 0.0, 1.0) is not None) == gone


def test_curves_and_tables_of_a_run_hold_what_noise_does_not_hide(private: Path, quiet: list[Entry]) -> None:
    assert summary(private).metrics == {}
    whole = replace(summary(private), opened=quiet[0])
    assert whole.metrics == {e.round: e.metrics for e in quiet if isinstance(e, RoundReleased)}


def test_live_lines_tell_the_noise_or_that_it_hides(private: Path, quiet: list[Entry]) -> None:
    loud, low = (specification_of(entries[0]).first_plan for entries in (read(private), quiet))
    half = 2 * math.sqrt(low.privacy.shares.metrics * 5) / 4096 / 5
    asked = {"loss": 2.0, "accuracy": 7.5}
    assert noise.live(low, asked, 5) == [f"loss 2 (noise +-{10 * half:.2g})", f"accuracy 1 (noise +-{half:.2g})"]
    assert noise.live(loud, asked, 5) == ["loss: hidden by noise", "accuracy: hidden by noise"]
    assert noise.live(None, asked, 5) == ["loss 2", "accuracy 7.5"]


def test_rounds_that_noise_does_not_hide_are_told(private: Path) -> None:
    """One survivor alone has five times the noise in the mean, less a root: only the last is told."""
    entries = quieter(private, 4.0)
    few = [replace(e, survivors=1) if isinstance(e, RoundReleased) and e.round < 3 else e for e in entries]
    found = said(private, few).metrics["accuracy"]
    assert (found.first.round, found.best.round) == (3, 3)


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ({}, "it had no meter"),
        ({"energy": {"meter": "off"}}, "its meter was switched off"),
        (
            {"carbon": {"country": "FRA", "missing": "refuse"}},
            r'no figure was there, and \[carbon\] missing = "refuse"',
        ),
    ],
)
def test_why_a_server_noted_no_energy_is_what_the_journal_tells(exact: Path, tables: dict[str, Any], why: str) -> None:
    opened, *others = [replace(e, server=None) if hasattr(e, "server") else e for e in read(exact)]
    run = {**opened.config["run"], **tables}
    found = said(exact, [replace(opened, config={**opened.config, "run": run}), *others])
    assert re.search(why, found.energy.server.absent)


def test_what_nobody_measured_is_absent_with_a_reason(tmp_path: Path) -> None:
    found = said(clear_run(tmp_path).folder)
    for part in (found.energy.server, found.energy.devices, found.energy.network, found.carbon.total, found.secure_sum):
        assert isinstance(part, Absent)
    assert isinstance(found.sci.per_round, Absent)
    assert found.carbon.operational == ()


def test_carbon_and_its_rate(exact: Path) -> None:
    found = said(exact)
    server, devices = found.carbon.operational
    assert server.grams.value == pytest.approx(3 * 4 / 3.6e6 * 300), "the abandoned attempt has no intensity"
    assert (server.covered, server.of) == (3, 5)
    assert "in part: server (3 of 5), devices (12 of 15)" in found.carbon.boundary
    assert devices.grams.value == pytest.approx(0.012)
    assert (devices.covered, devices.of) == (12, 15)
    total = server.grams.value + devices.grams.value
    assert found.carbon.total.value == pytest.approx(total)
    assert found.sci.per_round.value == pytest.approx(total / 3)
    assert found.sci.per_accuracy_point.value == pytest.approx(total / 20), "accuracy rose from 0.6 to 0.8"
    assert "left out" in found.sci.boundary


def test_a_rise_of_accuracy_that_may_be_noise_has_no_rate(private: Path) -> None:
    found = said(private, quieter(private, 4.0))
    assert found.metrics["accuracy"].last.value.value > found.metrics["accuracy"].first.value.value
    assert isinstance(found.sci.per_round, Figure)
    assert "may be the noise" in found.sci.per_accuracy_point.absent


def test_noise_in_the_accuracy_widens_the_rate(exact: Path) -> None:
    """From 50 to 80 points, each give or take 6, at 30 g: 1 g a point, within 30 / 42 and 30 / 18."""
    first, last = (Measured(round=1, value=Figure(value=v, low=v - 0.06, high=v + 0.06, **ONE)) for v in (0.5, 0.8))
    found = sci._per_point(
        exactly(30.0, "g CO2e", "x"), {"accuracy": Metric(first=first, last=last, best=last, better="higher")}
    )
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 30 / 42, 30 / 18))


def test_a_clock_that_was_set_back_is_said_and_makes_no_time_zero(exact: Path) -> None:
    entries = read(exact)
    straight = said(exact, entries)
    late = [replace(entry, time=entry.time - 3600.0 * (at > 2)) for at, entry in enumerate(entries)]
    found = said(exact, late)
    assert straight.time.run.value == 7.0 * (len(entries) - 1)
    assert found.time.run.value == 7.0 * (len(entries) - 2), "all steps but the one back"
    assert "at least: the clock was set back" in found.time.run.source
    assert "set back" not in straight.time.run.source


@pytest.mark.parametrize(
    "change", [{"survivors": 10**400}, {"lost": 10**400}, {"bytes_sent": 10**400}, {"seconds": 1.7e308}]
)
def test_numbers_that_no_sum_can_hold_are_one_line(exact: Path, change: dict[str, Any]) -> None:
    entries = [replace(entry, **change) if isinstance(entry, RoundReleased) else entry for entry in read(exact)]
    with pytest.raises(CorruptionError, match="^journal: no receipt can say it: .*") as found:
        said(exact, entries)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("part", ["dimension", "run", "privacy", "roster"])
def test_a_first_entry_that_holds_something_else_is_one_line(exact: Path, part: str) -> None:
    opened, *others = read(exact)
    assert isinstance(opened, RunOpened)
    with pytest.raises(CorruptionError, match="configuration cannot be read"):
        said(exact, [replace(opened, config=opened.config | {part: [None]}), *others])


def test_however_many_sources_there_are_they_are_told_and_add_up(exact: Path) -> None:
    """A run of 40 intervals, each with a source of its own, long or empty."""
    first, *_ = read(exact)
    entries = [first]
    for n in range(1, 41):
        grams = replace(usage().grams, source="" if n == 1 else f"{n} " + "x" * 5000)
        entries.append(AttemptOpened(round=n, attempt=n, plan_digest=SECOND, cohort=6, time=1e9))
        last = next(entry for entry in read(exact) if isinstance(entry, RoundReleased))
        entries.append(replace(last, round=n, attempt=n, server=usage(source=f"meter {n}", grams=grams)))
    found = said(exact, entries)
    assert len(found.carbon.operational) == 8 + 1 + 1, "eight by name, the others, the devices"
    total = sum(line.grams.value for line in found.carbon.operational if line.machine == "server")
    assert total == pytest.approx(40 * 4 / 3.6e6 * 300)
    assert "and 32 more" in found.energy.server.total.source
    assert "server (" not in found.carbon.boundary, "together they cover every interval"


def test_bytes_by_phase_and_what_is_not_known_of_them(exact: Path) -> None:
    traffic = said(exact).traffic
    assert traffic.phases["advertise"].sent.value == 4 * 1000
    assert traffic.phases["contribute"].received.value == 3 * 6000
    assert traffic.total.sent.value == 3 * 10_500 + 1000
    assert traffic.total.received.value == 3 * 7_900 + 800
    assert traffic.unknown == 1, "the attempt that a crash cut off"


def test_metrics_first_last_and_best(exact: Path, private: Path, quiet: list[Entry]) -> None:
    found = said(exact).metrics
    assert (found["loss"].first.value.value, found["loss"].best.round, found["loss"].better) == (1.0, 3, "lower")
    assert (found["accuracy"].last.value.value, found["accuracy"].better) == (pytest.approx(0.8), "higher")
    assert found["accuracy"].last.value.low == found["accuracy"].last.value.high
    noised = said(private, quiet).metrics["accuracy"].last.value
    shares = specification_of(quiet[0]).privacy.shares
    assert noised.high - noised.value == pytest.approx(3 * math.sqrt(shares.metrics * 5) / 4096 / 5)


def test_epsilon_is_of_all_attempts_against_each_adversary(private: Path) -> None:
    entries = read(private)
    specification = specification_of(entries[0])
    events = spent(specification.first_plan, 5)
    losses = {(loss.unit, loss.adversary): loss for loss in said(private).privacy.losses}
    assert losses.keys() == events.keys()
    for key, loss in losses.items():
        found = accounting.epsilon(events[key], 1e-5)
        assert found <= loss.epsilon < found * (1 + 2e-4)
        assert loss.assumptions
    assert losses["client", "server"].goal
    assert sum(loss.goal for loss in losses.values()) == 1
    fewer = [e for e in entries if not (isinstance(e, AttemptOpened) and e.attempt > 3)][:7]
    assert said(private, fewer).privacy.losses[2].epsilon < losses["client", "server"].epsilon


def test_a_run_that_asked_nobody_spent_nothing(private: Path) -> None:
    entries = [read(private)[0], RunClosed(reason="stopped", model=None, because="the operator stopped it", time=2e9)]
    found = statement(entries, SECOND)
    assert {loss.epsilon for loss in found.predicate.privacy.losses} == {0.0}
    assert found.subject[0].name == "journal"
    assert isinstance(found.predicate.model, Absent)
    assert found.predicate.budgets.ended_by == "the operator stopped it"


@pytest.mark.parametrize("number", [0.0, 1.0, 2.999999999, 3.00001, 19.5375001, 1e-9, 123456.7])
def test_an_epsilon_is_written_rounded_up_and_no_other_number_passes(number: float) -> None:
    up = rounded(number)
    assert number <= up <= number * (1 + 1.01e-4)
    assert alike(up, number)
    for other in (math.nextafter(up, math.inf), math.nextafter(up, -1), up * 1.0001 + 1e-9, -1.0, int(up), str(up)):
        assert not alike(other, number)
    assert rounded(math.inf) == "infinite"
    assert alike("infinite", math.inf)
    assert not alike("infinite", number)


def test_an_epsilon_is_shown_rounded_up_everywhere() -> None:
    assert (shown(6.7551), shown(2.4907), shown(12.31), shown(0.01234)) == ("6.756", "2.491", "12.4", "0.013")
    assert shown(math.inf) == "inf"


def test_no_figure_outside_its_range() -> None:
    with pytest.raises(ValueError, match="is not between"):
        Figure(value=1.0, low=2.0, high=3.0, unit="J", method="counter", source="x")


def test_a_receipt_is_of_a_run_that_is_over(exact: Path, tmp_path: Path) -> None:
    from receipts import OPERATOR

    raw = (exact / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(raw[: raw[:-1].rindex(b"\n") + 1])
    with pytest.raises(ConfigError, match=r"the run is not over.*fedsus server stop"):
        make(tmp_path, OPERATOR)
    assert said(tmp_path).run.status == "open", "a report of it may still be made"


def test_the_schema_in_the_docs_is_the_one_that_the_code_makes() -> None:
    assert json.loads((ROOT / "docs" / "receipt.schema.json").read_text()) == schema()


def test_receipts_fit_the_schema_and_it_refuses_others(exact: Path, private: Path) -> None:
    check = jsonschema.Draft202012Validator(schema())
    for folder in (exact, private):
        data = plain(statement(read(folder), SECOND, SECOND))
        check.validate(data)
        assert Statement.model_validate_json(json.dumps(data)).predicate.operator == SECOND
        data["predicate"]["time"]["run"]["unit"] = 3
        assert not check.is_valid(data)
