"""Tables of an owner's data: CSV and Parquet files read strictly by a task's own description of its columns.

Needs neither torch nor pandas; Parquet needs pyarrow (``pip install 'fedsus[parquet]'``).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fedsus.errors import DataError
from fedsus.tasks.checks import Findings, Severity, duplicates, one_class, refuse, too_few

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_BLANK = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})
_NONE: Mapping[str, Severity] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Number:
    """A column of numbers.

    Attributes:
        low, high: plausible range; a value outside is clamped into it and reported.
        missing: the largest fraction of rows that may be missing, 0 to 1.
        blank: values that mean "not measured".
        whole: only whole numbers are allowed.
    """

    low: float
    high: float
    missing: float = 0.0
    blank: tuple[float, ...] = ()
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Category:
    """A column of words; ``values`` in the order of their codes 0, 1, ...; case does not count."""

    values: tuple[str, ...]
    missing: float = 0.0


Column: TypeAlias = Number | Category


@dataclass(frozen=True, slots=True)
class Table:
    """Columns by name, in file order, all (rows,) float64: a number, or a category's code; NaN where missing."""

    path: Path
    columns: Mapping[str, NDArray[np.float64]]
    rows: int

    def keys(self) -> list[tuple[str, ...]]:
        """The content of each row, in the order of the task's columns, equal on every machine."""
        return [tuple(map(repr, row)) for row in zip(*(c.tolist() for c in self.columns.values()), strict=True)]


def read_table(
    path: Path,
    columns: Mapping[str, Column],
    *,
    delimiter: str = ",",
    severities: Mapping[str, Severity] = _NONE,
    findings: Findings | None = None,
) -> Table:
    """Read a ``.csv`` or ``.parquet`` file.

    Args:
        columns: the columns to read; others are reported and skipped.
        delimiter: of a CSV file, one character.
        severities: what the task refuses and warns of, where it differs from `fedsus.tasks.checks.SEVERITIES`.
        findings: receives what is found, and nothing is raised for it; None raises the first refusal.

    Raises:
        DataError: the file cannot be read as a table, or (``findings`` None) one line for the first refusal.
    """
    notes = findings if findings is not None else Findings(severities)
    header, cells = _cells(path, delimiter)
    absent = [name for name in columns if name not in header]
    if absent:
        notes.add("columns", f"{path}: column '{absent[0]}' is missing; needed: {', '.join(columns)}")
    extra = [name for name in header if name not in columns]
    if extra:
        notes.add("extra", f"{path}: columns that the task does not read: {', '.join(extra[:8])}")
    rows = list(cells)
    if not rows:
        raise DataError(f"{path}: no rows")
    values = {}
    for name, column in columns.items():
        if name in header:
            place = header.index(name)
            values[name] = _column(f"{path}: column '{name}'", [(at, row[place]) for at, row in rows], column, notes)
        else:
            values[name] = np.full(len(rows), np.nan)
    if findings is None:
        refuse(notes.all)
    return Table(path, values, len(rows))


def check_table(
    table: Table, findings: Findings, *, labels: Sequence[Any] | None = None, training_rows: int, batch_size: int
) -> None:
    """The checks of a table as a whole: one class only, too few rows for a batch, duplicates."""
    if labels is not None:
        one_class(str(table.path), labels, findings)
    too_few(str(table.path), training_rows, batch_size, findings)
    duplicates(str(table.path), table.keys(), findings)


Cells: TypeAlias = Iterator[tuple[str, Sequence[Any]]]


def _cells(path: Path, delimiter: str) -> tuple[list[str], Cells]:
    """Header and rows; a row comes with its place in words ("line 7")."""
    if not path.is_file():
        raise DataError(f"{path}: {'a folder; a file is expected' if path.is_dir() else 'no such file'}")
    match path.suffix.lower():
        case ".csv":
            return _csv(path, delimiter)
        case ".parquet":
            return _parquet(path)
    raise DataError(f"{path}: unknown kind of table '{path.suffix}'; .csv and .parquet are read")


def _csv(path: Path, delimiter: str) -> tuple[list[str], Cells]:
    if len(delimiter) != 1:
        raise DataError(f"option 'delimiter' = {delimiter!r}: must be one character")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = [(f"line {reader.line_num}", row) for row in reader if row]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8: {error}") from None
    _check_header(path, header)
    for place, row in rows:
        if len(row) != len(header):
            raise DataError(
                f"{path}: {place}: {len(row)} fields, but the header has {len(header)}; delimiter {delimiter!r}?"
            )
    return header, iter(rows)


def _parquet(path: Path) -> tuple[list[str], Cells]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install 'fedsus[parquet]'") from None
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None
    header = list(table.column_names)
    _check_header(path, header)
    lists = [column.to_pylist() for column in table.columns]
    return header, ((f"row {i + 1}", row) for i, row in enumerate(zip(*lists, strict=True)))


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise DataError(f"{path}: empty; a header with column names is expected")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: two columns are named '{twice}'")


def _column(where: str, cells: list[tuple[str, Any]], column: Column, notes: Findings) -> NDArray[np.float64]:
    """Values of one column; wrong cells, and wrong cells only, are reported once with the first as the example."""
    values = np.full(len(cells), np.nan)
    wrong: list[str] = []
    for i, (place, cell) in enumerate(cells):
        if cell is None or (isinstance(cell, float) and math.isnan(cell)) or str(cell).strip().lower() in _BLANK:
            continue
        value = _number(cell, column) if isinstance(column, Number) else _code(cell, column)
        if value is None:
            wrong.append(f"{place}: {str(cell)[:40]!r}")
        else:
            values[i] = value
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        notes.add("types", f"{where}, {wrong[0]} is not {_expected(column)}{more}")
    if isinstance(column, Number):
        values = _plausible(where, values, column, notes)
    absent = int(np.isnan(values).sum()) - len(wrong)
    if absent > column.missing * len(cells):
        notes.add(
            "missing", f"{where}: {absent} of {len(cells)} values are missing; at most {column.missing:.0%} is allowed"
        )
    return values


def _number(cell: Any, column: Number) -> float | None:
    if isinstance(cell, bool):
        return None
    try:
        value = float(cell)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and (not column.whole or value.is_integer()) else None


def _code(cell: Any, column: Category) -> float | None:
    word = str(cell).strip().lower()
    for code, value in enumerate(column.values):
        if value.lower() == word:
            return float(code)
    return None


def _expected(column: Column) -> str:
    if isinstance(column, Category):
        return f"one of {', '.join(column.values)}"
    return "a whole number" if column.whole else "a number"


def _plausible(where: str, values: NDArray[np.float64], column: Number, notes: Findings) -> NDArray[np.float64]:
    values = np.where(np.isin(values, column.blank), np.nan, values)
    outside = (values < column.low) | (values > column.high)
    if outside.any():
        example = values[outside][0]
        notes.add(
            "range", f"{where}: {int(outside.sum())} values outside {column.low:g} to {column.high:g}, as {example:g}"
        )
    return np.clip(values, column.low, column.high)
