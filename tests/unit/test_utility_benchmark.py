"""The utility benchmarks compare two sides that differ in the noise alone, and tell what was missed."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fedsus.errors import ConfigError, DataError
from fedsus.tasks.task import DataSource
from fedsus_simulations.benchmarks import (
    cli,
    simulate_data,
    tables,
    utility_clients,
    utility_fashion,
    utility_heart,
)
from fedsus_simulations.benchmarks import utility_runs as runs
from fedsus_simulations.benchmarks.result import Result, complete
from fedsus_simulations.benchmarks.utility_kept import Kept, Options
from fedsus_simulations.benchmarks.utility_tasks import FEATURES, FILES, NoSettings, Scattered, closed_form

ROW = {"spent": 2.9, "noise": 4.0, "seconds": 1.0}


@pytest.fixture(scope="module")
def heart() -> utility_heart.Heart:
    found = utility_heart.Heart(rounds=4)
    found.steps = replace(found.steps, momentum=0.9, schedule="cosine")
    return found


def test_with_hardly_any_noise_both_sides_end_at_the_same_model(heart: utility_heart.Heart) -> None:
    together = runs.central(heart.task, heart._train, heart.steps, inf, 1e-5, 1)
    shared = runs.distributed(utility_heart.FEDERATION, heart.steps, 100.0, 1e-5, 1)
    apart = float(np.linalg.norm(together.model - shared.model))
    steps = 1 + 1.9 + 2.71 + 3.44  # what noise of each step becomes with momentum
    assert apart < 3 * shared.noise * 2.0 / 691 * steps * len(together.model) ** 0.5
    assert apart < 0.1 * np.linalg.norm(together.model)
    assert 0 < shared.noise < 1
    # Negative controls: one step less, another rate, no momentum are far away.
    for other in (
        replace(heart.steps, rounds=3),
        replace(heart.steps, learning_rate=1.6),
        replace(heart.steps, momentum=0),
    ):
        wrong = runs.central(heart.task, heart._train, other, inf, 1e-5, 1)
        assert np.linalg.norm(wrong.model - shared.model) > 2 * apart


def test_noise_of_the_central_side_is_what_the_accountant_asks_for() -> None:
    rounds, size = 1, 4000
    task = _Still(size)
    steps = runs.Steps(rounds=rounds, rate=1.0, examples=10, clip=0.5, learning_rate=2.0, momentum=0.0)
    found = runs.central(task, (torch.zeros(10, 1),), steps, 2.0, 1e-5, 1)  # type: ignore[arg-type]
    expected = runs.gaussian(2.0, 1e-5, 1.0, rounds) * 0.5 * 2.0 / 10
    assert found.model.std() == pytest.approx(expected, rel=0.08)
    assert expected * 2 / 3 != pytest.approx(found.model.std(), rel=0.08)


class _Still:
    """A task whose gradient is zero: what moves is noise."""

    bounds: ClassVar[dict[str, tuple[float, float]]] = {}

    def __init__(self, size: int) -> None:
        self._size = size

    def model(self, seed: int) -> torch.nn.Module:
        model = torch.nn.Linear(1, self._size, bias=False)
        torch.nn.init.zeros_(model.weight)
        return model

    def loss(self, model: Any, batch: Any) -> torch.Tensor:
        found: torch.Tensor = model(batch[0]).sum(dim=1)
        return found


def test_epsilon_of_a_federation_is_of_its_own_plans_and_attempts(heart: utility_heart.Heart) -> None:
    found = runs.distributed(utility_heart.FEDERATION, heart.steps, 2.0, 1e-5, 1)
    assert 1.0 < found.epsilon < 2.0  # two of six attempts were not made
    # One of four shares is the colluder's, and Renyi divergences ask for more noise than the exact accountant.
    assert found.noise > (4 / 3) ** 0.5 * runs.gaussian(2.0, 1e-5, 1.0, 6)


def test_a_run_that_was_made_is_not_made_again(tmp_path: Path) -> None:
    made: list[int] = []

    def measure() -> dict[str, Any]:
        made.append(1)
        return {"accuracy": 80.0 + len(made)}

    options = Options(resume=tmp_path / "kept")
    first = Kept.of(options, "utility-x").run({"seed": 1}, measure)
    again = Kept.of(options, "utility-x").run({"seed": 1}, measure)
    other = Kept.of(options, "utility-x").run({"seed": 1, "clip": 0.2}, measure)
    assert first == again
    assert other["accuracy"] == 82.0
    assert len(made) == 2
    assert Kept().run({"seed": 1}, measure)["accuracy"] == 83.0


def test_a_broken_line_is_told(tmp_path: Path) -> None:
    file = tmp_path / "utility-x.runs.jsonl"
    file.write_text('{"asked": {"seed": 1}, "accuracy": 1.0}\n{"asked"')
    with pytest.raises(ConfigError, match="runs.jsonl:2: not a run"):
        Kept(file)


@pytest.mark.parametrize(("lost", "reached"), [(0.4, True), (0.6, False)])
def test_half_a_point_is_all_that_the_federation_may_lose(lost: float, reached: bool) -> None:
    central = [ROW | {"accuracy": value} for value in (85.6, 86.0, 85.8)]
    shared = [ROW | {"accuracy": row["accuracy"] - lost} for row in central]
    found = {"cnn": {"central": central, "distributed": shared}}
    result = complete("utility-fashion", False, utility_fashion.told([utility_fashion.CNN], found, []))
    assert result.reached is reached
    (paper,) = result.figures.values()
    assert paper.reached is True
    assert [row[-1] for row in result.tables[0].rows] == ["", f"{lost:.2f}"]
    assert result.tables[0].rows[0][3] == "85.80 ± 0.20"


def test_fashion_runs_both_sides_of_both_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = simulate_data.generated(tmp_path / "images", (200, 50))
    for name, size in zip(FILES, (200, 200, 50, 50), strict=True):
        values = np.zeros((size, FEATURES), np.float16) if "features" in name else np.arange(size) % 10
        np.save(tmp_path / name, values)
    quick = utility_fashion.small

    def tiny(case: utility_fashion.Case) -> utility_fashion.Case:
        return replace(quick(case), steps=replace(case.steps, rounds=1, examples=200))

    monkeypatch.setattr(utility_fashion, "small", tiny)
    options = Options(data=files, features=tmp_path, resume=tmp_path / "kept")
    result = complete("utility-fashion", True, utility_fashion.run(True, options))
    assert [row[:3] for row in result.tables[0].rows] == [
        ("cnn", "central", 1), ("cnn", "distributed", 1), ("scattering", "central", 1), ("scattering", "distributed", 1)
    ]  # fmt: skip
    for central, shared in zip(result.tables[0].rows[::2], result.tables[0].rows[1::2], strict=True):
        assert float(shared[4]) <= 3
        assert float(shared[5]) > (100 / 85) ** 0.5 * float(central[5])
    assert len(result.figures) == 3


def test_the_gap_closed_is_of_what_local_noise_loses() -> None:
    found = {("central", 1.0): [0.90], ("local", 1.0): [0.80], ("distributed", 1.0): [0.875]}
    assert utility_heart.closed(found, 1.0) == "75 %"
    assert utility_heart.closed(found | {("local", 1.0): [0.899]}, 1.0) == "no gap"


def test_heart_with_quick_sizes_resumes_and_is_drawn(tmp_path: Path) -> None:
    told = ["utility-heart", "--quick", "--json", "--resume", str(tmp_path / "kept"), "--plot", str(tmp_path / "seen")]
    first = CliRunner().invoke(cli.bench, told, catch_exceptions=False)
    lines = (tmp_path / "kept" / "utility-heart.runs.jsonl").read_text().splitlines()
    assert len(lines) == 4
    assert {json.loads(line)["asked"]["side"] for line in lines} == {"central", "distributed", "local"}
    assert (tmp_path / "seen" / "utility-heart.svg").stat().st_size > 1000
    again = CliRunner().invoke(cli.bench, told, catch_exceptions=False)
    assert (tmp_path / "kept" / "utility-heart.runs.jsonl").read_text().splitlines() == lines
    for field in ("ours", "peer", "tables", "notes"):
        assert json.loads(first.stdout)[field] == json.loads(again.stdout)[field]


def test_clients_have_noise_at_the_epsilon_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = simulate_data.generated(tmp_path / "images", (400, 100))
    monkeypatch.setattr(utility_clients, "QUICK", utility_clients.Size(clients=20, rounds=2))
    result = complete("utility-clients", True, utility_clients.run(True, Options(data=files)))
    assert isinstance(result, Result)
    rows = {(row[0], row[1]): float(row[-1]) for row in result.tables[0].rows}
    assert rows["none", "clear"] == 0.0
    assert rows["2", "central"] > 2 * rows["8", "central"]
    # Of 20 shares, two are the colluders' and two may be missing.
    assert rows["8", "distributed"] > (20 / 16) ** 0.5 * rows["8", "central"] * 0.999


def test_the_linear_model_reads_what_the_script_writes(tmp_path: Path) -> None:
    task = Scattered(NoSettings())
    with pytest.raises(DataError, match=r"scripts/scattering.py"):
        task.load(DataSource(tmp_path))
    for name in FILES:
        values = np.ones((3, FEATURES), np.float16) if "features" in name else np.array([0, 1, 2])
        np.save(tmp_path / name, values)
    shard = task.load(DataSource(tmp_path))
    assert task.loss(task.model(1), shard.train).tolist() == pytest.approx([np.log(10)] * 3)
    shard.train[0].normal_(generator=torch.Generator().manual_seed(1))
    model = np.random.default_rng(1).normal(0, 0.1, 10 * FEATURES + 10).astype(np.float32)
    some = np.array([0, 2])
    quick = closed_form(shard.train)(model, some, 0.1)
    np.testing.assert_allclose(quick, runs.layerwise(task, task.model(1), shard.train)(model, some, 0.1), atol=1e-7)
    assert 0.05 < np.linalg.norm(quick) <= 0.2
    np.save(tmp_path / FILES[0], np.ones((3, 5), np.float16))
    with pytest.raises(DataError, match="a row for each label"):
        task.load(DataSource(tmp_path))


@pytest.mark.parametrize("name", ["utility-heart", "utility-fashion", "utility-clients"])
def test_the_documentation_shows_what_was_measured(name: str) -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    kept = tables.read(docs / "benchmarks" / f"{name}.json")
    assert not kept.quick
    text = (docs / "benchmarks.md").read_text(encoding="utf-8")
    assert tables.replaced(text, name, tables.markdown(kept), "docs") == text
