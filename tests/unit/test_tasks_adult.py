"""The census table, its two groups, and what fairness is made of."""

from __future__ import annotations

import math
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_data import ADULT_COLUMNS, adult_text, people, write_adult
from torch import nn

from fedsus.errors import ConfigError, DataError
from fedsus.learning.evaluation import totals
from fedsus.tasks import adult_table
from fedsus.tasks.adult import Adult, AdultSettings, fairness
from fedsus.tasks.adult_table import LABELS, input_names, read_rows
from fedsus.tasks.registry import build
from fedsus.tasks.task import DataSource, Grouped, Scoring

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TASK = Adult(AdultSettings())
NAMES = input_names(sensitive=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adult(tmp_path)


def test_sex_and_race_are_inputs_only_if_asked_for() -> None:
    assert not [name for name in NAMES if name.startswith(("sex", "race"))]
    more = [name for name in input_names(sensitive=True) if name not in NAMES]
    assert [name.partition("_")[0] for name in more] == ["race"] * 5 + ["sex"] * 2


@pytest.mark.parametrize("name", ["sex_Male", "race_White"])
def test_a_model_without_them_answers_the_same_for_both_groups(tmp_path: Path, name: str) -> None:
    rows = people(30)
    kind = name.partition("_")[0]
    changed = [{k: int(k == name) if k.startswith(f"{kind}_") else v for k, v in row.items()} for row in rows]
    for asked in (False, True):
        task = build(Adult, {"sensitive_inputs": asked, "hidden": 4})
        inputs = []
        for number, table in enumerate((rows, changed)):
            (place := tmp_path / f"{asked}{number}").mkdir()
            inputs.append(task.load(DataSource(write_adult(place, table), {"holdout": 0})).train[0])
        assert torch.equal(*inputs) is not asked


def test_numbers_are_scaled_by_public_constants(tmp_path: Path) -> None:
    row, other = people(2)
    row |= {"age": 60, "education-num": 13, "hours-per-week": 99, "capital-gain": 99_999, "capital-loss": 0}
    row |= dict.fromkeys(LABELS, 0) | {LABELS[0]: 1}
    other |= dict.fromkeys(LABELS, 0) | {LABELS[1]: 1}
    write_adult(tmp_path, [row, other])
    inputs, labels, _ = TASK.load(DataSource(tmp_path, {"holdout": 0})).train
    assert inputs[0, :5].tolist() == pytest.approx([1, 1, 2, math.log(100_000) / 10, 0])
    assert labels.tolist() == [0, 1]
    assert inputs[0, NAMES.index("workclass_Federal-gov")] == 1
    assert inputs[0, 5:].sum() == 4 + row["native-country_United-States"]


def test_the_file_may_be_zipped_or_not(folder: Path, tmp_path: Path) -> None:
    before = TASK.load(DataSource(folder))
    plain = tmp_path / "other.csv"
    plain.write_text(adult_text(people()))
    after = TASK.load(DataSource(plain))
    assert all(torch.equal(a, b) for a, b in zip(before.train, after.train, strict=True))


def test_the_split_is_a_question_about_one_row_alone(folder: Path, tmp_path: Path) -> None:
    whole = TASK.load(DataSource(folder))
    (tmp_path / "turned.csv").write_text(adult_text(people()[:0:-1]))
    turned = TASK.load(DataSource(tmp_path / "turned.csv"))
    assert whole.size + len(whole.held_out[0]) == 240
    one_less = (whole.train[0][1:], whole.train[0])
    assert any(torch.equal(turned.train[0].flip(0), rows) for rows in one_less)


def test_occupations_or_countries_are_the_clients(folder: Path) -> None:
    assert isinstance(TASK, Grouped)
    jobs = TASK.groups(DataSource(folder))
    assert list(jobs) == ["adm-clerical", "armed-forces", "craft-repair"]
    assert jobs["armed-forces"].train[0][:, NAMES.index("occupation_Armed-Forces")].all()
    countries = TASK.groups(DataSource(folder, {"by": "country"}))
    assert list(countries) == ["outlying-us-guam-usvi-etc", "trinadad-tobago", "united-states"]
    sizes = [shard.size + len(shard.held_out[0]) for shard in countries.values()]
    assert sizes == [30, 30, 180]
    assert list(TASK.groups(DataSource(folder, {"by": "country", "least": 31}))) == ["united-states"]
    alone = TASK.load(DataSource(folder, {"group": "craft-repair"}))
    assert torch.equal(alone.train[0], jobs["craft-repair"].train[0])


def test_metrics_count_each_group(tmp_path: Path) -> None:
    class Says(nn.Module):
        """A logit by education alone: more than 5 years."""

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return (inputs[:, NAMES.index("education-num")] * 4 + 9 > 5).float()[:, None] - 0.5

    rows = people()
    batch = TASK.load(DataSource(write_adult(tmp_path, rows), {"holdout": 0})).train
    sums = dict(zip(TASK.bounds, totals(TASK, Says(), batch), strict=True))
    for group, column in (("women", "sex_Female"), ("men", "sex_Male")):
        own = [row for row in rows if row[column]]
        said, does = [row["education-num"] > 5 for row in own], [bool(row[LABELS[1]]) for row in own]
        assert sums[group] == len(own)
        assert sums[f"{group}_correct"] == sum(a == b for a, b in zip(said, does, strict=True))
        assert sums[f"{group}_predicted"] == sum(said)
        assert sums[f"{group}_actual"] == sum(does)
        assert sums[f"{group}_found"] == sum(a and b for a, b in zip(said, does, strict=True))
    assert sums["accuracy"] == sums["women_correct"] + sums["men_correct"]


def test_fairness_of_a_known_table() -> None:
    sums = {"women": 10, "women_correct": 8, "women_predicted": 2, "women_actual": 4, "women_found": 2}
    sums |= {"men": 20, "men_correct": 15, "men_predicted": 11, "men_actual": 8, "men_found": 7, "loss": 3}
    told = fairness(sums)
    assert told == fairness({name: value / 30 for name, value in sums.items()}) | told
    assert told["women_positive_rate"] == pytest.approx(0.2)
    assert told["men_false_positive_rate"] == pytest.approx(4 / 12)
    assert told["accuracy_difference"] == pytest.approx(0.05)
    assert told["demographic_parity_difference"] == pytest.approx(11 / 20 - 0.2)
    assert told["equal_opportunity_difference"] == pytest.approx(7 / 8 - 0.5)
    assert told["equalized_odds_difference"] == pytest.approx(7 / 8 - 0.5)


def test_what_would_divide_by_zero_is_left_out() -> None:
    sums = {f"{g}{c}": 0.0 for g in ("white", "nonwhite") for c in ("", "_correct", "_predicted", "_actual", "_found")}
    sums |= {"white": 3, "white_correct": 3}
    assert fairness(sums) == {"white_accuracy": 1, "white_positive_rate": 0, "white_false_positive_rate": 0}
    with pytest.raises(DataError, match="no metrics of two groups, such as women, women_correct"):
        fairness({"loss": 1.0})


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_fairness_is_that_of_the_examples_and_within_its_range(examples: list[tuple[bool, bool, bool]]) -> None:
    logits = torch.tensor([[1.0 if said else -1.0] for said, _, _ in examples])
    labels, second = (torch.tensor([float(e[i]) for e in examples]) for i in (1, 2))
    values = TASK.measure(nn.Identity(), (logits, labels, second)).sum(dim=0)
    told = fairness(dict(zip(TASK.bounds, values.tolist(), strict=True)))
    assert all(0 <= value <= 1 for value in told.values())
    for group, place in (("women", False), ("men", True)):
        own = [(said, does) for said, does, second in examples if second == place]
        if own:
            assert told[f"{group}_positive_rate"] == pytest.approx(np.mean([said for said, _ in own]))
            assert told[f"{group}_accuracy"] == pytest.approx(np.mean([said == does for said, does in own]))
        if actual := [said for said, does in own if does]:
            assert told[f"{group}_true_positive_rate"] == pytest.approx(np.mean(actual))


def test_income_can_be_learnt_and_ranked(folder: Path) -> None:
    shard, model = TASK.load(DataSource(folder)), TASK.model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        TASK.loss(model, shard.train).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert TASK.measure(model, shard.held_out)[:, 1].mean() > 0.85
    assert isinstance(TASK, Scoring)
    scores, labels = TASK.scores(model, shard.held_out)
    assert scores[labels == 1].mean() > scores[labels == 0].mean() + 0.3


def test_equal_rows_are_told(tmp_path: Path) -> None:
    write_adult(tmp_path, [*people(), people()[0]])
    told = [f"{f.check}: {f.message}" for f in TASK.check(DataSource(tmp_path), 4)]
    assert told == [
        f"duplicates: {tmp_path}: 1 row is a duplicate of another; if one person is behind them, remove them"
    ]


def _cell(column: str, value: object) -> Callable[[str], str]:
    place = ADULT_COLUMNS.index(column)

    def change(text: str) -> str:
        lines = text.splitlines()
        cells = lines[3].split(",")
        cells[place] = str(value)
        return "\n".join([*lines[:3], ",".join(cells), *lines[4:]])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("age,", "years,", 1),
            "column 'age' is missing; get the file again with: fedsus data",
        ),
        (lambda text: text.replace("fnlwgt", "age", 1), "two columns are named 'age'"),
        (lambda text: text.partition("\n")[0], "no rows"),
        (lambda _: "", "column 'age' is missing"),
        (lambda text: text[: len(text) // 2 + 7], "not whole numbers under its header: "),
        (
            lambda text: "\n".join(line + ",1" * (i > 0) for i, line in enumerate(text.splitlines())),
            "fields a row, but",
        ),
        (_cell("age", "old"), "not whole numbers under its header: could not convert string 'old'"),
        (_cell("age", "1.5"), "not whole numbers under its header: could not convert string '1.5'"),
        (_cell("age", 2**70), "not whole numbers under its header: "),
        (_cell("sex_Male", 7), "row 3: not exactly one column 'sex_...' is 1"),
        (_cell("sex_Female", 0), "row 3: not exactly one column 'sex_...' is 1"),
        (_cell("native-country_United-States", 2), "row 3: not exactly one column 'native-country_...' is 1"),
        (_cell("capital-loss", -5), "row 3: 'capital-loss' = -5; 0 or more is expected"),
    ],
)
def test_a_bad_table_is_one_line(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    path = tmp_path / "adult.csv"
    rows = people()
    rows[2] |= {"sex_Male": 0, "sex_Female": 1}
    path.write_text(change(adult_text(rows)))
    with pytest.raises(DataError) as caught:
        TASK.load(DataSource(tmp_path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [finding.message for finding in TASK.check(DataSource(tmp_path), 1)] == [str(caught.value)]


def test_one_class_only_is_told(tmp_path: Path) -> None:
    rows = [row | {LABELS[0]: 1, LABELS[1]: 0} for row in people()]
    with pytest.raises(DataError, match=r"rows have the label salary_<=50K; two classes are needed"):
        TASK.load(DataSource(write_adult(tmp_path, rows)))


def test_a_broken_archive_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "adult.csv.zip"
    whole = path.read_bytes()
    for raw in (b"", whole[:200], whole[:-30], whole.replace(b"adult.csv", b"other.csv")):
        path.write_bytes(raw)
        with pytest.raises(DataError, match=r"not a whole archive with adult\.csv; get the file again with"):
            TASK.load(DataSource(folder))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../adult.csv", "age\n")
    with pytest.raises(DataError, match="not a whole archive"):
        TASK.load(DataSource(folder))
    assert not (folder.parent / "adult.csv").exists()
    write_adult(folder)
    monkeypatch.setattr(adult_table, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="larger than 1000 bytes"):
        TASK.load(DataSource(folder))


def test_settings_options_and_missing_files_say_what_to_do(folder: Path) -> None:
    with pytest.raises(ConfigError, match="'sensitive' = 'age'"):
        build(Adult, {"sensitive": "age"})
    for options, message in (
        ({"by": "sex"}, "option 'by' = 'sex': must be one of occupation, country"),
        ({"by": ["x"]}, r"option 'by' = \['x'\]: must be one of"),
        ({"group": "craft-repare"}, r"option 'group' = 'craft-repare': not in .*; did you mean 'craft-repair'\?"),
        ({"least": 1.5}, "option 'least' = 1.5: must be a whole number"),
        ({"least": 1000}, "no occupation has 1000 rows; lower the option 'least'"),
    ):
        with pytest.raises(DataError, match=message):
            TASK.groups(DataSource(folder, options))
    for where, message in (
        (folder / "no.csv", "no such file"),
        (folder.parent, r"neither adult\.csv nor adult\.csv\.zip"),
    ):
        with pytest.raises(DataError, match=f"{message}.*; get it with: fedsus data get adult"):
            read_rows(where)
