"""What every task must hold: the built-in ones and the example of a task of one's own."""

from __future__ import annotations

import csv
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from small_data import write_adult, write_plays, write_watch

from fedsus.errors import ConfigError, DataError
from fedsus.plan import TaskPart
from fedsus.tasks.heart import shipped
from fedsus.tasks.registry import BUILT_IN, build, resolve
from fedsus.tasks.task import Checked, DataSource, Grouped, Predicting, Scoring, Task

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.append(str(Path(__file__).parents[2] / "examples" / "own_task" / "src"))


def _heart(folder: Path) -> Path:
    (folder / "hospital.csv").write_bytes(shipped("cleveland").read_bytes())
    return folder / "hospital.csv"


def _fashion(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for half, rows in (("train", 60), ("t10k", 20)):
        images = random.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        labels = (np.arange(rows) % 10).astype(np.uint8)
        header = struct.pack(">4B3I", 0, 0, 8, 3, rows, 28, 28)
        (folder / f"{half}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{half}-labels-idx1-ubyte").write_bytes(struct.pack(">4BI", 0, 0, 8, 1, rows) + labels.tobytes())
    return folder


def _plant(folder: Path) -> Path:
    from machine_failure.sample import write

    write(folder)
    return folder / "machines.csv"


OWN = "machine_failure:MachineFailure"
CASES: list[tuple[str, dict[str, Any], Callable[[Path], Path]]] = [
    ("heart", {}, _heart),
    ("heart", {"hidden": 8}, _heart),
    ("fashion-mnist", {}, _fashion),
    ("fashion-mnist", {"network": "mlp", "width": 32}, _fashion),
    ("watch", {"width": 4}, write_watch),
    ("watch", {"network": "mlp", "width": 8, "window": 20}, write_watch),
    ("shakespeare", {"width": 8}, write_plays),
    ("shakespeare", {"network": "lstm", "width": 8}, write_plays),
    ("adult", {}, write_adult),
    ("adult", {"hidden": 4, "sensitive": "race", "sensitive_inputs": True}, write_adult),
    (OWN, {"hidden": 4}, _plant),
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{'-'.join(map(str, case[1].values())) or 'default'}")
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Task, DataSource]:
    reference, settings, data = request.param
    return build(resolve(reference), settings), DataSource(data(tmp_path))


def test_every_built_in_task_is_here() -> None:
    assert {reference for reference, _, _ in CASES} == {*BUILT_IN, OWN}


def test_it_is_a_task(case: tuple[Task, DataSource]) -> None:
    task, _ = case
    assert isinstance(task, Task)
    assert isinstance(task, Checked)


def test_a_model_depends_on_its_seed_alone(case: tuple[Task, DataSource]) -> None:
    task, _ = case
    torch.manual_seed(1)
    first = [p.clone() for p in task.model(5).parameters()]
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = list(task.model(5).parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_another_seed_gives_another_model_unless_it_starts_at_zero(case: tuple[Task, DataSource]) -> None:
    task, _ = case
    first, second = list(task.model(5).parameters()), list(task.model(6).parameters())
    if any(p.any() for p in first):
        assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_model_is_float32_and_keeps_no_buffers(case: tuple[Task, DataSource]) -> None:
    task, _ = case
    model = task.model(0)
    assert not list(model.buffers())
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_shard_has_both_parts_and_is_always_the_same(case: tuple[Task, DataSource]) -> None:
    task, source = case
    shard, again = task.load(source), task.load(source)
    assert shard.size > 0
    assert len(shard.held_out[0]) > 0
    for part, twin in ((shard.train, again.train), (shard.held_out, again.held_out)):
        assert len({len(tensor) for tensor in part}) == 1
        assert all(torch.equal(a, b) for a, b in zip(part, twin, strict=True))


@pytest.mark.parametrize("rows", [1, 7])
def test_loss_is_one_number_an_example_with_a_gradient(case: tuple[Task, DataSource], rows: int) -> None:
    task, source = case
    batch = tuple(tensor[:rows] for tensor in task.load(source).train)
    model = task.model(3)
    loss = task.loss(model, batch)
    assert loss.shape == (rows,)
    assert loss.dtype == torch.float32
    gradients = torch.autograd.grad(loss.sum(), list(model.parameters()))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_an_examples_loss_does_not_depend_on_the_others(case: tuple[Task, DataSource]) -> None:
    task, source = case
    batch = tuple(tensor[:6] for tensor in task.load(source).train)
    model = task.model(3)
    alone = torch.cat([task.loss(model, tuple(tensor[i : i + 1] for tensor in batch)) for i in range(6)])
    torch.testing.assert_close(task.loss(model, batch), alone)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_metrics_stay_within_their_bounds(case: tuple[Task, DataSource], scale: float) -> None:
    task, source = case
    batch = task.load(source).held_out
    model = task.model(3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.full_like(p, scale) if not p.any() else p * scale)
        values = task.measure(model, batch)
    assert values.shape == (len(batch[0]), len(task.bounds))
    for column, (low, high) in zip(values.T, task.bounds.values(), strict=True):
        assert low <= column.min()
        assert column.max() <= high


def test_groups_are_clients_with_data_and_names(case: tuple[Task, DataSource]) -> None:
    task, source = case
    if not isinstance(task, Grouped):
        pytest.skip("has no clients of its own")
    where = DataSource(source.path if source.path.is_dir() else source.path.parent)
    groups, again = task.groups(where), task.groups(where)
    assert list(groups) == sorted(groups) == list(again)
    for name, shard in groups.items():
        assert TaskPart(name=name).name == name
        assert shard.size > 0
        assert len(shard.held_out[0]) > 0
        assert all(torch.equal(a, b) for a, b in zip(shard.train, again[name].train, strict=True))


def test_a_group_is_shaped_like_the_whole(case: tuple[Task, DataSource]) -> None:
    task, source = case
    if not isinstance(task, Grouped):
        pytest.skip("has no clients of its own")
    whole = task.load(source)
    where = DataSource(source.path if source.path.is_dir() else source.path.parent)
    for shard in task.groups(where).values():
        for part, same in ((shard.train, whole.train), (shard.held_out, whole.held_out)):
            assert [(t.dtype, t.shape[1:]) for t in part] == [(t.dtype, t.shape[1:]) for t in same]


def test_scores_rank_the_held_out_examples(case: tuple[Task, DataSource]) -> None:
    task, source = case
    if not isinstance(task, Scoring):
        pytest.skip("ranks nothing")
    scores, labels = task.scores(task.model(0), task.load(source).held_out)
    assert scores.shape == labels.shape == (len(labels),)
    assert set(labels.tolist()) <= {0.0, 1.0}


def test_predictions_need_no_labels_and_keep_the_order(case: tuple[Task, DataSource]) -> None:
    task, source = case
    if not isinstance(task, Predicting):
        pytest.skip("is not applied to a table")
    with source.path.open(newline="") as file:
        rows = [row[:-1] for row in csv.reader(file)]
    with source.path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    model = task.model(1)
    with torch.no_grad():
        scores = task.predict(model, task.inputs(source))
        assert scores.shape == (len(rows) - 1,)
        with source.path.open("w", newline="") as file:
            csv.writer(file).writerows([rows[0], *rows[:0:-1]])
        torch.testing.assert_close(task.predict(model, task.inputs(source)).flip(0), scores)


def test_good_data_pass_the_check(case: tuple[Task, DataSource]) -> None:
    task, source = case
    assert isinstance(task, Checked)
    assert [finding for finding in task.check(source, 16) if finding.severity == "refuse"] == []


def test_too_few_rows_for_the_batch_refuse(case: tuple[Task, DataSource]) -> None:
    task, source = case
    assert isinstance(task, Checked)
    refusals = [finding for finding in task.check(source, 100_000) if finding.severity == "refuse"]
    assert [finding.check for finding in refusals] == ["batch"]
    assert "fewer than a batch of 100000" in refusals[0].message


def test_data_that_are_not_there_are_one_line_from_load_and_from_check(
    case: tuple[Task, DataSource], tmp_path: Path
) -> None:
    task, _ = case
    missing = DataSource(tmp_path / "nowhere" / "data.csv")
    with pytest.raises(DataError, match="no such") as caught:
        task.load(missing)
    assert "\n" not in str(caught.value)
    assert isinstance(task, Checked)
    assert [(finding.severity, finding.message) for finding in task.check(missing, 1)] == [
        ("refuse", str(caught.value))
    ]


def test_an_unknown_option_is_named(case: tuple[Task, DataSource]) -> None:
    task, source = case
    with pytest.raises(DataError, match="unknown option 'holdoot'; known here: "):
        task.load(DataSource(source.path, {"holdoot": 0.1}))


def test_an_unknown_setting_is_named(case: tuple[Task, DataSource]) -> None:
    task, _ = case
    with pytest.raises(ConfigError, match="unknown field 'nonsense'"):
        build(type(task), {"nonsense": 1})
