"""Heart disease: from 13 clinical attributes to the presence of coronary disease (UCI Heart Disease, four hospitals).

Features are scaled by public constants, the same in every hospital; nothing is computed over anyone's rows:

    attribute  centre  spread  where the numbers come from
    age            55      20  years; adults of 35 to 75, among whom coronary disease is looked for
    trestbps      130      30  mmHg at rest; 130 is where hypertension begins, 160 is well within stage 2
                               (ACC/AHA guideline 2017, https://doi.org/10.1161/HYP.0000000000000065)
    chol          220      60  mg/dl; 200 is borderline and 240 high (NCEP ATP III 2002,
                               https://doi.org/10.1161/circ.106.25.3143)
    thalach       150      30  beats a minute; 220 - age is the expected maximum: 150 at 70 years, 180 at 40
                               (Fox, Naughton and Haskell 1971)
    oldpeak         1       1  mm of ST depression; 1 mm and more is abnormal (ACC/AHA exercise testing 2002,
                               https://doi.org/10.1161/01.CIR.0000034670.06526.15)
    ca              1       1  vessels, 0 to 3 (documentation of the data set, https://doi.org/10.24432/C52P4X)

A scaled number is (x - centre) / spread, within [-2, 2]; words become one column each by the documented categories,
yes and no become 1 and -1. What is missing becomes 0, the neutral value, and sets an indicator. Cholesterol 0 and
pressure 0 mean that nothing was measured.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn import functional

from fedsus.errors import DataError
from fedsus.plan import Strict
from fedsus.tasks.checks import Findings, refuse
from fedsus.tasks.groups import grouped
from fedsus.tasks.seeding import seeded
from fedsus.tasks.split import held_out, known_options, number_option
from fedsus.tasks.table import Category, Column, Number, Table, check_table, read_table
from fedsus.tasks.task import Batch, DataSource, Forward, Shard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedsus.tasks.checks import Finding

HOSPITALS: Final = ("cleveland", "hungary", "switzerland", "va")
MAX_LOSS: Final = 10.0

_ANSWER: Final = ("no", "yes")
FEATURES: Final[Mapping[str, Column]] = MappingProxyType(
    {
        "age": Number(0, 120),
        "sex": Category(("female", "male")),
        "cp": Category(("typical angina", "atypical angina", "non-anginal", "asymptomatic"), missing=0.1),
        "trestbps": Number(40, 300, missing=0.5, blank=(0.0,)),
        "chol": Number(30, 1000, missing=1.0, blank=(0.0,)),
        "fbs": Category(_ANSWER, missing=0.75),
        "restecg": Category(("normal", "st-t abnormality", "lv hypertrophy"), missing=0.1),
        "thalach": Number(30, 250, missing=0.5),
        "exang": Category(_ANSWER, missing=0.5),
        "oldpeak": Number(-10, 10, missing=0.5),
        "slope": Category(("upsloping", "flat", "downsloping"), missing=1.0),
        "ca": Number(0, 3, missing=1.0, whole=True),
        "thal": Category(("normal", "fixed defect", "reversible defect"), missing=1.0),
    }
)
"""The columns, what is plausible in them and what fraction may be missing."""

LABEL: Final[Mapping[str, Column]] = MappingProxyType({"num": Number(0, 4, whole=True)})
"""The diagnosis: 0 is less than 50% narrowing; 1 to 4 mean disease."""

_SCALES: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {
        "age": (55, 20),
        "trestbps": (130, 30),
        "chol": (220, 60),
        "thalach": (150, 30),
        "oldpeak": (1, 1),
        "ca": (1, 1),
    }
)
_OPTIONS: Final = ("holdout", "delimiter", "split")

SPLIT: Final = 982
"""The default ``split``: of 0 to 2999 the one that holds out closest to a quarter of each class in each of the four
shipped files (at most 2.25 rows off). Chosen by these counts alone; no model was trained for it."""


class HeartDiseaseSettings(Strict):
    """What an operator may choose: ``hidden`` units of one layer; 0 is logistic regression."""

    hidden: Annotated[int, Field(ge=0, le=256)] = 0


class HeartDisease:
    """A binary classifier of one logit. Owner's options: ``holdout`` (0.25), ``delimiter`` (","), ``split`` (a number
    that picks another held-out part)."""

    Settings: ClassVar[type[BaseModel]] = HeartDiseaseSettings
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({"loss": (0.0, MAX_LOSS), "accuracy": (0.0, 1.0)})

    def __init__(self, settings: HeartDiseaseSettings) -> None:
        self.settings = settings

    def model(self, seed: int) -> nn.Module:
        """(B, features) -> (B, 1) logits. Logistic regression starts at zero, whatever the seed."""
        with seeded(seed):
            if self.settings.hidden:
                layers = [nn.Linear(_WIDTH, self.settings.hidden), nn.Tanh(), nn.Linear(self.settings.hidden, 1)]
                return nn.Sequential(*layers)
            linear = nn.Linear(_WIDTH, 1)
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
            return linear

    def load(self, source: DataSource) -> Shard:
        """Inputs (n, features) float32 and labels (n,) float32, split as `fedsus.tasks.split.held_out` says."""
        notes = Findings()
        table, labels, out = self._read(source, notes)
        refuse(notes.all)
        if out.all():
            raise DataError(f"{source.path}: no training rows are left; lower the option 'holdout'")
        check_table(table, notes, labels=_words(labels[~out]), training_rows=int((~out).sum()), batch_size=1)
        refuse(notes.all)
        inputs, targets = torch.from_numpy(encode(table)), torch.from_numpy(labels)
        return Shard(train=(inputs[~out], targets[~out]), held_out=(inputs[out], targets[out]))

    def groups(self, source: DataSource) -> Mapping[str, Shard]:
        """Each table of a folder is a hospital, named like its file without the ending."""
        if not source.path.is_dir():
            raise DataError(f"{source.path}: no such folder; one .csv or .parquet file for each hospital is expected")
        tables = _tables(source.path)
        return grouped(str(source.path), ((t.stem, self.load(DataSource(t, source.options))) for t in tables))

    def check(self, source: DataSource, batch_size: int) -> list[Finding]:
        """All that `fedsus.tasks.checks` names."""
        notes = Findings()
        try:
            table, labels, out = self._read(source, notes)
        except DataError as error:
            return notes.ended_by(error)
        if not any(finding.check in ("columns", "types") for finding in notes.all):
            check_table(
                table, notes, labels=_words(labels[~out]), training_rows=int((~out).sum()), batch_size=batch_size
            )
        return notes.all

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        """Binary cross-entropy, (B,)."""
        inputs, targets = batch
        return functional.binary_cross_entropy_with_logits(_logits(model, inputs), targets, reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        """Loss, clamped to its bound, and accuracy, (B, 2)."""
        inputs, targets = batch
        logits = _logits(model, inputs)
        loss = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").clamp(0.0, MAX_LOSS)
        return torch.stack((loss, ((logits > 0) == (targets > 0.5)).to(loss.dtype)), dim=1)

    def scores(self, model: Forward, batch: Batch) -> tuple[Tensor, Tensor]:
        """Probability of disease and label."""
        inputs, targets = batch
        return torch.sigmoid(_logits(model, inputs)), targets

    def inputs(self, source: DataSource) -> Batch:
        """Inputs (n, features) of all rows; the column ``num`` is not needed."""
        known_options(source.options, _OPTIONS)
        return (torch.from_numpy(encode(read_table(_file(source), FEATURES, delimiter=_delimiter(source)))),)

    def predict(self, model: Forward, inputs: Batch) -> Tensor:
        """Probability of disease."""
        return torch.sigmoid(_logits(model, inputs[0]))

    def _read(self, source: DataSource, notes: Findings) -> tuple[Table, NDArray[np.float32], NDArray[np.bool_]]:
        """The table, the labels (n,) float32 and which rows are held out (n,)."""
        known_options(source.options, _OPTIONS)
        fraction = number_option(source.options, "holdout", 0.25, 0.0, 0.9)
        split = number_option(source.options, "split", SPLIT, 0, 2**31 - 1, whole=True)
        table = read_table(_file(source), {**FEATURES, **LABEL}, delimiter=_delimiter(source), findings=notes)
        labels = (table.columns["num"] > 0).astype(np.float32)
        return table, labels, held_out(table.keys(), fraction, int(split))


def shipped(hospital: str) -> Path:
    """Where the CSV of one of `HOSPITALS` is."""
    return Path(__file__).parent / "data" / "heart" / f"{hospital}.csv"


def encode(table: Table) -> NDArray[np.float32]:
    """Features of each row, (rows, features) float32, by the module's fixed table."""
    parts: list[NDArray[np.float64]] = []
    for name, column in FEATURES.items():
        values = table.columns[name]
        absent = np.isnan(values)
        if isinstance(column, Number):
            centre, spread = _SCALES[name]
            parts.append(np.where(absent, 0.0, np.clip((values - centre) / spread, -2.0, 2.0)))
        elif len(column.values) == 2:
            parts.append(np.where(absent, 0.0, values * 2 - 1))
        else:
            parts.extend((values == code).astype(np.float64) for code in range(len(column.values)))
        if column.missing > 0:
            parts.append(absent.astype(np.float64))
    return np.stack(parts, axis=1).astype(np.float32)


def _width() -> int:
    words = {name: len(c.values) for name, c in FEATURES.items() if isinstance(c, Category)}
    return sum((n if (n := words.get(name, 1)) > 2 else 1) + (c.missing > 0) for name, c in FEATURES.items())


_WIDTH: Final = _width()


def _logits(model: Forward, inputs: Tensor) -> Tensor:
    return model(inputs).squeeze(-1).float()


def _words(labels: NDArray[np.float32]) -> list[str]:
    return ["num > 0" if label else "num = 0" for label in labels]


def _delimiter(source: DataSource) -> str:
    return str(source.options.get("delimiter", ","))


def _file(source: DataSource) -> Path:
    """The file itself, or the only table of a folder."""
    if not source.path.is_dir():
        return source.path
    tables = _tables(source.path)
    if len(tables) != 1:
        raise DataError(f"{source.path}: {len(tables)} tables in this folder; one .csv or .parquet file is expected")
    return tables[0]


def _tables(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in (".csv", ".parquet"))
