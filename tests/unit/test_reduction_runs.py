"""Whole runs with a reduced uplink: stopped and gone on with, what each sends, and what the benchmark says of them."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest

from fedsus.config import validate
from fedsus.journal import RoundReleased
from fedsus.reporting import read
from fedsus.types import Vector
from fedsus_simulations.benchmarks import compression, tables
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
    for case in (compression.heart(), compression.fashion(Path("images"))):
        for how in (compression.WHOLE, ("rand_k", 0.1)):
            for epsilon in compression.EPSILONS:
                plan = Scenario.model_validate(case.scenario(how, epsilon, 1)).plan
                assert (plan.encoding.uplink is None) == (how == compression.WHOLE)
                assert (plan.privacy.epsilon or inf) == epsilon


def test_the_documentation_shows_what_was_measured() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    kept = tables.read(docs / "compression" / "compression.json")
    assert not kept.quick
    text = (docs / "compression.md").read_text(encoding="utf-8")
    assert tables.replaced(text, "compression", tables.markdown(kept), "docs") == text
