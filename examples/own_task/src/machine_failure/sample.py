"""Made-up data of one plant, to try the task with: ``python -m machine_failure.sample FOLDER``."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pyarrow as arrow
from pyarrow import parquet


def write(folder: Path, machines: int = 200, seed: int = 0) -> None:
    """Write machines.csv and readings.parquet; hot, shaking and old machines fail more often."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    kind = random.integers(0, 3, machines)
    age, heat, shake = random.uniform(0, 30, machines), random.normal(60, 15, machines), random.gamma(2, 2.5, machines)
    failed = random.logistic(0, 0.5, machines) < (age - 15) / 10 + (heat - 60) / 15 + (shake - 5) / 5
    with (folder / "machines.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["machine", "kind", "age", "failed"])
        for i in range(machines):
            writer.writerow([i, ("pump", "fan", "press")[kind[i]], f"{age[i]:.1f}", "yes" if failed[i] else "no"])
    readings = {"machine": np.arange(machines), "temperature": heat.round(1), "vibration": shake.round(2)}
    parquet.write_table(arrow.table(readings), folder / "readings.parquet")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m machine_failure.sample FOLDER")
    write(Path(sys.argv[1]))
