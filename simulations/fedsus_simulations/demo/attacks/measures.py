"""How like two images are, and how well a score tells members from others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus_simulations.demo.attacks.images import Images

_WINDOW: Final = 7
_STABLE: Final = (0.01**2, 0.03**2)
_MOST_DECIBELS: Final = 99.0


def squared_errors(originals: Images, found: Images) -> NDArray[np.float64]:
    """Mean squared difference of each original (n) and each image that was found (k): (n, k)."""
    one, other = originals.reshape(len(originals), -1), found.reshape(len(found), -1)
    products = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    errors: NDArray[np.float64] = np.maximum(products, 0) / one.shape[1]
    return errors


def decibels(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of mean squared errors on pixels from 0 to 1, at most 99 dB."""
    ratio: NDArray[np.float64] = -10 * np.log10(np.maximum(errors, 10 ** (-_MOST_DECIBELS / 10)))
    return ratio


def similarity(one: Images, other: Images) -> NDArray[np.float64]:
    """Mean structural similarity of pairs (n, 28, 28), windows of 7 x 7: (n,), 1 for equal images.

    Wang, Bovik, Sheikh and Simoncelli 2004, "Image quality assessment", equation 13.
    """
    x, y = (sliding_window_view(images, (_WINDOW, _WINDOW), axis=(1, 2)) for images in (one, other))
    mean_x, mean_y = x.mean(axis=(-2, -1)), y.mean(axis=(-2, -1))
    spread_x, spread_y = x.var(axis=(-2, -1)), y.var(axis=(-2, -1))
    shared = (x * y).mean(axis=(-2, -1)) - mean_x * mean_y
    first, second = _STABLE
    top = (2 * mean_x * mean_y + first) * (2 * shared + second)
    local = top / ((mean_x**2 + mean_y**2 + first) * (spread_x + spread_y + second))
    means: NDArray[np.float64] = local.mean(axis=(1, 2))
    return means


def area(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """Area under the ROC curve: the chance that a member scores higher than another; ties count half."""
    order = np.sort(outside)
    below = np.searchsorted(order, inside, side="left") + np.searchsorted(order, inside, side="right")
    return float(below.mean() / (2 * len(outside)))


def found_at(inside: NDArray[np.float64], outside: NDArray[np.float64], false: float) -> float:
    """Share of members above a score that at most ``false`` of the others are above."""
    allowed = int(false * len(outside))
    threshold = np.sort(outside)[len(outside) - 1 - allowed]
    return float((inside > threshold).mean())
