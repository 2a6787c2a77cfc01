"""What an operator sees of a run that waits, and of one that a budget ended; where a run's carbon intensity is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fedsus.config import RunConfig
from fedsus.energy.meters.parents import Parents
from fedsus.errors import ConfigError
from fedsus.journal import AttemptAbandoned, AttemptOpened, Entry, Journal, RunClosed
from fedsus.reporting import follow, read
from fedsus.rounds.planning.specification import open_run
from fedsus.types import Stop
from fedsus_server import following, looping, metering, runs
from fedsus_server.home import ActiveRun, Home

UNTIL = 1_800_000_000.0
SAID = "waits for a cleaner hour until 2027-01-15 08:00 UTC"
LEAST = {"task": {"name": "heart"}, "plan": {"rounds": 2, "exchange": "clear_sum"}}
LEAST["plan"]["cohort"] = {"size": 2, "minimum": 2}  # type: ignore[assignment]


def opened(folder: Path) -> Path:
    open_run(folder, folder.name, RunConfig.model_validate(LEAST), np.zeros(4, np.float32), lambda: 1.7e9)
    return folder


def test_a_loop_that_waits_says_until_when_and_takes_it_back(tmp_path: Path) -> None:
    assert looping.waits(tmp_path) is None
    looping.note_start(tmp_path)
    assert looping.waits(tmp_path) is None
    looping.note_wait(tmp_path, UNTIL)
    assert looping.waits(tmp_path) == SAID
    looping.note_wait(tmp_path, UNTIL, "for 1 of 3 devices, whose day's budget is spent,")
    assert looping.waits(tmp_path) == (
        "waits for 1 of 3 devices, whose day's budget is spent, until 2027-01-15 08:00 UTC"
    )
    looping.note_wait(tmp_path, None)
    assert looping.waits(tmp_path) is None


def test_a_dead_loop_waits_for_nothing_and_is_still_the_one_that_was_submitted(tmp_path: Path) -> None:
    looping.note_start(tmp_path)
    before = looping.of(tmp_path)
    looping.note_wait(tmp_path, UNTIL)
    assert looping.of(tmp_path) == before  # who resumes runs compares them: a wait is no other loop
    data = json.loads((tmp_path / looping.NAME).read_text())
    (tmp_path / looping.NAME).write_text(json.dumps(data | {"start": "another process with this number"}))
    assert looping.waits(tmp_path) is None
    (tmp_path / looping.NAME).write_text(json.dumps({"pid": os.getpid(), "start": None, "ended": "x"}))
    assert looping.of(tmp_path) is not None  # as older versions wrote it


def test_status_and_the_table_of_runs_tell_of_a_wait(tmp_path: Path) -> None:
    folder = opened(tmp_path / "run")
    looping.note_start(folder)
    active = ActiveRun("run", str(folder))
    assert following._progress(active) == "running, 0 rounds released"
    looping.note_wait(folder, UNTIL)
    assert following._progress(active) == f"{SAID}, 0 rounds released"
    assert following._state(active) == "waiting"


def test_who_follows_a_run_sees_each_wait_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = opened(tmp_path / "run")
    looping.note_start(folder)
    looks = []

    def over_soon(self: Home) -> object:
        looks.append(len(looks))
        if looks[-1] == 1:
            looping.note_wait(folder, UNTIL)
        if looks[-1] == 6:
            with Journal.open(folder, lambda: 1.7e9) as journal:
                journal.append(AttemptOpened(round=1, attempt=1, plan_digest="0" * 64, cohort=2))
                journal.append(AttemptAbandoned(round=1, attempt=1, reason="1 of 2 clients answered"))
            looping.note_wait(folder, UNTIL + 3600)
        if looks[-1] == 9:
            with Journal.open(folder, lambda: 1.7e9) as journal:
                journal.append(RunClosed(reason="stopped", model=None, because="[budget] joules is spent: 9 of 9 J"))
        return object()

    monkeypatch.setattr(Home, "running", over_soon)
    monkeypatch.setattr(following, "follow", _quick)
    following.follow_run(Home(tmp_path / "home"), folder)
    told = capsys.readouterr().out
    assert told.count("waits for a cleaner hour") == 2
    assert SAID in told and "09:00 UTC" in told
    assert "why: [budget] joules is spent: 9 of 9 J" in told
    assert told.index("attempt 1 abandoned") < told.index("09:00 UTC"), "what caused a wait comes before it"


def _quick(folder: Path, over: Stop) -> Iterator[Entry]:
    return follow(folder, over, wait=lambda _: None)


def test_a_run_that_its_budget_ended_is_not_resumed_and_the_way_out_is_named(tmp_path: Path) -> None:
    folder = opened(tmp_path / "run")
    runs.check_open(folder)
    with Journal.open(folder, lambda: 1.7e9) as journal:
        journal.append(RunClosed(reason="stopped", model="a" * 64, because="[budget] grams is spent: 5 of 5 g CO2e"))
    with pytest.raises(ConfigError) as refused:
        runs.check_open(folder)
    line = str(refused.value)
    assert "run is stopped ([budget] grams is spent: 5 of 5 g CO2e); start a new one" in line
    assert f"fedsus model export {folder} -o FILE" in line and "\n" not in line


def test_a_run_that_its_operator_stopped_says_so(tmp_path: Path) -> None:
    folder = opened(tmp_path / "run")
    assert runs.stop(Home(tmp_path / "home"), folder, lambda: 1.7e9)
    closed = read(folder)[-1]
    assert isinstance(closed, RunClosed)
    assert (closed.reason, closed.model_hash, closed.because) == ("stopped", None, "the operator stopped it")


def test_files_of_an_intensity_are_beside_run_toml_wherever_the_loop_works(tmp_path: Path) -> None:
    table = {"series": {"files": "grid/*.csv", "value": "v", "unit": "g/kWh"}}
    config = RunConfig.model_validate(LEAST | {"carbon": table})
    found = metering.located(config.carbon, tmp_path)
    assert found.series is not None
    assert found.series.files == str(tmp_path / "grid" / "*.csv")
    web = {"http": {"url": "https://example.org/x", "token_file": "token"}}
    kept = metering.located(RunConfig.model_validate(LEAST | {"carbon": web}).carbon, tmp_path)
    assert kept.http is not None and kept.http.token_file == str(tmp_path / "token")
    absolute = config.carbon.model_copy(
        update={"series": found.series.model_copy(update={"files": "/elsewhere/x.csv"})}
    )
    assert metering.located(absolute, tmp_path).series == absolute.series
    plain = RunConfig.model_validate(LEAST).carbon
    assert metering.located(plain, tmp_path) == plain


def test_the_loops_meter_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    off = RunConfig.model_validate(LEAST | {"energy": {"meter": "off"}})
    meter, intensity = metering.of(off, tmp_path, lambda: 1.0)
    assert meter.take() is None and intensity is None
    model = LEAST | {"energy": {"meter": "model", "watts": 65.0}, "carbon": {"grams_per_kwh": 300.0}}
    meter, intensity = metering.of(RunConfig.model_validate(model), tmp_path, lambda: 1.0)
    with meter.phase("crypto"):
        sum(range(1000))
    used = meter.take()
    assert used is not None and used.grams is not None and intensity is not None
    assert used.total >= 0 and used.grams.kind == "average"


def test_the_superlinks_work_is_the_round_loops_too_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.model_validate(LEAST | {"energy": {"meter": "model", "watts": 65.0}})
    used = []

    class WithParent(Parents):
        def __init__(self, word: str) -> None:
            super().__init__("no such word anywhere")
            self.pids = (1,)
            assert word == "fedsus_server.flower.superlink"

        def __call__(self) -> float:
            used.append(1000.0 * len(used))
            return used[-1]

    monkeypatch.setattr("fedsus.energy.meters.parents.Parents", WithParent)
    meter, _ = metering.of(config, tmp_path, lambda: 1.0)
    with meter.phase("communicate"):
        pass
    found = meter.take()
    assert found is not None and found.total > 1000  # thousands of seconds of a busy core, by the parent alone
    assert found.boundary.endswith("with the SuperLink, which all runs of this server share")


def test_the_operator_is_told_what_counts_and_what_will_not_wait() -> None:
    def told(**tables: object) -> list[str]:
        return metering.lines(RunConfig.model_validate(LEAST | tables))

    assert told() == []
    assert told(budget={"kwh": 0.5, "grams": 9.0}, carbon={"grams_per_kwh": 300.0}) == [
        "budget: at most 0.5 kWh and 9 g CO2e; counted: this server's round loop; not the devices (they are asked for "
        "no [plan.costs])"
    ]
    (assumed,) = told(budget={"joules": 5.0, "device_watts": 12.0}, energy={"meter": "off"})
    assert assumed.endswith("not this server (its meter is off); 12 W assumed of each device")
    yearly = told(schedule={"policy": "cleanest", "slack_hours": 6.0}, carbon={"country": "DEU"})
    assert yearly[0] == "schedule: rounds move to cleaner hours, up to 6 h later than at once"
    assert "all rounds start at once" in yearly[1]
    series = {"series": {"files": "x.csv", "value": "v", "unit": "g/kWh"}}
    late = {"policy": "cleanest", "slack_hours": 6.0}
    assert "the first round starts at once" in told(schedule=late, carbon=series)[1]
    assert len(told(schedule=late | {"duration": 5.0}, carbon=series)) == 1
    assert "slack_hours is 0" in told(schedule={"policy": "cleanest", "duration": 5.0}, carbon=series)[1]
