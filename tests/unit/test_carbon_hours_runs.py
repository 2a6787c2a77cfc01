"""Real runs at cleaner hours are the runs at once, bit for bit; and what clients chosen by their grid cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fedsus.errors import RunFailed
from fedsus.privacy.choice import ByGrid
from fedsus.tasks.task import Shard
from fedsus.types import Member
from fedsus_simulations.benchmarks import (
    carbon_beyond,
    carbon_grids,
    carbon_hours,
    carbon_plot,
    carbon_policies,
    carbon_runs,
    cli,
)
from fedsus_simulations.benchmarks import carbon_traces as traces
from fedsus_simulations.benchmarks.carbon_runs import Ran, ran
from fedsus_simulations.benchmarks.carbon_traces import Trace
from fedsus_simulations.clients.population import Given

HOUR = 3600.0


def hourly(*values: float) -> Trace:
    """A trace of hours; each knows the next six."""
    found = np.array(values)
    ahead = np.stack([np.append(found[k:], np.full(k, found[-1])) for k in range(1, 20)], axis=1)
    return Trace("hours", traces._MADE_START + np.arange(len(values)) * HOUR, found, ahead)


@pytest.fixture(scope="module")
def runs() -> dict[str, Ran]:
    """Three rounds of half an hour: clean are one hour at once, and one after six: the session in between expires."""
    trace = hourly(*[300.0] * 2, *[100.0, 300, 300, 300, 300, 300, 300, 20], *[300.0] * 20)
    return {policy: ran(trace, trace.start + HOUR, policy, 3, 9.0) for policy in ("immediate", "cleanest")}


def test_a_run_put_off_is_the_run_at_once_bit_for_bit(runs: dict[str, Ran]) -> None:
    at_once, put_off = runs["immediate"], runs["cleanest"]
    assert (at_once.model, at_once.clients, at_once.epsilon, at_once.auc) == (
        put_off.model,
        put_off.clients,
        put_off.epsilon,
        put_off.auc,
    )
    assert at_once.survivors == put_off.survivors == (5, 5, 5)
    assert len(set(at_once.clients)) > 1  # cohorts are drawn, and differ from round to round
    assert 0 < at_once.epsilon < 8.0
    assert put_off.same(at_once)
    assert put_off.mean < 0.5 * at_once.mean


def test_it_waits_between_rounds_and_keeps_its_deadline(runs: dict[str, Ran]) -> None:
    at_once, put_off = runs["immediate"], runs["cleanest"]
    assert at_once.waited == 0.0
    assert 6 * HOUR < put_off.waited <= 9 * HOUR
    assert put_off.lasted == pytest.approx(at_once.lasted + put_off.waited, abs=2.0)


def test_a_session_that_expired_while_the_run_waited_is_opened_anew(runs: dict[str, Ran]) -> None:
    assert runs["immediate"].sessions == 1
    assert runs["cleanest"].sessions == 2


@pytest.mark.parametrize(
    "change",
    [{"model": "x"}, {"clients": ()}, {"survivors": (5, 5, 4)}, {"epsilon": 1.0}, {"auc": 0.5}],
    ids=lambda change: next(iter(change)),
)
def test_a_run_that_became_another_one_fails_the_benchmark(
    runs: dict[str, Ran], change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = runs | {"cleanest": replace(runs["cleanest"], **change)}
    monkeypatch.setattr(carbon_runs, "ran", lambda trace, start, policy, rounds: other[policy])
    with pytest.raises(RunFailed, match="became another one"):
        carbon_runs.table(hourly(*[1.0] * 30), [0.0])
    late = runs | {"cleanest": replace(runs["cleanest"], lasted=60 * HOUR)}
    monkeypatch.setattr(carbon_runs, "ran", lambda trace, start, policy, rounds: late[policy])
    with pytest.raises(RunFailed, match="missed its deadline"):
        carbon_runs.table(hourly(*[1.0] * 30), [0.0])


def test_zones_are_chosen_by_what_is_there_as_a_round_begins() -> None:
    clean, dirty = hourly(*[10.0] * 5, *[500.0] * 30), replace(hourly(*[100.0] * 35), name="other")
    rounds = carbon_grids.chosen(ByGrid(("hours", "other"), 0.0), [clean, dirty], clean.start + 4 * HOUR, 6)
    assert rounds == ["hours"] * 2 + ["other"] * 4
    floored = carbon_grids.chosen(ByGrid(("hours", "other"), 0.3), [clean, dirty], clean.start + 4 * HOUR, 20)
    assert floored.count("hours") == 6


def test_grams_by_grid_are_of_the_zone_that_a_round_had() -> None:
    one, other = hourly(*[100.0] * 35), replace(hourly(*[300.0] * 35), name="other")
    table = carbon_grids.saved([one, other], np.array([one.start, one.start + HOUR]), 20)
    rows = {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}
    # Of 200 g/kWh: 100, then 0.7 * 100 + 0.3 * 300 = 160, then as much as untouched.
    assert [rows[floor]["all, %"] for floor in ("0", "0.3", "0.5")] == ["50.0", "20.0", "0.0"]
    assert rows["0.3"]["rounds of other"] == rows["0.3"]["least of any run"] == "0.30"
    assert rows["0.3"]["worse, %"] == "0.0"


def test_a_cohort_is_drawn_from_the_zone_of_its_round_alone() -> None:
    members = [Member(str(at), str(at)) for at in range(8)]
    homes = {member.name: "north" if int(member.name) < 4 else "south" for member in members}
    draw = carbon_grids.GridDraw(["north", "south"], homes, 1)
    cohorts = [{homes[member.name] for member in draw(members, 3, attempt)} for attempt in (1, 2, 3)]
    assert cohorts == [{"north"}, {"south"}, {"north"}]


def test_clients_live_where_their_data_say() -> None:
    cases = {"a": 3, "b": 0, "c": 4, "d": 1}
    parts = {name: (torch.zeros(4, 1), torch.tensor([1.0] * ones + [0.0] * (4 - ones))) for name, ones in cases.items()}
    found = carbon_grids.homes(Given.of({name: Shard(part, part) for name, part in parts.items()}), ("low", "high"))
    assert found == {"a": "high", "b": "low", "c": "high", "d": "low"}


def test_what_is_chosen_by_grid_pays_for_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carbon_grids, "EPSILONS", (2.0,))
    table = carbon_grids.price()
    row = dict(zip(table["columns"], map(float, table["rows"][0]), strict=True))
    assert row["drawn"] == pytest.approx(2.0, rel=0.01)
    assert row["by grid"] > 10 * row["drawn"]
    assert row["times the noise"] > 5


def test_one_command_gives_the_same_json_twice_and_a_picture(tmp_path: Path) -> None:
    def once(*more: str) -> dict[str, Any]:
        command = ["carbon-hours", "--quick", "--starts", "2", "--json", *more]
        done = CliRunner().invoke(cli.bench, command, catch_exceptions=False)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    first = once("--plot", str(tmp_path))
    assert first == once()
    assert traces.MADE in first["notes"]
    tables = {table["title"]: table for table in first["tables"]}
    assert len(tables[carbon_hours.TABLE]["rows"]) == len(carbon_hours.SLACKS) * len(carbon_policies.POLICIES)
    assert carbon_runs.TABLE in tables and carbon_grids.SAVED in tables and carbon_grids.LEARNED in tables
    beyond = tables[carbon_beyond.TITLE]
    assert len(set(beyond["columns"])) == len(beyond["columns"])
    assert [row[2] for row in beyond["rows"][:4]] == ["the last day", "7 days", "7 days alike", "all that is to come"]
    assert {row[4] for row in beyond["rows"] if row[2] == "the last day"} == {"+0.0 ± 0.0"}
    assert any(title.startswith(carbon_plot.EXAMPLE) for title in tables)
    assert first["ours"]["unit"] == "g CO2e"
    assert (tmp_path / "carbon-hours.png").stat().st_size > 10_000
    assert (tmp_path / "carbon-hours.svg").exists()
