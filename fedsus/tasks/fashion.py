"""Fashion-MNIST: 28 x 28 grey images of ten kinds of clothing, from a folder of IDX files (gzipped or not).

Xiao, Rasul and Vollgraf 2017, https://arxiv.org/abs/1708.07747. Pixels are scaled by 1/255, nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedsus.errors import DataError
from fedsus.plan import Strict
from fedsus.tasks.checks import Findings, one_class, refuse, too_few
from fedsus.tasks.idx import read_idx
from fedsus.tasks.seeding import seeded
from fedsus.tasks.split import known_options
from fedsus.tasks.task import Batch, DataSource, Forward, Shard

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from pydantic import BaseModel

    from fedsus.tasks.checks import Finding

CLASSES: Final = 10
SIDE: Final = 28
MAX_LOSS: Final = 20.0
FILES: Final = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_PART: Final = re.compile(r"([1-9][0-9]{0,6})/([1-9][0-9]{0,6})", re.ASCII)


class FashionMnistSettings(Strict):
    """What an operator may choose.

    Attributes:
        network: ``cnn``: two convolutions with GroupNorm, then one linear layer; ``mlp``: one hidden layer.
        width: channels of the first convolution (a multiple of 4), or hidden units.
    """

    network: Literal["cnn", "mlp"] = "cnn"
    width: Annotated[int, Field(ge=4, le=512, multiple_of=4)] = 16


class FashionMnist:
    """A classifier of ten classes; images stay uint8 in memory and become floats batch by batch.

    Owner's options: ``part = "3/10"``: the third of ten equal parts, in a fixed shuffled order, for simulations.
    """

    Settings: ClassVar[type[BaseModel]] = FashionMnistSettings
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({"loss": (0.0, MAX_LOSS), "accuracy": (0.0, 1.0)})

    def __init__(self, settings: FashionMnistSettings) -> None:
        self.settings = settings

    def model(self, seed: int) -> nn.Module:
        """(B, 1, 28, 28) float32 -> (B, 10) logits."""
        width = self.settings.width
        with seeded(seed):
            if self.settings.network == "mlp":
                inputs = SIDE * SIDE
                return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, CLASSES))
            return nn.Sequential(
                *(nn.Conv2d(1, width, 5, stride=2, padding=2), nn.GroupNorm(4, width), nn.ReLU()),
                *(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.GroupNorm(4, 2 * width), nn.ReLU()),
                *(nn.Flatten(), nn.Linear(2 * width * 7 * 7, CLASSES)),
            )

    def load(self, source: DataSource) -> Shard:
        """Images (n, 28, 28) uint8 and labels (n,) int64: ``train`` files to train on, ``t10k`` files held out."""
        shard = self._read(source)
        notes = Findings()
        one_class(str(source.path), shard.train[1].tolist(), notes)
        refuse(notes.all)
        return shard

    def check(self, source: DataSource, batch_size: int) -> list[Finding]:
        """Files, one class only, too few images for a batch, duplicate images."""
        notes = Findings()
        try:
            images, labels = self._read(source).train
        except DataError as error:
            return notes.ended_by(error)
        one_class(str(source.path), labels.tolist(), notes)
        too_few(str(source.path), len(labels), batch_size, notes)
        again = sum(n - 1 for n in Counter(hashlib.sha256(image).digest() for image in images.numpy()).values())
        if again:
            notes.add("duplicates", f"{source.path}: {again} training images are there more than once")
        return notes.all

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        """Cross-entropy, (B,)."""
        images, labels = batch
        return functional.cross_entropy(_logits(model, images), labels, reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        """Loss, clamped to its bound, and accuracy, (B, 2)."""
        images, labels = batch
        logits = _logits(model, images)
        loss = functional.cross_entropy(logits, labels, reduction="none").clamp(0.0, MAX_LOSS)
        return torch.stack((loss, (logits.argmax(dim=1) == labels).to(loss.dtype)), dim=1)

    def _read(self, source: DataSource) -> Shard:
        """All four files, or the named part of each half."""
        known_options(source.options, ("part",))
        part = _part(source)
        halves = []
        for images_file, labels_file in (FILES[:2], FILES[2:]):
            images = read_idx(_find(source.path, images_file), (SIDE, SIDE))
            labels = read_idx(_find(source.path, labels_file), ())
            if len(images) != len(labels):
                raise DataError(f"{source.path}: {len(images)} images but {len(labels)} labels in {labels_file}")
            if labels.max() >= CLASSES:
                raise DataError(f"{source.path}: {labels_file} has the label {labels.max()}; 0 to 9 are expected")
            chosen = _choose(source, len(labels), part)
            halves.append((torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen].astype(np.int64))))
        return Shard(train=halves[0], held_out=halves[1])


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    how = "get the files with: fedsus data get fashion-mnist"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; {how}")
    raise DataError(f"{folder}: neither {name} nor {name}.gz is there; {how}")


def _part(source: DataSource) -> tuple[int, int]:
    text = source.options.get("part", "1/1")
    match = _PART.fullmatch(text) if isinstance(text, str) else None
    if match is None or int(match[1]) > int(match[2]):
        raise DataError(f"option 'part' = {text!r}: must be 'k/n' with 1 <= k <= n, such as \"3/10\"")
    return int(match[1]), int(match[2])


def _choose(source: DataSource, rows: int, part: tuple[int, int]) -> NDArray[np.int64]:
    """Rows of part k of n: every n-th of one fixed shuffled order; the parts are disjoint and cover all rows."""
    k, n = part
    if n > rows:
        raise DataError(f"option 'part' = '{k}/{n}': {source.path} has only {rows} rows")
    if n == 1:
        return np.arange(rows)
    return np.sort(np.random.Generator(np.random.PCG64(20170828)).permutation(rows)[k - 1 :: n])


def _logits(model: Forward, images: Tensor) -> Tensor:
    return model((images.float() / 255.0).unsqueeze(-3)).float()
