"""Images from an update, exactly: the first layer of a network gives them by a division.

A linear layer y = W x + b has the gradients dL/dW = sum_i g_i x_i^T and dL/db = sum_i g_i over the examples i of a
batch. In a row in which one example alone has a gradient, dL/dW over dL/db is that example (Phong et al. 2017;
Geiping et al. 2020, proposition 3.1). A ReLU makes such rows: it passes no gradient where its unit is off.

A server that chooses the model can make them for certain. With equal rows W and falling biases a unit is on for all
images brighter than its threshold, so neighbouring rows differ by the images between two thresholds (Fowl et al. 2022,
"Robbing the Fed").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.tasks.fashion import CLASSES, SIDE
from fedsus_simulations.demo.attacks.measures import decibels, similarity, squared_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus.types import Vector
    from fedsus_simulations.demo.attacks.images import Images

RECOVERED: Final = 25.0
"""Decibels from which on an image counts as recovered."""

_INPUTS: Final = SIDE * SIDE
_SMALL: Final = 1e-3
"""Of the first layer that a server chose: its outputs stay small, so that no softmax is saturated."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """How near the images that an attack gave come to the originals, each compared with the nearest of them.

    Attributes:
        images: originals.
        recovered: of them, at 25 dB or more.
        decibels: median peak signal-to-noise ratio.
        similarity: median structural similarity.
    """

    images: int
    recovered: int
    decibels: float
    similarity: float


def first_layer(update: Vector, width: int, *, chosen: bool = False) -> Images:
    """Images, one for each row of the first layer of an ``mlp`` that moved, (k, 28, 28).

    Args:
        update: of the model, (d,); its scale does not matter.
        width: hidden units.
        chosen: the model was `inviting`: use the differences of neighbouring rows.
    """
    weights = update[: width * _INPUTS].reshape(width, _INPUTS).astype(np.float64)
    biases = update[width * _INPUTS : width * (_INPUTS + 1)].astype(np.float64)
    if chosen:
        weights[:-1] -= weights[1:]
        biases[:-1] -= biases[1:]
    moved = biases != 0
    images: Images = np.clip(weights[moved] / biases[moved, None], 0.0, 1.0).reshape(-1, SIDE, SIDE)
    return images


def inviting(public: Images, width: int) -> Vector:
    """A model whose hidden unit j is on for images brighter than a share j / width of the public ones, (d,) float32."""
    bright = np.quantile(public.mean(axis=(1, 2)), np.arange(width) / width)
    bright[0] = 0.0
    spread = np.linspace(-1.0, 1.0, CLASSES)
    parts = (
        np.full(width * _INPUTS, _SMALL / _INPUTS),
        -_SMALL * bright,
        np.repeat(spread, width),  # equal columns: all units that are on get the same gradient
        np.zeros(CLASSES),
    )
    model: Vector = np.concatenate(parts).astype(np.float32)
    return model


def compared(originals: Images, found: Images) -> tuple[Recovery, NDArray[np.int64]]:
    """How near ``found`` (k, 28, 28) comes to each original (n, 28, 28), and which of them is nearest, (n,)."""
    errors = squared_errors(originals, found)
    nearest: NDArray[np.int64] = errors.argmin(axis=1)
    ratios = decibels(errors.min(axis=1))
    alike = similarity(originals, found[nearest])
    return Recovery(len(originals), int((ratios >= RECOVERED).sum()), _median(ratios), _median(alike)), nearest


def _median(values: NDArray[np.float64]) -> float:
    return round(float(np.median(values)), 3)
