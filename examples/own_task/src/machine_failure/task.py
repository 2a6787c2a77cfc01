"""Which machine will fail within a month, from a plant's list of machines and its sensors.

A plant keeps `machines.csv` (machine, kind, age, failed) and `readings.parquet` (machine, temperature, vibration).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedsus.errors import DataError
from fedsus.plan import Strict
from fedsus.tasks.checks import Findings, refuse
from fedsus.tasks.seeding import seeded
from fedsus.tasks.split import held_out, known_options, number_option
from fedsus.tasks.table import Category, Number, Table, check_table, read_table
from fedsus.tasks.task import Shard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from pydantic import BaseModel

    from fedsus.tasks.checks import Finding
    from fedsus.tasks.table import Column
    from fedsus.tasks.task import Batch, DataSource, Forward

MACHINES: Mapping[str, Column] = {
    "machine": Number(0, 1e9, whole=True),
    "kind": Category(("pump", "fan", "press")),
    "age": Number(0, 60, missing=0.2),
}
FAILED: Mapping[str, Column] = {"failed": Category(("no", "yes"))}
READINGS: Mapping[str, Column] = {
    "machine": Number(0, 1e9, whole=True),
    "temperature": Number(-40, 200, missing=0.2),
    "vibration": Number(0, 50, missing=0.2),
}
SCALES = {"age": (10.0, 10.0), "temperature": (60.0, 20.0), "vibration": (5.0, 5.0)}
FEATURES = 3 + 2 * len(SCALES)


class MachineFailureSettings(Strict):
    """What an operator may choose."""

    hidden: Annotated[int, Field(ge=1, le=64)] = 8


class MachineFailure:
    """Owner's options: ``readings`` (the Parquet file beside the CSV) and ``holdout``."""

    Settings: ClassVar[type[BaseModel]] = MachineFailureSettings
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({"loss": (0.0, 10.0), "accuracy": (0.0, 1.0)})

    def __init__(self, settings: MachineFailureSettings) -> None:
        self.settings = settings

    def model(self, seed: int) -> nn.Module:
        """A small network; the same seed gives the same model."""
        with seeded(seed):
            hidden = self.settings.hidden
            return nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def load(self, source: DataSource) -> Shard:
        """Inputs and labels of the machines, split row by row."""
        notes = Findings()
        machines, inputs, out = self._read(source, notes)
        labels = machines.columns["failed"].astype(np.float32)
        x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
        return Shard(train=(x[~out], y[~out]), held_out=(x[out], y[out]))

    def check(self, source: DataSource, batch_size: int) -> list[Finding]:
        """What the plant is told before the first round."""
        notes = Findings()
        try:
            machines, _, out = self._read(source, notes)
        except DataError as error:
            return notes.ended_by(error)
        labels = machines.columns["failed"][~out].tolist()
        check_table(machines, notes, labels=labels, training_rows=int((~out).sum()), batch_size=batch_size)
        return notes.all

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        """Binary cross-entropy of each machine."""
        inputs, labels = batch
        return binary_cross_entropy_with_logits(model(inputs).squeeze(-1), labels, reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        """Loss and accuracy of each machine."""
        inputs, labels = batch
        logits = model(inputs).squeeze(-1)
        loss = binary_cross_entropy_with_logits(logits, labels, reduction="none").clamp(0.0, 10.0)
        return torch.stack((loss, ((logits > 0) == (labels > 0.5)).float()), dim=1)

    def inputs(self, source: DataSource) -> Batch:
        """Inputs of all machines, for `fedsus model predict`; no labels are needed."""
        notes = Findings()
        machines = read_table(source.path, MACHINES, findings=notes)
        readings = self._readings(source, notes)
        refuse(notes.all)
        return (torch.from_numpy(encode(machines, readings)),)

    def predict(self, model: Forward, inputs: Batch) -> Tensor:
        """Probability that the machine fails."""
        return torch.sigmoid(model(inputs[0]).squeeze(-1))

    def _read(self, source: DataSource, notes: Findings) -> tuple[Table, NDArray[np.float32], NDArray[np.bool_]]:
        known_options(source.options, ("readings", "holdout"))
        fraction = number_option(source.options, "holdout", 0.25, 0.0, 0.9)
        machines = read_table(source.path, {**MACHINES, **FAILED}, findings=notes)
        readings = self._readings(source, notes)
        refuse(notes.all)
        return machines, encode(machines, readings), held_out(machines.keys(), fraction, split=0)

    def _readings(self, source: DataSource, notes: Findings) -> Table:
        name = str(source.options.get("readings", "readings.parquet"))
        return read_table(source.path.parent / name, READINGS, findings=notes)


def encode(machines: Table, readings: Table) -> NDArray[np.float32]:
    """One row of features a machine: its kind, then age, temperature and vibration, each with "is missing"."""
    place = {machine: row for row, machine in enumerate(readings.columns["machine"].tolist())}
    try:
        rows = [place[machine] for machine in machines.columns["machine"].tolist()]
    except KeyError as error:
        raise DataError(f"{readings.path}: no readings of machine {error.args[0]:g}") from None
    columns = [machines.columns["kind"] == code for code in range(3)]
    values = {
        "age": machines.columns["age"],
        **{name: readings.columns[name][rows] for name in SCALES if name != "age"},
    }
    for name, (centre, spread) in SCALES.items():
        absent = np.isnan(values[name])
        columns += [np.where(absent, 0.0, (values[name] - centre) / spread), absent]
    return np.stack(columns, axis=1).astype(np.float32)
