"""The scenarios that fedsus ships: each is what a run can be opened with, before any data are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from fedsus.config import load
from fedsus.errors import UserError
from fedsus.learning.parameters import flatten
from fedsus.rounds.planning.specification import open_run
from fedsus.tasks import registry
from fedsus.tasks.task import Grouped
from fedsus_simulations.running.simulation import Simulation
from fedsus_simulations.scenario.config import Scenario
from fedsus_simulations.scenario.sums import chosen, without_masks

FOLDER = Path(__file__).resolve().parents[2] / "simulations" / "scenarios"
FILES = sorted(FOLDER.glob("*.toml"))
REGISTERED = {"heart": 4, "watch": 10, "shakespeare": 600, "adult": 12}
"""Clients of a data set's own; with fewer of them a scenario must work too."""

each = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def scenario_of(file: Path) -> Scenario:
    return load(file, Scenario)


def pairs() -> list[tuple[Path, Path]]:
    return [(file, file.with_name(f"{file.stem}-private.toml")) for file in FILES if not file.stem.endswith("-private")]


def test_the_scenarios_that_were_promised_are_there() -> None:
    names = {file.stem for file in FILES}
    promised = {"heart", "watch", "shakespeare", "adult"}
    promised |= {
        f"fashion-{skew}-{clients}"
        for skew in ("iid", "dirichlet-0.1", "dirichlet-0.5")
        for clients in (100, 1000, 10000)
    }
    assert promised | {f"{name}-private" for name in promised} <= names


@each
def test_a_file_says_what_it_is(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    asked = scenario_of(file)
    assert asked.name == file.stem
    assert lines[0].startswith("# ")
    assert lines[0].endswith(".")
    comments = " ".join(line.lstrip("# ") for line in lines[: lines.index(f'name = "{file.stem}"')])
    get = f"fedsus data get {asked.population.data}"
    assert (get in comments) != (asked.population.data == "heart")
    assert "masks" in asked.simulation.model_fields_set  # never by default: a reader sees which


@pytest.mark.parametrize(("plain", "private"), pairs(), ids=lambda file: file.stem)
def test_each_is_there_with_and_without_privacy(plain: Path, private: Path) -> None:
    without, with_ = scenario_of(plain), scenario_of(private)
    assert without.plan.privacy.unit == "none"
    assert with_.plan.privacy.unit == "example"
    assert with_.plan.privacy.epsilon is not None
    assert 1 <= with_.plan.privacy.epsilon <= 8
    same = ("data", "partition", "clients", "alpha")
    assert [getattr(without.population, name) for name in same] == [getattr(with_.population, name) for name in same]


@each
def test_a_run_can_be_opened(file: Path, tmp_path: Path) -> None:
    """The task and its settings, the noise for epsilon, the bits for the cohort, the thresholds of the secure sum."""
    asked = scenario_of(file)
    task = registry.build(registry.resolve(asked.task.name), asked.task.settings)
    assert (asked.population.clients is None) <= isinstance(task, Grouped)
    registered = asked.population.clients or REGISTERED[asked.population.data]
    config = chosen(asked.run_config(registered), registered)
    model = flatten(task.model(0))
    # In clear, as without masks: a roster is made by the simulation alone. The numbers of the secure sum are checked.
    specification = open_run(tmp_path / "run", "run", without_masks(config, registered), model, lambda: 0.0)
    privacy = specification.privacy
    if privacy.unit != "none":
        wanted = asked.plan.privacy.epsilon
        assert wanted is not None
        assert 0.98 * wanted < specification.epsilon(specification.attempts) <= wanted
    assert asked.plan.exchange == "secure_sum"


@each
def test_metrics_are_the_tasks(file: Path) -> None:
    asked = scenario_of(file)
    task = registry.build(registry.resolve(asked.task.name), asked.task.settings)
    metrics = {metric.name: (metric.low, metric.high) for metric in asked.plan.metrics}
    assert metrics in ({}, dict(task.bounds))  # a device refuses others


def test_an_unknown_field_is_one_line(tmp_path: Path) -> None:
    text = (FOLDER / "heart.toml").read_text(encoding="utf-8").replace("[population]", "[population]\nclient = 4")
    (tmp_path / "heart.toml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"unknown field 'population.client'; did you mean 'clients'\?"):
        scenario_of(tmp_path / "heart.toml")


@pytest.mark.slow
@pytest.mark.timeout(600)
@each
def test_two_rounds_of_it(file: Path, tmp_path: Path) -> None:
    """On the real data, in the folder that FEDSUS_DATA names."""
    root = Path(os.environ.get("FEDSUS_DATA", "data"))
    asked = scenario_of(file)
    data = asked.population.data
    if data != "heart" and not (root / data).is_dir():
        pytest.skip(
            f"{root / data}: no such folder; fedsus data get {data}, or name the folder of data sets: FEDSUS_DATA"
        )
    short: Any = asked.plan.model_copy(update={"rounds": 2})
    simulation = Simulation.of(asked.model_copy(update={"plan": short}), root)
    start = simulation.start_model()
    try:
        model = simulation.run(tmp_path / "run", "run")
    finally:
        simulation.close()
    assert model.shape == start.shape
    assert (model != start).any()
