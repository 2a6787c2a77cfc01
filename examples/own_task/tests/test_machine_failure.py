"""The task on made-up data of one plant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedsus.errors import ConfigError, DataError
from fedsus.tasks.registry import build, resolve
from fedsus.tasks.task import DataSource, Task
from machine_failure.sample import write


@pytest.fixture
def plant(tmp_path: Path) -> DataSource:
    write(tmp_path)
    return DataSource(tmp_path / "machines.csv")


@pytest.fixture
def task() -> Task:
    return build(resolve("machine_failure:MachineFailure"), {"hidden": 4})


def test_both_files_become_one_shard(task: Task, plant: DataSource) -> None:
    shard = task.load(plant)
    inputs, labels = shard.train
    assert inputs.shape == (shard.size, 9)
    assert shard.size + len(shard.held_out[1]) == 200
    assert set(labels.tolist()) == {0.0, 1.0}


def test_the_readings_are_matched_by_machine_not_by_order(task: Task, plant: DataSource) -> None:
    from pyarrow import parquet

    before = task.load(plant).train[0]
    file = plant.path.parent / "readings.parquet"
    parquet.write_table(parquet.read_table(file).sort_by([("vibration", "descending")]), file)
    assert torch.equal(task.load(plant).train[0], before)


def test_it_can_be_learnt(task: Task, plant: DataSource) -> None:
    shard, model = task.load(plant), task.model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        task.loss(model, shard.train).mean().backward()
        optimizer.step()
    accuracy = task.measure(model, shard.held_out)[:, 1].mean()
    assert accuracy > 0.75


def test_a_machine_without_readings_is_refused(task: Task, plant: DataSource) -> None:
    with plant.path.open("a", encoding="utf-8") as file:
        file.write("777,fan,3,no\n")
    with pytest.raises(DataError, match="no readings of machine 777"):
        task.load(plant)


def test_a_missing_file_is_named(task: Task, plant: DataSource) -> None:
    (plant.path.parent / "readings.parquet").unlink()
    with pytest.raises(DataError, match=r"readings\.parquet: no such file"):
        task.load(plant)


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="'hidden' = 0: should be greater than or equal to 1"):
        build(resolve("machine_failure:MachineFailure"), {"hidden": 0})
