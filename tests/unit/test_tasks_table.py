"""Tables of owners, good and bad."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as arrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from fedsus.errors import DataError
from fedsus.tasks.checks import Findings, refuse
from fedsus.tasks.split import held_out, known_options, number_option
from fedsus.tasks.table import Category, Number, check_table, read_table

if TYPE_CHECKING:
    from pathlib import Path

    from fedsus.tasks.table import Column

COLUMNS: dict[str, Column] = {
    "age": Number(0, 120, missing=0.5, blank=(0.0,)),
    "sex": Category(("f", "m")),
    "n": Number(0, 9, whole=True),
}
GOOD = "age,sex,n\n50,f,1\n,M,2\n0,m,3\n"


def _write(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_a_csv_becomes_numbers_codes_and_missing_values(tmp_path: Path) -> None:
    path = _write(tmp_path, "n,age,sex\n1,50,f\n2,,M\n3,25,m\n")
    table = read_table(path, COLUMNS)
    np.testing.assert_array_equal(table.columns["age"], [50, np.nan, 25])
    np.testing.assert_array_equal(table.columns["sex"], [0, 1, 1])
    np.testing.assert_array_equal(table.columns["n"], [1, 2, 3])
    assert table.rows == 3
    assert list(table.columns) == ["age", "sex", "n"]


def test_a_number_that_means_not_measured_is_missing(tmp_path: Path) -> None:
    notes = Findings()
    table = read_table(_write(tmp_path, GOOD), COLUMNS, findings=notes)
    assert np.isnan(table.columns["age"]).tolist() == [False, True, True]
    assert [f.check for f in notes.all] == ["missing"]


def test_parquet_and_csv_give_the_same_table_and_keys(tmp_path: Path) -> None:
    parquet.write_table(
        arrow.table({"age": [50, None, 20], "sex": ["f", "M", "m"], "n": [1, 2, 3]}), tmp_path / "t.parquet"
    )
    ours = read_table(tmp_path / "t.parquet", COLUMNS)
    theirs = read_table(_write(tmp_path, "age,sex,n\n50,f,1\n,m,2\n20,m,3\n"), COLUMNS)
    assert ours.keys() == theirs.keys()


def test_a_byte_order_mark_and_another_delimiter_are_read(tmp_path: Path) -> None:
    path = _write(tmp_path, "\ufeffage;sex;n\n50;f;1\n")
    assert read_table(path, COLUMNS, delimiter=";").rows == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty; a header with column names is expected"),
        ("age,sex,n\n", "no rows"),
        ("age,sex\n50,f\n", "column 'n' is missing; needed: age, sex, n"),
        ("age,sex,n,n\n50,f,1,1\n", "two columns are named 'n'"),
        ("age,sex,n\n50,f\n", "line 2: 2 fields, but the header has 3; delimiter ','?"),
        ("age;sex;n\n50;f;1\n", "column 'age' is missing"),
        ("age,sex,n\nold,f,1\nx,f,1\n", "column 'age', line 2: 'old' is not a number (and 1 more)"),
        ("age,sex,n\ninf,f,1\n", "'inf' is not a number"),
        ("age,sex,n\n50,x,1\n", "column 'sex', line 2: 'x' is not one of f, m"),
        ("age,sex,n\n50,f,1.5\n", "column 'n', line 2: '1.5' is not a whole number"),
        ("age,sex,n\n50,,1\n50,f,1\n", "column 'sex': 1 of 2 values are missing; at most 0% is allowed"),
        ("age,sex,n\n50,f,1\n,f,1\nnan,f,1\n", "column 'age': 2 of 3 values are missing; at most 50% is allowed"),
        ('age,sex,n\n"50,f,1\n', "not a CSV file in UTF-8"),
    ],
)
def test_a_bad_csv_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_table(path, COLUMNS)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_files_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, raw, message in (
        ("t.csv", b"age,sex,n\n\xff,f,1\n", "not a CSV file in UTF-8"),
        ("t.parquet", b"PAR1 and then nothing", "not a Parquet file"),
        ("t.xlsx", b"x", r"unknown kind of table '\.xlsx'; \.csv and \.parquet are read"),
    ):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(DataError, match=message):
            read_table(tmp_path / name, COLUMNS)
    with pytest.raises(DataError, match="a folder; a file is expected"):
        read_table(tmp_path, COLUMNS)
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "none.csv", COLUMNS)
    with pytest.raises(DataError, match="option 'delimiter' = ',,': must be one character"):
        read_table(tmp_path / "t.csv", COLUMNS, delimiter=",,")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow: pip install 'fedsus\[parquet\]'"):
        read_table(tmp_path / "t.parquet", COLUMNS)


def test_values_out_of_range_are_clamped_and_told(tmp_path: Path) -> None:
    notes = Findings()
    table = read_table(_write(tmp_path, "age,sex,n\n500,f,1\n50,f,1\n"), COLUMNS, findings=notes)
    assert table.columns["age"].tolist() == [120, 50]
    assert [(f.check, f.severity) for f in notes.all] == [("range", "warn")]
    assert "1 values outside 0 to 120, as 500" in notes.all[0].message


def test_a_task_declares_what_refuses(tmp_path: Path) -> None:
    path = _write(tmp_path, "age,sex,n,more\n500,f,1,1\n")
    assert read_table(path, COLUMNS).rows == 1
    with pytest.raises(DataError, match="outside 0 to 120"):
        read_table(path, COLUMNS, severities={"range": "refuse"})
    notes = Findings({"types": "warn"})
    read_table(_write(tmp_path, "age,sex,n\nold,f,1\n20,f,1\n"), COLUMNS, findings=notes)
    assert [(f.check, f.severity) for f in notes.all] == [("types", "warn")]


def test_the_checks_of_the_whole_table(tmp_path: Path) -> None:
    notes = Findings()
    table = read_table(_write(tmp_path, "age,sex,n\n50,f,1\n50,f,1\n50,f,1\n"), COLUMNS, findings=notes)
    check_table(table, notes, labels=table.columns["sex"].tolist(), training_rows=3, batch_size=4)
    assert [(f.check, f.severity) for f in notes.all] == [
        ("classes", "refuse"),
        ("batch", "refuse"),
        ("duplicates", "warn"),
    ]
    assert "2 rows are duplicates" in notes.all[2].message
    with pytest.raises(DataError, match=r"all 3 rows have the label 0\.0; two classes are needed \(and 1 more\)"):
        refuse(notes.all)


ROWS = st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), min_size=1, max_size=30)


@given(rows=ROWS, extra=st.tuples(st.text(max_size=3), st.text(max_size=3)), place=st.integers(0, 30))
def test_one_more_row_moves_no_other_row(rows: list[tuple[str, ...]], extra: tuple[str, ...], place: int) -> None:
    before = held_out(rows, 0.3, 7).tolist()
    after = held_out([*rows[:place], extra, *rows[place:]], 0.3, 7).tolist()
    del after[min(place, len(rows))]
    assert after == before


def test_the_split_is_pinned_and_holds_out_its_fraction() -> None:
    keys = [(str(i), "x") for i in range(20_000)]
    assert [i for i, out in enumerate(held_out(keys[:12], 0.25, 982)) if out] == [0, 3, 4, 8]
    for fraction in (0.0, 0.1, 0.5):
        assert abs(held_out(keys, fraction, 1).mean() - fraction) < 0.012
    assert (held_out(keys, 0.5, 1) != held_out(keys, 0.5, 2)).mean() > 0.4


def test_options_are_checked() -> None:
    assert number_option({"holdout": 0}, "holdout", 0.25, 0, 0.9) == 0
    for value in (1, -0.1, "0.2", True, float("nan")):
        with pytest.raises(DataError, match=r"option 'holdout' = .*: must be a number from 0 to 0\.9"):
            number_option({"holdout": value}, "holdout", 0.25, 0, 0.9)
    with pytest.raises(DataError, match=r"option 'split' = 1\.5: must be a whole number from 0 to 9"):
        number_option({"split": 1.5}, "split", 0, 0, 9, whole=True)
    with pytest.raises(DataError, match="unknown option 'x'; known here: a, b"):
        known_options({"x": 1}, ("a", "b"))
