"""Small files of the formats that the built-in tasks read, made up."""

from __future__ import annotations

import csv
import io
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from fedsus.tasks.adult_table import LABELS, WORDS

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = ["ax", "ay", "az", "wx", "wy", "wz"]
COUNTRIES = ("United-States", "Trinadad&Tobago", "Outlying-US(Guam-USVI-etc)")
ADULT_COLUMNS = [
    *("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week"),
    *(f"{word}_{value}" for word, values in WORDS.items() for value in values),
    *(f"native-country_{country}" for country in COUNTRIES),
    *LABELS,
]


def pickled(content: Any) -> bytes:
    """A .npy file of one object, written as numpy did for Python 2."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    whole = np.empty((), dtype=object)
    whole[()] = content
    return file.getvalue() + pickle.dumps(whole, protocol=2)


def recordings(persons: int = 3, samples: int = 400) -> dict[str, Any]:
    """One recording of each exercise by each person; an exercise lifts or lowers one channel."""
    random = np.random.default_rng(0)
    labels, subjects = np.tile(np.arange(7), persons), np.repeat(np.arange(1, persons + 1), 7)
    waves = [np.asfortranarray(random.normal(0, 0.1, (samples, 6))) for _ in labels]
    for wave, label in zip(waves, labels, strict=True):
        wave[:, label % 6] += 1 - 2 * (label // 6)
    side = np.zeros(len(labels))
    return {
        "X": waves,
        "y": labels,
        "subject": subjects,
        "side": side,
        "X_labels": CHANNELS,
        "y_labels": list("abcdefg"),
    }


def write_watch(folder: Path, content: dict[str, Any] | None = None) -> Path:
    """``watch_dataset.npy`` in a folder."""
    (folder / "watch_dataset.npy").write_bytes(pickled(recordings() if content is None else content))
    return folder


def write_plays(folder: Path, lines: int = 60) -> Path:
    """Two plays; in each, two roles speak ``lines`` lines, and one speaks one."""
    for play in ("first", "second"):
        acts = [f"# {play}\n\n## ACT I\n"]
        for i in range(lines):
            acts.append(f"**ANNA**  \nWhat say you, good sir, number {'x' * (i % 5)}?  \nI ask again.\n")
            acts.append(
                f"_Enter one\nwith a lamp_\n\n**Old Ben**  \nNothing, my lady. _Aside_ Nothing {'y' * (i % 7)}!\n"
            )
        acts.append("**MUTE**\nAh.\n")
        (folder / f"{play}.md").write_text("\n".join(acts), encoding="utf-8")
    return folder


def people(count: int = 240) -> list[dict[str, int]]:
    """Persons of three occupations; who has studied for long earns more."""
    random = np.random.default_rng(1)
    rows = []
    for i in range(count):
        row = dict.fromkeys(ADULT_COLUMNS, 0)
        study = int(random.integers(1, 17))
        row |= {"age": int(random.integers(17, 90)), "fnlwgt": 1000 + i, "education-num": study, "hours-per-week": 40}
        row["capital-gain"] = 99_999 if i % 9 == 0 else 0
        for word, values in WORDS.items():
            row[f"{word}_{values[i % min(3, len(values))]}"] = 1
        row[f"native-country_{COUNTRIES[0 if i % 4 else 1 + i % 8 // 4]}"] = 1
        row[LABELS[int(study > 9)]] = 1
        rows.append(row)
    return rows


def adult_text(rows: list[dict[str, int]], columns: list[str] = ADULT_COLUMNS) -> str:
    """The CSV of some persons."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def write_adult(folder: Path, rows: list[dict[str, int]] | None = None) -> Path:
    """``adult.csv.zip`` in a folder."""
    with zipfile.ZipFile(folder / "adult.csv.zip", "w") as archive:
        archive.writestr("adult.csv", adult_text(people() if rows is None else rows))
    return folder
