"""Smartwatch activity: which of seven shoulder exercises a person does, from a window of accelerations and rotations.

Burns et al. 2018, https://arxiv.org/abs/1802.01489: 10 persons, 140 recordings at 50 samples a second, 6 channels, one
exercise and one arm each; the file ``watch_dataset.npy`` of seglearn, read as `fedsus.tasks.pickled` says.

Channels are divided by public constants and clipped at 4; nothing is computed over anyone's recordings:

    ax, ay, az   1    the acceleration of gravity: what a watch at rest measures
    wx, wy, wz   pi   rad/s: half a turn in a second
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedsus.errors import DataError
from fedsus.plan import Strict
from fedsus.tasks.checks import Findings, one_class, refuse, too_few
from fedsus.tasks.groups import grouped, joined, picked
from fedsus.tasks.pickled import MAX_BYTES, numbers, read_pickled
from fedsus.tasks.seeding import seeded
from fedsus.tasks.split import known_options, number_option
from fedsus.tasks.task import Batch, DataSource, Forward, Shard

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from pydantic import BaseModel

    from fedsus.tasks.checks import Finding

FILE: Final = "watch_dataset.npy"
CLASSES: Final = 7
CHANNELS: Final = ("ax", "ay", "az", "wx", "wy", "wz")
MAX_LOSS: Final = 20.0
_SCALES: Final = np.array([1.0, 1.0, 1.0, math.pi, math.pi, math.pi])
_LIMIT: Final = 4.0
_OPTIONS: Final = ("holdout", "person")


class WatchSettings(Strict):
    """What an operator may choose.

    Attributes:
        network: ``conv``: two convolutions over time with GroupNorm, then one linear layer; ``mlp``: one hidden layer.
        width: channels of the first convolution (a multiple of 4), or hidden units.
        window: samples of one example; 50 are a second.
        stride: samples from one training window to the next. Below ``window`` they overlap, and differential privacy
            of examples then protects a window, not an instant.
    """

    network: Literal["conv", "mlp"] = "conv"
    width: Annotated[int, Field(ge=4, le=512, multiple_of=4)] = 16
    window: Annotated[int, Field(ge=20, le=500, multiple_of=4)] = 100
    stride: Annotated[int, Field(ge=1, le=500)] = 50


class Watch:
    """A classifier of seven exercises. Held out is the end of each recording, in windows that do not overlap; a
    window that would lie on both sides of the cut is left out.

    Owner's options: ``holdout`` (0.25), ``person`` ("person-03": this one alone).
    """

    Settings: ClassVar[type[BaseModel]] = WatchSettings
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({"loss": (0.0, MAX_LOSS), "accuracy": (0.0, 1.0)})

    def __init__(self, settings: WatchSettings) -> None:
        self.settings = settings

    def model(self, seed: int) -> nn.Module:
        """(B, 6, window) float32 -> (B, 7) logits."""
        width, window = self.settings.width, self.settings.window
        with seeded(seed):
            if self.settings.network == "mlp":
                inputs = len(CHANNELS) * window
                return nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, CLASSES))
            return nn.Sequential(
                *(nn.Conv1d(len(CHANNELS), width, 9, stride=2, padding=4), nn.GroupNorm(4, width), nn.ReLU()),
                *(nn.Conv1d(width, 2 * width, 5, stride=2, padding=2), nn.GroupNorm(4, 2 * width), nn.ReLU()),
                *(nn.Flatten(), nn.Linear(2 * width * (window // 4), CLASSES)),
            )

    def load(self, source: DataSource) -> Shard:
        """Windows (n, 6, window) float32 and exercises (n,) int64 of all persons, or of one."""
        shard = joined(picked(source, "person", self._persons(source)).values())
        notes = Findings()
        one_class(str(source.path), shard.train[1].tolist(), notes)
        refuse(notes.all)
        return shard

    def groups(self, source: DataSource) -> Mapping[str, Shard]:
        """Each person, named ``person-01`` to ``person-10``."""
        return picked(source, "person", self._persons(source))

    def check(self, source: DataSource, batch_size: int) -> list[Finding]:
        """The file, one exercise only, too few windows for a batch."""
        notes = Findings()
        try:
            labels = joined(picked(source, "person", self._persons(source)).values()).train[1]
        except DataError as error:
            return notes.ended_by(error)
        one_class(str(source.path), labels.tolist(), notes)
        too_few(str(source.path), len(labels), batch_size, notes)
        return notes.all

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        """Cross-entropy, (B,)."""
        windows, labels = batch
        return functional.cross_entropy(model(windows).float(), labels, reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        """Loss, clamped to its bound, and accuracy, (B, 2)."""
        windows, labels = batch
        logits = model(windows).float()
        loss = functional.cross_entropy(logits, labels, reduction="none").clamp(0.0, MAX_LOSS)
        return torch.stack((loss, (logits.argmax(dim=1) == labels).to(loss.dtype)), dim=1)

    def _persons(self, source: DataSource) -> dict[str, Shard]:
        known_options(source.options, _OPTIONS)
        holdout = number_option(source.options, "holdout", 0.25, 0.0, 0.9)
        path = _file(source.path)
        by_person: dict[str, list[Shard]] = {}
        for name, label, samples in _recordings(path):
            by_person.setdefault(name, []).append(self._cut(samples, label, holdout))
        persons = grouped(str(path), ((name, joined(shards)) for name, shards in by_person.items()))
        short = next((name for name, shard in persons.items() if not shard.size), None)
        if short is not None:
            raise DataError(f"{path}: {short} has no training window of {self.settings.window} samples; lower 'window'")
        return persons

    def _cut(self, samples: NDArray[np.float32], label: int, holdout: float) -> Shard:
        """Windows of one recording (time, 6): before the cut to train on, after it held out."""
        window, cut = self.settings.window, round(len(samples) * (1 - holdout))
        return Shard(
            train=_windows(samples[:cut], label, window, self.settings.stride),
            held_out=_windows(samples[cut:], label, window, window),
        )


def _windows(samples: NDArray[np.float32], label: int, window: int, stride: int) -> Batch:
    """(n, 6, window) float32 and (n,) int64; none where the samples are too few."""
    starts = range(0, len(samples) - window + 1, stride)
    cut = np.zeros((len(starts), len(CHANNELS), window), np.float32)
    for i, start in enumerate(starts):
        cut[i] = samples[start : start + window].T
    return torch.from_numpy(cut), torch.full((len(starts),), label, dtype=torch.int64)


def _recordings(path: Path) -> list[tuple[str, int, NDArray[np.float32]]]:
    """Person, exercise and scaled samples (time, 6) of each recording."""
    content = read_pickled(path)
    try:
        recordings, labels, persons = _fields(content)
    except ValueError as error:
        raise DataError(f"{path}: {error}; get the file again with: fedsus data get watch") from None
    scaled = [np.clip(samples / _SCALES, -_LIMIT, _LIMIT).astype(np.float32) for samples in recordings]
    return [(f"person-{p:02d}", k, samples) for p, k, samples in zip(persons, labels, scaled, strict=True)]


def _fields(content: Mapping[str, Any]) -> tuple[list[NDArray[np.float64]], list[int], list[int]]:
    """Samples, exercises and persons; what does not fit raises ValueError."""
    absent = [key for key in ("X", "y", "subject", "X_labels") if key not in content]
    if absent:
        raise ValueError(f"no entry '{absent[0]}' inside")
    if content["X_labels"] != list(CHANNELS):
        raise ValueError(f"its channels are not {', '.join(CHANNELS)}")
    if not isinstance(content["X"], list):
        raise ValueError("'X' is no list of recordings")
    recordings: list[NDArray[np.float64]] = []
    size = 0
    for samples in content["X"]:
        recordings.append(numbers(samples, 2))
        if recordings[-1].shape[1] != len(CHANNELS):
            raise ValueError(f"a recording has not {len(CHANNELS)} channels")
        size += recordings[-1].nbytes
        if size > MAX_BYTES:  # a pickle may hold one array many times
            raise ValueError(f"the recordings are larger than {MAX_BYTES} bytes")
    labels, persons = (_codes(content, key, highest) for key, highest in (("y", CLASSES - 1), ("subject", 99)))
    if not len(recordings) == len(labels) == len(persons):
        raise ValueError(f"{len(recordings)} recordings, {len(labels)} exercises, {len(persons)} persons")
    return recordings, labels, persons


def _codes(content: Mapping[str, Any], key: str, highest: int) -> list[int]:
    values = numbers(content[key], 1)
    if (values != values.round()).any() or values.min() < 0 or values.max() > highest:
        raise ValueError(f"'{key}' are not whole numbers from 0 to {highest}")
    return [int(value) for value in values]


def _file(path: Path) -> Path:
    """The file itself, or the one in a folder."""
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such file; get it with: fedsus data get watch")
    return file
