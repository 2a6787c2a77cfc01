"""The simulation of cleaner hours: what its runs know, when they start, and how what they save is counted."""

from __future__ import annotations

import gzip
from array import array
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.energy.grid.series import Series, load_series
from fedsus.energy.grid.series_files import Row, read
from fedsus.errors import ConfigError, EnvironmentFault, RunFailed
from fedsus_simulations.benchmarks import carbon_beyond, carbon_hours, carbon_traces
from fedsus_simulations.benchmarks.carbon_hours import Saved
from fedsus_simulations.benchmarks.carbon_policies import POLICIES, Asked, Job, immediate
from fedsus_simulations.benchmarks.carbon_traces import Known, Oracle, Trace

HOUR = 3600.0
T0 = carbon_traces._MADE_START
SMALL = carbon_traces.made("small", 3, days=6)


def hourly(*values: float, ahead: int = 0) -> Trace:
    """A trace of hours whose forecasts are right."""
    found = np.array(values)
    wide = np.stack([np.append(found[k:], np.full(k, found[-1])) for k in range(1, ahead + 1)], axis=1) if ahead else []
    return Trace("hours", T0 + np.arange(len(values)) * HOUR, found, np.reshape(wide, (len(values), ahead)))


def written(folder: Path, trace: Trace, zone: str) -> None:
    """As the real files are, two of them."""
    rows = [
        f"{datetime.fromtimestamp(time, UTC)},{','.join(repr(float(v) / 1000) for v in (value, *ahead))}"
        for time, value, ahead in zip(trace.times, trace.values, trace.ahead, strict=True)
    ]
    header = ",".join(["time", "moer", *(f"f{k}" for k in range(1, trace.ahead.shape[1] + 1))])
    for month, part in (("01", rows[: len(rows) // 2]), ("02", rows[len(rows) // 2 :])):
        path = folder / carbon_traces.FILES.format(zone).replace("*", f"2021-{month}")
        path.write_bytes(gzip.compress("\n".join([header, *part]).encode(), compresslevel=1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trace")
    for seed, zone in enumerate(carbon_traces.ZONES, 1):
        written(folder, carbon_traces.made(zone, seed, days=4), zone)
    return folder


@pytest.fixture(scope="module")
def series(folder: Path) -> Series:
    return load_series(carbon_traces.settings("PGE"), "marginal", 0.1, folder)


def test_a_run_knows_what_a_server_would_with_the_same_files(folder: Path, series: Series) -> None:
    """Step by step and number by number; also where the first day, of which nothing was seen, cuts it short."""
    trace = carbon_traces.load(folder)[0]
    for hours, ahead in ((0.0, 9.0), (5.03, 60.0), (30.0, 2.0), (49.9833, 47.9), (71.25, 50.0), (94.0, 1.0)):
        now = T0 + hours * HOUR
        wanted = series.forecast(now, now + ahead * HOUR)
        found = Known(trace).forecast(now, now + ahead * HOUR)
        assert [(s.start, s.end, s.rate.value) for s in found] == [(s.start, s.end, s.rate.value) for s in wanted]
        assert Known(trace).over(now, now + HOUR).value == pytest.approx(series.over(now, now + HOUR).value)
    assert len(Known(trace).forecast(T0 + 300, T0 + 90 * HOUR)) == 1 + 36  # nothing is known of the day before


@pytest.mark.parametrize(("days", "calendar"), [(2, None), (9, None), (3, "America/Los_Angeles")])
def test_a_run_knows_of_several_days_what_a_server_would(days: int, calendar: str | None) -> None:
    trace = carbon_traces.made("several", 1, days=4 if calendar is None else 9)
    rows = [
        Row(*point, None, None, array("d", ahead), "")
        for *point, ahead in zip(trace.times, trace.values, trace.ahead, strict=True)
    ]
    settings = carbon_traces.settings("PGE").model_copy(update={"beyond": "days", "days": days, "calendar": calendar})
    series = Series(rows, settings, "marginal", 0.1, "several")
    for hours, ahead in (
        (0.0, 9.0),
        (5.03, 60.0),
        (30.0, 40.0),
        (49.9833, 47.9),
        (71.25, 50.0),
        (95.9, 30.0),
        (150.0, 60.0),
    ):
        now = T0 + hours * HOUR
        if now >= trace.end:
            continue
        wanted = series.forecast(now, now + ahead * HOUR)
        found = Known(trace, days, calendar).forecast(now, now + ahead * HOUR)
        assert [(s.start, s.end) for s in found] == [(s.start, s.end) for s in wanted]
        assert [s.rate.value for s in found] == pytest.approx([s.rate.value for s in wanted])


def test_an_oracle_knows_the_trace_itself() -> None:
    now = T0 + 7.01 * HOUR
    steps = Oracle(SMALL).forecast(now, now + 5 * HOUR)
    assert (steps[0].start, steps[-1].end) == (now, now + 5 * HOUR)
    seen = sum(step.rate.value * (step.end - step.start) for step in steps) / (5 * HOUR)
    assert seen == pytest.approx(Oracle(SMALL).over(now, now + 5 * HOUR).value)


def test_means_are_exact_and_end_with_the_trace() -> None:
    trace = hourly(100, 200, 400)
    found = trace.means(T0 + np.array([0.0, 0.5 * HOUR, 1.5 * HOUR]), HOUR)
    assert found.tolist() == pytest.approx([100, 150, 300])
    with pytest.raises(EnvironmentFault, match="no values"):
        trace.means(np.array([T0 + 2.5 * HOUR]), HOUR)


def test_the_oracle_finds_the_optimum_that_can_be_seen() -> None:
    """Two rounds of an hour in the two cheapest hours within the slack, not in one piece, not behind the deadline."""
    trace = hourly(*[500] * 50, 9, 3, 8, 7, 2, 9, 0, 9)
    asked = Asked(T0 + 50 * HOUR, Job(2, HOUR), 4 * HOUR, 60.0)
    hours = {name: (policy(trace, asked) - T0) / HOUR - 50 for name, policy in POLICIES.items()}
    assert hours["oracle"].tolist() == [1, 4]  # hour 6, the cleanest, ends a second too late
    assert immediate(trace, asked).tolist() == [T0 + 50 * HOUR, T0 + 51 * HOUR]
    foreseen = hourly(*trace.values, ahead=7)
    assert ((POLICIES["cleanest"](foreseen, asked) - T0) / HOUR - 50).tolist() == [1, 4]
    assert ((POLICIES["one piece"](foreseen, asked) - T0) / HOUR - 50).tolist() == [3, 4]


def test_without_a_forecast_of_its_own_yesterday_decides_and_may_be_wrong() -> None:
    """Yesterday the third hour was clean; today it is the dirtiest, and that is counted as worse."""
    trace = hourly(*[5.0] * 24, *[300.0, 300, 10, 300] * 6, 300, 300, 900, 300, 300, 300)
    asked = Asked(T0 + 48 * HOUR, Job(1, HOUR), 2 * HOUR, 60.0)
    starts = POLICIES["cleanest"](trace, asked)
    assert starts.tolist() == [T0 + 50 * HOUR]  # once it is seen, no slack is left
    at_once = carbon_hours.grams(trace, immediate(trace, asked), asked.job)
    put_off = carbon_hours.grams(trace, starts, asked.job)
    assert (at_once, put_off) == (300.0, 900.0)
    assert Saved(np.array([at_once]), np.array([put_off])).worse == 100.0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    slack=st.sampled_from([0.0, 0.2, 1.0, 7.0]),
    rounds=st.integers(1, 6),
    seconds=st.sampled_from([60.0, 360.0, 1800.0, 4000.0]),
    step=st.sampled_from([5.0, 15.0, 60.0]),
)
def test_no_policy_ever_misses_the_deadline(seed: int, slack: float, rounds: int, seconds: float, step: float) -> None:
    """On traces that are nothing but chance, with forecasts that have nothing to do with them."""
    random = np.random.default_rng(seed)
    noise = random.choice([0.0, 1.0, 700.0], size=(4 * 24, 4))
    trace = Trace("chance", T0 + np.arange(4 * 24) * HOUR, noise[:, 0], noise[:, 1:])
    asked = Asked(T0 + 60 * HOUR + float(random.integers(0, 12)) * 300, Job(rounds, seconds), slack * HOUR, step)
    for policy in POLICIES.values():
        starts = policy(trace, asked)
        assert starts[0] >= asked.start and len(starts) == rounds
        assert starts[-1] + seconds <= asked.start + rounds * seconds + slack * HOUR + 1e-3
        assert np.all(np.diff(starts) >= seconds - 1e-3)


@pytest.mark.parametrize("late", [[0.0, 1.0 * HOUR, 3.1 * HOUR], [0.0, 0.5 * HOUR, 2 * HOUR], [-1.0, 2e4, 3e4], [0.0]])
def test_what_is_late_early_or_overlaps_is_refused(late: list[float]) -> None:
    asked = Asked(T0, Job(3, HOUR), HOUR)
    assert len(asked.checked([T0, T0 + HOUR, T0 + 3 * HOUR])) == 3
    with pytest.raises(RunFailed, match="carbon-hours"):
        asked.checked([T0 + time for time in late])


def test_savings_are_counted_over_all_grams_and_over_starts() -> None:
    saved = Saved(np.array([100.0, 200.0, 0.0, 50.0]), np.array([50.0, 220.0, 0.0, 50.0]))
    assert saved.total == pytest.approx(100 * 30 / 350)
    assert saved.each.tolist() == pytest.approx([50.0, -10.0, 0.0])  # of nothing, no share is saved
    assert saved.worse == 25.0
    assert saved.grams.tolist() == [50.0, -20.0, 0.0, 0.0]
    off = np.array([50.0, 220, 0, 50]) - 320 / 350 * np.array([100.0, 200, 0, 50])
    assert saved.error == pytest.approx(100 * np.sqrt((off**2).sum() / 3 / 4) / 87.5)


def test_what_stands_for_a_forecast_is_compared_start_by_start() -> None:
    """Of 100 and 300 g at once: one start gains 20 g, the other loses 4, of 200 g on average."""
    grams, first, at_once = np.array([60.0, 204.0]), np.array([80.0, 200.0]), np.array([100.0, 300.0])
    saved, points, worse = carbon_beyond._told(grams, first, at_once)
    assert (saved, points, worse) == ("34.0", "+4.0 ± 6.0", "0.0")
    assert carbon_beyond._told(at_once + 1, first, at_once)[2] == "100.0"
    assert carbon_beyond._told(grams, first, 0 * at_once) == ("0.0", "0.0", "0.0")


def test_the_part_to_choose_ends_before_the_part_to_show() -> None:
    trace = carbon_traces.made("long", 1, days=45)
    middle = carbon_beyond.split(trace)
    assert middle == (trace.start + trace.end) / 2, "all of it is after the day on which the real one is split"
    before = carbon_hours.starts_of(trace, 20, 60 * HOUR, until=middle)
    after = carbon_hours.starts_of(trace, 20, 60 * HOUR, since=middle)
    assert before.max() + 60 * HOUR <= middle <= after.min()


def test_starts_are_spread_over_hours_and_months_and_leave_room() -> None:
    trace = carbon_traces.made("long", 1, days=45)
    starts = carbon_hours.starts_of(trace, 96, 60 * HOUR)
    hours = np.bincount((starts // HOUR % 24).astype(int), minlength=24)
    months = [datetime.fromtimestamp(time, UTC).month for time in starts]
    assert hours.tolist() == [4] * 24
    assert months.count(1) == months.count(2) == 48
    assert trace.start + 2 * 86_400 <= starts.min() <= starts.max() <= trace.end - 60 * HOUR
    assert starts.tolist() == carbon_hours.starts_of(trace, 96, 60 * HOUR).tolist()
    assert starts.tolist() != carbon_hours.starts_of(trace, 96, 60 * HOUR, seed=1).tolist()


def test_a_federation_has_the_mean_of_its_zones() -> None:
    one, other = carbon_traces.made("a", 1, days=2), carbon_traces.made("b", 2, days=2)
    both = carbon_traces.mean_of("both", [one, other])
    assert np.array_equal(both.values, (one.values + other.values) / 2)
    assert np.array_equal(both.ahead, (one.ahead + other.ahead) / 2)
    with pytest.raises(ConfigError, match="equal times"):
        carbon_traces.mean_of("both", [one, carbon_traces.made("b", 2, days=3)])


def test_traces_with_gaps_are_refused() -> None:
    with pytest.raises(ConfigError, match="equally far apart"):
        Trace("gap", np.array([0.0, 300, 900]), np.ones(3), np.ones((3, 0)))


def test_a_folder_without_the_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no files"):
        carbon_traces.load(tmp_path)


def test_real_files_are_read_as_a_server_reads_them(folder: Path) -> None:
    found = carbon_traces.load(folder)
    rows, _ = read(carbon_traces.settings("SCE"), "marginal", folder)
    assert [trace.name for trace in found] == list(carbon_traces.ZONES)
    assert found[1].values.tolist() == [row.value for row in rows]
    (folder / "SGIP_CAISO_SCE_2021-02.csv.gz").unlink()
    with pytest.raises(ConfigError, match="equal times"):
        carbon_hours.run(True, carbon_hours.Options(folder, 2))
