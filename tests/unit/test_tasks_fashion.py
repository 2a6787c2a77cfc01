"""IDX folders, good and bad."""

from __future__ import annotations

import gzip
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from fedsus.errors import ConfigError, DataError
from fedsus.tasks.fashion import FILES, FashionMnist, FashionMnistSettings
from fedsus.tasks.registry import build
from fedsus.tasks.task import DataSource

if TYPE_CHECKING:
    from pathlib import Path

TASK = FashionMnist(FashionMnistSettings(network="mlp", width=4))


def images(rows: int, side: int = 28) -> bytes:
    pixels = np.random.default_rng(rows).integers(0, 256, (rows, side, side), dtype=np.uint8)
    return struct.pack(">4B3I", 0, 0, 8, 3, rows, side, side) + pixels.tobytes()


def labels(rows: int, classes: int = 10) -> bytes:
    return struct.pack(">4BI", 0, 0, 8, 1, rows) + bytes(i % classes for i in range(rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, raw in zip(FILES, (images(50), labels(50), images(20), labels(20)), strict=True):
        (tmp_path / name).write_bytes(raw)
    return tmp_path


def test_images_stay_bytes_in_memory(folder: Path) -> None:
    shard = TASK.load(DataSource(folder))
    assert shard.train[0].shape == (50, 28, 28)
    assert shard.train[0].dtype == torch.uint8
    assert shard.held_out[1].tolist() == [i % 10 for i in range(20)]


def test_gzipped_files_are_the_same(folder: Path) -> None:
    before = TASK.load(DataSource(folder))
    for name in FILES:
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    after = TASK.load(DataSource(folder))
    assert all(torch.equal(a, b) for a, b in zip(before.train, after.train, strict=True))


def test_parts_are_disjoint_and_cover_everything(folder: Path) -> None:
    whole = TASK.load(DataSource(folder)).train[0]
    parts = [TASK.load(DataSource(folder, {"part": f"{k}/3"})).train[0] for k in (1, 2, 3)]
    assert sorted(len(part) for part in parts) == [16, 17, 17]
    rows = [image.numpy().tobytes() for part in parts for image in part]
    assert sorted(rows) == sorted(image.numpy().tobytes() for image in whole)


@pytest.mark.parametrize("part", ["0/3", "4/3", "1", "1/0", "a/b", 3, "1/3 ", "-1/3"])
def test_a_wrong_part_is_named(folder: Path, part: object) -> None:
    with pytest.raises(DataError, match=r"option 'part' = .*: must be 'k/n' with 1 <= k <= n"):
        TASK.load(DataSource(folder, {"part": part}))


def test_more_parts_than_rows_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"option 'part' = '1/21': .* has only 20 rows"):
        TASK.load(DataSource(folder, {"part": "1/21"}))


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        (FILES[0], None, "neither train-images-idx3-ubyte nor .* get the files with: fedsus data get fashion-mnist"),
        (FILES[0], b"", "not an IDX file of bytes with 3 dimensions"),
        (FILES[0], labels(50), "not an IDX file of bytes with 3 dimensions"),
        (FILES[0], images(50, side=27), r"the header says 50 x \[27, 27\]"),
        (FILES[0], images(50)[:-1], "39199 bytes of data; the header says 39200"),
        (FILES[0], images(50) + b"x", "39201 bytes of data; the header says 39200"),
        (FILES[0], images(49), "49 images but 50 labels"),
        (FILES[1], struct.pack(">4BI", 0, 0, 8, 1, 2**31), "the header says 2147483648"),
        (FILES[1], labels(0), "the header says 0"),
        (FILES[1], labels(50, classes=11), "has the label 10; 0 to 9 are expected"),
        (FILES[1], labels(50, classes=1), "all 50 rows have the label 0; two classes are needed"),
    ],
)
def test_a_bad_file_is_one_line(folder: Path, name: str, raw: bytes | None, message: str) -> None:
    (folder / name).unlink()
    if raw is not None:
        (folder / name).write_bytes(raw)
    with pytest.raises(DataError, match=message) as caught:
        TASK.load(DataSource(folder))
    assert "\n" not in str(caught.value)
    assert [f.message for f in TASK.check(DataSource(folder), 4) if f.severity == "refuse"] == [str(caught.value)]


@pytest.mark.parametrize("cut", [5, 60, -4])
def test_a_broken_gzip_file_is_one_line(folder: Path, cut: int) -> None:
    (folder / FILES[0]).unlink()
    (folder / f"{FILES[0]}.gz").write_bytes(gzip.compress(images(50))[:cut])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: cannot be read: "):
        TASK.load(DataSource(folder))


def test_duplicate_images_are_told(folder: Path) -> None:
    raw = images(49)
    (folder / FILES[0]).write_bytes(raw[:4] + struct.pack(">I", 50) + raw[8:] + raw[-784:])
    found = [(f.check, f.severity, f.message) for f in TASK.check(DataSource(folder), 4)]
    assert found == [("duplicates", "warn", f"{folder}: 1 training images are there more than once")]


def test_a_width_that_groups_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="'width' = 6: should be a multiple of 4"):
        build(FashionMnist, {"width": 6})
