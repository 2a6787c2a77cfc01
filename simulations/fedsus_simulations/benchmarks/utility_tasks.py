"""What the utility benchmarks learn from Fashion-MNIST, beside the networks that fedsus ships."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsus.errors import DataError
from fedsus.plan import Strict
from fedsus.tasks.fashion import CLASSES, MAX_LOSS, SIDE, FashionMnist, FashionMnistSettings
from fedsus.tasks.task import Batch, DataSource, Forward, Shard

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from pydantic import BaseModel

    from fedsus.types import Vector
    from fedsus_simulations.benchmarks.utility_runs import Sums

FEATURES: Final = 81 * 7 * 7
SCATTERED: Final = f"{__name__}:Scattered"
LINEAR: Final = f"{__name__}:Linear"
FILES: Final = ("train-features.npy", "train-labels.npy", "t10k-features.npy", "t10k-labels.npy")
_ROWS: Final = 1024
HOW: Final = "make them with: python scripts/scattering.py IMAGES FOLDER"


class NoSettings(Strict):
    """Nothing to choose."""


class Scattered:
    """A linear classifier of the scattering coefficients of an image, (B, 3969) float16; it starts at zero.

    The features are public preprocessing: each is of its own image alone (Tramèr and Boneh 2021, section 2.2).
    """

    Settings: ClassVar[type[BaseModel]] = NoSettings
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({"loss": (0.0, MAX_LOSS), "accuracy": (0.0, 1.0)})

    def __init__(self, settings: NoSettings) -> None:
        del settings

    def model(self, seed: int) -> nn.Module:
        """(B, 3969) float32 -> (B, 10) logits, whatever the seed."""
        del seed
        return zeros(FEATURES)

    def load(self, source: DataSource) -> Shard:
        """Features (n, 3969) float16 and labels (n,) int64 of ``scripts/scattering.py``."""
        found = [_read(source.path / name) for name in FILES]
        for features, labels, name in zip(found[::2], found[1::2], FILES[::2], strict=True):
            if features.shape != (len(labels), FEATURES) or features.dtype != torch.float16:
                raise DataError(f"{source.path / name}: expected (n, {FEATURES}) float16, a row for each label; {HOW}")
        return Shard((found[0], found[1]), (found[2], found[3]))

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        """Cross-entropy, (B,)."""
        features, labels = batch
        return functional.cross_entropy(model(features.float()), labels, reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        """Loss, clamped to its bound, and accuracy, (B, 2)."""
        features, labels = batch
        logits = model(features.float())
        loss = functional.cross_entropy(logits, labels, reduction="none").clamp(0.0, MAX_LOSS)
        return torch.stack((loss, (logits.argmax(dim=1) == labels).to(loss.dtype)), dim=1)


def closed_form(train: Batch) -> Sums:
    """The sums of clipped gradients of `Scattered`, in half the passes over its features.

    An example's gradient is e (x, 1)^T, e its probabilities minus its label: of norm |e| sqrt(|x|^2 + 1).
    """
    features, labels = train
    squares = torch.cat([(some.float() ** 2).sum(dim=1) for some in torch.split(features, _ROWS)]) + 1
    targets = functional.one_hot(labels, CLASSES).float()

    def total(model: Vector, chosen: NDArray[np.intp], clip: float) -> NDArray[np.float64]:
        weight, bias = torch.from_numpy(model[:-CLASSES]), torch.from_numpy(model[-CLASSES:])
        weight = weight.reshape(CLASSES, FEATURES)
        found = np.zeros(len(model))
        for rows in torch.split(torch.from_numpy(chosen), _ROWS):
            inputs = features[rows].float()
            error = torch.softmax(functional.linear(inputs, weight, bias), dim=1) - targets[rows]
            norms = (error.square().sum(dim=1) * squares[rows]).sqrt()
            error *= (clip / norms).clamp(max=1.0)[:, None]
            found[: CLASSES * FEATURES] += (error.T @ inputs).reshape(-1).numpy()
            found[CLASSES * FEATURES :] += error.sum(dim=0).numpy()
        return found

    return total


class Linear(FashionMnist):
    """Fashion-MNIST with a linear model of the pixels, which starts at zero."""

    Settings: ClassVar[type[BaseModel]] = NoSettings

    def __init__(self, settings: NoSettings) -> None:
        del settings
        super().__init__(FashionMnistSettings())

    def model(self, seed: int) -> nn.Module:
        """(B, 1, 28, 28) float32 -> (B, 10) logits, whatever the seed."""
        del seed
        return nn.Sequential(nn.Flatten(), zeros(SIDE * SIDE))


def zeros(inputs: int) -> nn.Linear:
    """A linear layer to ten classes, all zeros."""
    linear: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, CLASSES)  # type: ignore[no-untyped-call]
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _read(path: Path) -> Tensor:
    """A file of numpy's; its pages are read when they are used, and never written back."""
    try:
        return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}; {HOW}") from None
