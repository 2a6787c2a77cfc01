"""The table of Adult: how it is read, and what of it is an input.

A row is a person; a word is one column of 0 and 1 (``sex_Male``). The columns ``education_`` say what
``education-num`` says, ``fnlwgt`` how many people a row stands for; neither is an input, and of the country only
whether it is the United States. Numbers are scaled by public constants and clipped at 2; nothing is computed over
anyone's rows:

    age             (x - 40) / 20       years; working age
    education-num   (x - 9) / 4         9 is a high-school diploma, 13 a bachelor's degree
    hours-per-week  (x - 40) / 20       40 is a full week
    capital-gain    ln(1 + x) / 10      dollars; 99,999, the largest that is recorded, becomes 1.15
    capital-loss    ln(1 + x) / 10      dollars
"""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from fedsus.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

FILE: Final = "adult.csv"
MAX_BYTES: Final = 64 * 1024 * 1024
NUMBERS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {"age": (40, 20), "education-num": (9, 4), "hours-per-week": (40, 20)}
)
"""Column -> centre and spread."""

DOLLARS: Final = ("capital-gain", "capital-loss")
WORDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "workclass": (
            *("Federal-gov", "Local-gov", "Private", "Self-emp-inc", "Self-emp-not-inc", "State-gov", "Without-pay"),
        ),
        "marital-status": (
            *("Divorced", "Married-AF-spouse", "Married-civ-spouse", "Married-spouse-absent"),
            *("Never-married", "Separated", "Widowed"),
        ),
        "occupation": (
            *("Adm-clerical", "Armed-Forces", "Craft-repair", "Exec-managerial", "Farming-fishing"),
            *("Handlers-cleaners", "Machine-op-inspct", "Other-service", "Priv-house-serv", "Prof-specialty"),
            *("Protective-serv", "Sales", "Tech-support", "Transport-moving"),
        ),
        "relationship": ("Husband", "Not-in-family", "Other-relative", "Own-child", "Unmarried", "Wife"),
        "race": ("Amer-Indian-Eskimo", "Asian-Pac-Islander", "Black", "Other", "White"),
        "sex": ("Female", "Male"),
    }
)
"""Prefix -> words: the column ``sex_Male`` is 1 where the word is so."""

LABELS: Final = ("salary_<=50K", "salary_>50K")
_SENSITIVE: Final = ("race", "sex")
_HOME: Final = "native-country_United-States"
_COUNTRY: Final = "native-country_"


@dataclass(frozen=True, slots=True)
class Rows:
    """Names of the columns, and the values (rows, columns) int64."""

    names: tuple[str, ...]
    values: NDArray[np.int64]

    def column(self, name: str) -> NDArray[np.int64]:
        """(rows,) int64."""
        return self.values[:, self.names.index(name)]

    def where(self, chosen: NDArray[np.bool_]) -> Rows:
        """Some of the rows."""
        return Rows(self.names, self.values[chosen])


def input_names(sensitive: bool) -> list[str]:
    """The columns that are inputs, in order; sex and race among them only if ``sensitive``."""
    words = [f"{word}_{value}" for word in WORDS if sensitive or word not in _SENSITIVE for value in WORDS[word]]
    return [*NUMBERS, *DOLLARS, *words, _HOME]


def encode(rows: Rows, names: Sequence[str]) -> Tensor:
    """Inputs (rows, names) float32, each within [-2, 2]."""
    parts = []
    for name in names:
        values = rows.column(name).astype(np.float64)
        if name in NUMBERS:
            centre, spread = NUMBERS[name]
            values = (values - centre) / spread
        elif name in DOLLARS:
            values = np.log1p(values) / 10
        parts.append(np.clip(values, -2.0, 2.0))
    return torch.from_numpy(np.stack(parts, axis=1).astype(np.float32))


def read_rows(path: Path) -> Rows:
    """Read ``adult.csv`` or ``adult.csv.zip``, the file itself or the one in a folder.

    Raises:
        DataError: no such file, a column is missing, a cell is no whole number, dollars below 0, or a person has not
            exactly one word of each kind.
    """
    file = _file(path)
    header, _, body = _raw(file).partition(b"\n")
    names = tuple(name.strip() for name in header.decode("utf-8", "replace").split(","))
    needed = [*input_names(sensitive=True), *LABELS]
    absent = [name for name in needed if name not in names]
    if absent:
        raise DataError(f"{file}: column '{absent[0][:60]}' is missing; get the file again with: fedsus data get adult")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{file}: two columns are named '{twice[:60]}'")
    if not body.strip():
        raise DataError(f"{file}: no rows")
    try:
        values = np.loadtxt(io.BytesIO(body), dtype=np.int64, delimiter=",", comments=None, ndmin=2)
    except ValueError as error:
        raise DataError(f"{file}: not whole numbers under its header: {str(error).splitlines()[0][:120]}") from None
    if values.shape[1] != len(names):
        raise DataError(f"{file}: {values.shape[1]} fields a row, but the header has {len(names)}")
    rows = Rows(names, values)
    _check(file, rows)
    return rows


def _check(file: Path, rows: Rows) -> None:
    kinds = {word: [f"{word}_{value}" for value in values] for word, values in WORDS.items()}
    kinds["native-country"] = [name for name in rows.names if name.startswith(_COUNTRY)]
    kinds["salary"] = list(LABELS)
    for kind, names in kinds.items():
        columns = np.stack([rows.column(name) for name in names])
        wrong = ~np.isin(columns, (0, 1)).all(axis=0) | (columns.sum(axis=0) != 1)
        if wrong.any():
            raise DataError(f"{file}: row {wrong.argmax() + 1}: not exactly one column '{kind}_...' is 1")
    for name in DOLLARS:
        if (low := rows.column(name)).min() < 0:
            raise DataError(f"{file}: row {low.argmin() + 1}: '{name}' = {low.min()}; 0 or more is expected")


def _raw(file: Path) -> bytes:
    """At most 64 MiB of the table, unpacked if it is zipped."""
    try:
        if file.suffix == ".zip":
            with zipfile.ZipFile(file) as archive, archive.open(FILE) as inside:
                raw = inside.read(MAX_BYTES + 1)
        else:
            with file.open("rb") as plain:
                raw = plain.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, KeyError, EOFError, zlib.error, RuntimeError, NotImplementedError):
        raise DataError(
            f"{file}: not a whole archive with {FILE}; get the file again with: fedsus data get adult"
        ) from None
    if len(raw) > MAX_BYTES:
        raise DataError(f"{file}: larger than {MAX_BYTES} bytes")
    return raw


def _file(path: Path) -> Path:
    how = "get it with: fedsus data get adult"
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"{path}: no such file; {how}")
        return path
    for file in (path / FILE, path / f"{FILE}.zip"):
        if file.is_file():
            return file
    raise DataError(f"{path}: neither {FILE} nor {FILE}.zip is there; {how}")
