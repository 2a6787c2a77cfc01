"""A model's scores beside the rows of a CSV."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import torch

from fedsus.errors import ConfigError, DataError
from fedsus.tasks.task import DataSource, Predicting

if TYPE_CHECKING:
    from pathlib import Path

    from fedsus.tasks.task import Task

COLUMN = "score"


def score_rows(task: Task, module: torch.nn.Module, path: Path) -> str:
    """The CSV at ``path`` as text, each row with its score in a last column.

    Raises:
        ConfigError: the task cannot be applied to a CSV.
        DataError: the file does not fit the task.
    """
    if not isinstance(task, Predicting):
        raise ConfigError(f"task '{type(task).__name__}' cannot be applied to a CSV: it has no 'inputs' and 'predict'")
    if path.suffix.lower() != ".csv":
        raise DataError(f"{path}: a .csv file is expected")
    inputs = task.inputs(DataSource(path))
    with torch.no_grad():
        scores = task.predict(module, inputs).tolist()
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, *rows = (row for row in csv.reader(file) if row)
    if COLUMN in header:
        raise DataError(f"{path}: already has a column '{COLUMN}'; rename it")
    if len(rows) != len(scores):
        raise DataError(f"{path}: {len(rows)} rows, but the task gave {len(scores)} scores; it must score every row")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, COLUMN])
    writer.writerows([*row, f"{score:.6g}"] for row, score in zip(rows, scores, strict=True))
    return text.getvalue()
