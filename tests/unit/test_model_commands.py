"""`fedsus model` and the file it writes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from fedsus.commands.model import model
from fedsus.errors import ConfigError, CorruptionError, DataError, EnvironmentFault
from fedsus.model_file import metadata, read_model, task_of, write_model
from fedsus.plan import TaskPart
from fedsus.tasks.heart import shipped

RUN = """
[task]
name = "heart"
settings = { hidden = 4 }
[plan]
rounds = 2
cohort = { size = 4, minimum = 3 }
"""
PART = TaskPart(name="heart", settings={"hidden": 4})
COHORT = {"size": 4, "minimum": 3}


def invoke(*arguments: str | Path) -> str:
    return CliRunner().invoke(model, [str(a) for a in arguments], catch_exceptions=False).output


@pytest.fixture
def first(tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(RUN)
    invoke("init", tmp_path / "run.toml", "-o", tmp_path / "m.safetensors", "--seed", "3")
    return tmp_path / "m.safetensors"


def test_init_writes_the_model_of_the_seed(first: Path, tmp_path: Path) -> None:
    vector, described = read_model(first)
    assert vector.shape == (33 * 4 + 4 + 4 + 1,)
    assert task_of(described) == PART
    assert described["settings"] == '{"hidden":4}'
    said = invoke("init", tmp_path / "run.toml", "-o", tmp_path / "again.safetensors", "--seed", "3")
    assert "141 parameters, task 'heart', seed 3" in said
    again, same = read_model(tmp_path / "again.safetensors")
    assert again.tobytes() == vector.tobytes()
    assert same == described
    invoke("init", tmp_path / "run.toml", "-o", first, "--seed", "4")
    assert read_model(first)[0].tobytes() != vector.tobytes()


def test_init_names_what_is_wrong(tmp_path: Path) -> None:
    for text, message in (
        (RUN.replace("hidden = 4", "hidden = 999"), "'hidden' = 999: should be less than or equal to 256"),
        (RUN.replace('"heart"', '"mine"'), "task 'mine' is not built in; say where its class is: --task module:Class"),
        (RUN + "round = 3\n", "unknown field 'plan.round'; did you mean 'rounds'?"),
    ):
        (tmp_path / "run.toml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            invoke("init", tmp_path / "run.toml", "-o", tmp_path / "m.safetensors")
        assert message in str(caught.value)
    with pytest.raises(ConfigError, match="no such file"):
        invoke("init", tmp_path / "none.toml")
    assert not (tmp_path / "m.safetensors").exists()


def test_init_tells_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(RUN)
    with pytest.raises(EnvironmentFault, match="cannot be written: No such file or directory"):
        invoke("init", tmp_path / "run.toml", "-o", tmp_path / "no" / "m.safetensors")


def test_predict_scores_every_row_without_labels(first: Path, tmp_path: Path) -> None:
    rows = list(csv.reader(shipped("va").read_text().splitlines()))
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(",".join(row[:-1]) for row in rows) + "\n")
    invoke("predict", bare, "--model", first, "-o", tmp_path / "out.csv")
    out = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert out[0] == [*rows[0][:-1], "score"]
    assert [row[:-1] for row in out] == [row[:-1] for row in rows]
    scores = [float(row[-1]) for row in out[1:]]
    assert all(0 < score < 1 for score in scores)
    assert len(set(scores)) > 150
    assert invoke("predict", bare, "--model", first, "--task", "heart") == (tmp_path / "out.csv").read_text()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--task", "fashion-mnist"], ConfigError, "a model of task 'heart', not of 'fashion-mnist'"),
        (["--settings", "hidden=8"], ConfigError, "141 parameters, but the task with these settings has 281"),
        (["--settings", "hidden"], ConfigError, "--settings 'hidden': must be name=value"),
        (["--settings", "hidden=big"], ConfigError, "'hidden' = 'big': should be a valid integer"),
        (["--task", "nowhere:Task"], ConfigError, "module 'nowhere' cannot be imported"),
    ],
)
def test_predict_names_what_is_wrong(first: Path, options: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        invoke("predict", shipped("va"), "--model", first, *options)
    assert message in str(caught.value)


def test_predict_names_bad_data(first: Path, tmp_path: Path) -> None:
    good = shipped("va").read_text()
    for name, text, message in (
        ("a.csv", good.replace("age", "years", 1), "column 'age' is missing"),
        ("a.csv", good.replace(",num\n", ",score\n", 1), "already has a column 'score'; rename it"),
        ("a.txt", good, "a .csv file is expected"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError) as caught:
            invoke("predict", tmp_path / name, "--model", first)
        assert message in str(caught.value)


def test_predict_refuses_a_task_without_tables(tmp_path: Path) -> None:
    part = {"name": "fashion-mnist", "settings": {"network": "mlp", "width": 4}}
    write_model(tmp_path / "m", np.zeros(784 * 4 + 4 + 40 + 10, np.float32), metadata(TaskPart.model_validate(part)))
    with pytest.raises(ConfigError, match="'FashionMnist' cannot be applied to a CSV"):
        invoke("predict", shipped("va"), "--model", tmp_path / "m")


def test_a_model_file_never_names_code_to_import(tmp_path: Path) -> None:
    described = {**metadata(PART), "task": "os:system"}
    write_model(tmp_path / "m", np.zeros(141, np.float32), described)
    with pytest.raises(CorruptionError, match="do not describe a task"):
        invoke("predict", shipped("va"), "--model", tmp_path / "m")


def test_export_writes_what_a_run_released(tmp_path: Path) -> None:
    from fedsus.config import RunConfig
    from fedsus.tasks.heart import HOSPITALS, shipped
    from fedsus.tasks.task import DataSource
    from fedsus_simulations.whole.memory import simulate

    fields = {
        "task": {"name": "heart", "settings": {"hidden": 4}},
        "plan": {"rounds": 1, "cohort": {"size": 3, "minimum": 3}},
    }
    sources = {name: DataSource(shipped(name)) for name in list(HOSPITALS)[:3]}
    start = np.full(141, 0.01, dtype=np.float32)
    vector = simulate(RunConfig.model_validate(fields), tmp_path, "r", start, sources, seed=1)
    assert not np.array_equal(vector, start)
    assert "141 parameters, task 'heart'" in invoke("export", tmp_path)
    stored, described = read_model(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(stored, vector)
    assert task_of(described) == PART


def test_export_of_a_folder_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file; is .* the folder of a run"):
        invoke("export", tmp_path)


def test_broken_model_files_are_refused(first: Path, tmp_path: Path) -> None:
    raw = first.read_bytes()
    for broken in (b"", raw[:40], raw[:-1], raw + b"x", b"\xff" * 100):
        first.write_bytes(broken)
        with pytest.raises(CorruptionError, match="not a whole model file") as caught:
            read_model(first)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="no such file; make one with: fedsus model init"):
        read_model(tmp_path / "none")
    with pytest.raises(ConfigError, match="a folder"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("tensors", "described", "message"),
    [
        ({"other": np.zeros(3, np.float32)}, metadata(PART), "one float32 vector named 'model' is expected"),
        ({"model": np.zeros((3, 1), np.float32)}, metadata(PART), "one float32 vector"),
        ({"model": np.zeros(3)}, metadata(PART), "one float32 vector"),
        ({"model": np.full(3, np.nan, np.float32)}, metadata(PART), "values that are not finite"),
        ({"model": np.zeros(3, np.float32)}, {"task": "heart", "settings": "{}"}, "the metadata lack 'fedsus'"),
        ({"model": np.zeros(3, np.float32)}, {}, "the metadata lack 'task'"),
    ],
)
def test_other_safetensors_files_are_refused(
    tmp_path: Path, tensors: dict[str, Any], described: dict[str, str], message: str
) -> None:
    save_file(tensors, tmp_path / "m", metadata=described)
    with pytest.raises(CorruptionError, match=message):
        read_model(tmp_path / "m")


def test_settings_that_are_not_json_are_refused() -> None:
    with pytest.raises(CorruptionError, match="do not describe a task"):
        task_of({**metadata(PART), "settings": "{"})


@pytest.mark.parametrize("vector", [np.zeros(3), np.zeros((1, 3), np.float32), np.array([np.inf], np.float32)])
def test_only_finite_float32_vectors_are_written(tmp_path: Path, vector: Any) -> None:
    with pytest.raises(ConfigError, match="a model is one finite float32 vector"):
        write_model(tmp_path / "m", vector, metadata(PART))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, names = first.read_bytes(), sorted(tmp_path.iterdir())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedsus.model_file.os.fsync", full)
    with pytest.raises(EnvironmentFault, match="cannot be written: No space left on device"):
        write_model(first, np.ones(3, np.float32), metadata(PART))
    assert first.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == names
