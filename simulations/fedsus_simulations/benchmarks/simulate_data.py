"""The data of the simulators' benchmarks: Fashion-MNIST, or images of the same shape, for ours and for the peers."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.tasks.fashion import CLASSES, FILES, SIDE, FashionMnist, FashionMnistSettings
from fedsus.tasks.task import DataSource
from fedsus_simulations.benchmarks import peer_work

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEFAULT: Final = Path("data/fashion-mnist")
ROWS: Final = (60_000, 10_000)
MADE: Final = (
    "images were generated, of Fashion-MNIST's shape and number: get the real ones with 'fedsus data get "
    "fashion-mnist' and name their folder with --data, or run where data/fashion-mnist is"
)


def images(asked: Path | None, scratch: Path) -> tuple[Path, bool]:
    """A folder of the four IDX files, and whether they are real: as asked, the default one, or made in ``scratch``."""
    folder = asked or DEFAULT
    if asked is not None or folder.is_dir():
        return folder.resolve(), True
    return generated(scratch, ROWS), False


def generated(folder: Path, rows: tuple[int, int]) -> Path:
    """Files of Fashion-MNIST's form in ``folder``, which is made: a pattern for each class, and noise."""
    folder.mkdir()
    random = np.random.default_rng(1)
    patterns = random.integers(0, 128, (CLASSES, SIDE, SIDE), dtype=np.uint8)
    for count, images_file, labels_file in zip(rows, FILES[::2], FILES[1::2], strict=True):
        labels = random.integers(0, CLASSES, count, dtype=np.uint8)
        noise = random.integers(0, 128, (count, SIDE, SIDE), dtype=np.uint8)
        write_idx(folder / images_file, patterns[labels] + noise)
        write_idx(folder / labels_file, labels)
    return folder


def hand_over_images(files: Path, folder: Path, clients: int, samples: int) -> None:
    """Write what `peer_work.load` reads: the training images divided at random among ``clients``, and the test part.

    Raises:
        DataError: the files are not there or broken; the way out is in the message.
    """
    shard = FashionMnist(FashionMnistSettings()).load(DataSource(files))
    order = np.random.default_rng(1).permutation(shard.size)[: clients * samples].reshape(clients, samples)
    inputs, targets = (tensor.numpy() for tensor in shard.train)
    np.save(folder / "inputs.npy", inputs[order])
    np.save(folder / "targets.npy", targets[order])
    for name, tensor in zip(("test_inputs", "test_targets"), shard.held_out, strict=True):
        np.save(folder / f"{name}.npy", tensor.numpy())


def hand_over_trivial(folder: Path, clients: int) -> None:
    """Write what `peer_work.load` reads: one number and its target for each client."""
    inputs, targets = peer_work.trivial(clients)
    np.save(folder / "inputs.npy", inputs[:, None].numpy())
    np.save(folder / "targets.npy", targets[:, None].numpy())


def write_idx(file: Path, values: NDArray[np.uint8]) -> None:
    """The IDX format, which `fedsus.tasks.idx` reads."""
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    file.write_bytes(header + np.ascontiguousarray(values).tobytes())
