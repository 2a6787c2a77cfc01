"""Whole runs with a reduced uplink: stopped and gone on with, what each sends, and what the benchmark says of them."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest

from fedsus.config import validate
from fedsus.costs import Usage
from fedsus.errors import RunFailed
from fedsus.journal import RoundReleased
from fedsus.owner.consumed import Consumed
from fedsus.reporting import read
from fedsus.types import Vector
from fedsus_simulations.benchmarks import compression, compression_cases, compression_joules, tables
from fedsus_simulations.benchmarks.joules_spent import Spent
from fedsus_simulations.benchmarks.result import complete
from fedsus_simulations.running.simulation import Simulation
from fedsus_simulations.scenario.config import Scenario


def scenario(**encoding: Any) -> Scenario:
    plan = {"rounds": 3, "cohort": {"size": 4, "minimum": 2}, "secure_sum": {"colluders": 1}, "spare_attempts": 20}
    fields = {
        "seed": 3,
        "task": {"name": "heart"},
        "plan": plan | {"encoding": encoding},
        "population": {"data": "heart"},
        "simulation": {"masks": "none", "trainer": "loop", "evaluate_every": 0},
        "traces": {"dropout": 0.3},
    }
    return validate(fields, Scenario, "scenario.toml")


def run(folder: Path, asked: Scenario, until: int | None = None) -> Vector:
    def stop(released: RoundReleased, model: Vector) -> None:
        del model
        if released.round == until:
            raise KeyboardInterrupt

    simulation = Simulation.of(asked, folder.parent)
    try:
        return simulation.run(folder, "run", stop)
    finally:
        simulation.close()


def released(folder: Path) -> list[RoundReleased]:
    return [entry for entry in read(folder) if isinstance(entry, RoundReleased)]


def test_a_stopped_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    asked = scenario(uplink={"name": "projection", "share": 0.3})
    model = run(tmp_path / "whole", asked)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", asked, 2)
    assert run(tmp_path / "stopped", asked).tobytes() == model.tobytes()
    found = [[one.checkpoint for one in released(tmp_path / name)] for name in ("whole", "stopped")]
    assert found[0] == found[1] and len(found[0]) == 3
    assert len({one.survivors for one in released(tmp_path / "whole")}) > 1, "somebody fell out"


def row(score: float, size: int) -> dict[str, Any]:
    return {"score": score, "bytes": size, "spent": 8.0, "noise": 1.5}


def test_the_benchmark_tells_bytes_and_points_lost() -> None:
    part = ("projection", 0.25)
    found = {
        ("heart", inf, compression.WHOLE): [row(90.0, 400), row(88.0, 400)],
        ("heart", inf, part): [row(88.0, 100)],
    }
    result = complete("compression", False, compression.told(found, []))
    assert result.ratio == 4.0
    assert result.figures["heart, no DP: error"].ratio == pytest.approx(11 / 12)
    assert [line[-2] for line in result.tables[0].rows] == ["", "1.00"]


def test_each_case_is_a_scenario_that_can_run() -> None:
    for case in (compression_cases.heart(), compression_cases.fashion(Path("images"))):
        for how in (compression.WHOLE, ("rand_k", 0.1)):
            for epsilon in compression.EPSILONS:
                plan = Scenario.model_validate(case.scenario(how, epsilon, 1)).plan
                assert (plan.encoding.uplink is None) == (how == compression.WHOLE)
                assert (plan.privacy.epsilon or inf) == epsilon


def used(joules: float) -> Spent:
    usage = Usage(
        seconds=1.0,
        joules={"train": 0.75 * joules, "encode": 0.25 * joules},
        low=joules / 2,
        high=2 * joules,
        idle=0.0,
        method="assumed",
        source="a model",
        boundary="this process",
    )
    one = Consumed.of(usage)
    return Spent(devices=one, server=one, first=9.0, seconds=(1.0, 1.0), sent=400, received=200)


def test_joules_are_told_beside_bytes_by_case_and_epsilon() -> None:
    ways = {"whole": [used(1.0), used(3.0)], "projection 0.25": [used(2.0), used(4.0)]}
    joules = {("heart", inf): ways}
    table = compression_joules.table(joules)
    row = dict(zip(table["columns"], table["rows"][1], strict=True))
    assert row["whole / it: median (95 %)"] == f"{(0.5 + 0.75) / 2:.3g} (0.5 to 0.75)"
    assert (row["J, devices"], row["J, devices: encode"], row["J, devices: crypto"]) == (1.5, 0.375, 0.0)
    assert (row["bytes down"], row["bytes up"], row["epsilon"]) == (200, 100, "no DP")
    found = {("heart", inf, compression.WHOLE): [row_of()], ("heart", inf, ("projection", 0.25)): [row_of()]}
    notes = compression_joules.notes(joules, [1.0, 3.0])
    more = compression_joules.figures(joules)
    result = complete("compression", False, compression.told(found, notes, table, more=more))
    assert result.figures["heart, no DP: joules"].ratio == pytest.approx(0.625)
    assert any("assumed, 0.5 to 2 times" in note and "boundary: this process" in note for note in result.notes)
    mixed = {("heart", inf): ways | {"whole": [used(1.0), replace(used(1.0), server=Consumed())]}}
    with pytest.raises(RunFailed, match="different"):
        compression_joules.table(mixed)


def row_of() -> dict[str, Any]:
    return row(90.0, 400)


def test_each_way_is_a_plan_that_devices_can_run() -> None:
    for case in map(compression_joules.few, (compression_cases.heart(), compression_cases.fashion(Path("images")))):
        assert case.rounds <= compression_joules.ROUNDS and case.federation.clients <= compression_joules.DEVICES
        for way in compression_joules.WAYS:
            for epsilon in compression_joules.EPSILONS:
                plan = compression_joules.config(case, way, epsilon).plan
                assert plan.exchange == "secure_sum"
                assert (plan.downlink.bits if plan.downlink else 0) == way.bits
                assert (plan.encoding.uplink.share if plan.encoding.uplink else 1.0) == way.uplink[1]
                assert (plan.privacy.epsilon or inf) == epsilon


def test_the_documentation_shows_what_was_measured() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    kept = tables.read(docs / "compression" / "compression.json")
    assert not kept.quick
    text = (docs / "compression.md").read_text(encoding="utf-8")
    assert tables.replaced(text, "compression", tables.markdown(kept), "docs") == text
