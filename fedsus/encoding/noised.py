"""What every mechanism that noises whole updates has in common: clipping, and metrics as a block of their own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.privacy.sensitivity import METRIC_STEPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedsus.plan import Metric
    from fedsus.types import LocalUpdate

_MARGIN: Final = 1e-12
"""What a clipped vector stays below its bound, relative: more than float64 errs in its norm."""


def full(weight: float, most: float | None) -> float:
    """What an update counts: min(weight / most, 1); 1 where all count alike, 0 for a weight that is none."""
    if most is None:
        return 1.0
    return min(weight / most, 1.0) if math.isfinite(weight) and weight > 0 else 0.0


def clipped(delta: NDArray[np.float32] | NDArray[np.float64], clip: float, weight: float) -> NDArray[np.float64]:
    """``weight * delta`` (d,), at most ``clip`` long, (d,) float64. Zeros where a coordinate is NaN or infinite."""
    values = delta.astype(np.float64)
    if not np.isfinite(values).all():
        return np.zeros_like(values)
    values *= weight
    norm = norm_of(values)
    if norm > clip * (1 - _MARGIN):
        values *= clip * (1 - 2 * _MARGIN) / norm
    return values


def norm_of(values: NDArray[np.float64]) -> float:
    """L2 norm; NaN or infinity where a coordinate is, also where squares overflow."""
    largest = float(np.max(np.abs(values), initial=0.0))
    if largest == 0 or not math.isfinite(largest):
        return largest
    if largest > 1e150 or largest < 1e-150:  # squares would overflow, or vanish
        return float(np.linalg.norm(values / largest)) * largest
    return math.sqrt(float(values @ values))


def metric_integers(metrics: Sequence[Metric], update: LocalUpdate) -> NDArray[np.int64]:
    """Means of a client's metrics over its held-out part, each from -STEPS/2 to STEPS/2, (k,) int64.

    Clamped to the plan's ranges. Zeros, the middle, where a client has none or one is not finite.
    """
    low = np.array([metric.low for metric in metrics])
    width = np.array([metric.high for metric in metrics]) - low
    if update.held_out <= 0 or len(update.totals) != len(metrics) or not np.isfinite(update.totals).all():
        return np.zeros(len(metrics), dtype=np.int64)
    share = np.clip((update.totals / update.held_out - low) / width, 0.0, 1.0) - 0.5
    whole: NDArray[np.int64] = np.rint(share * METRIC_STEPS).astype(np.int64)
    return whole


def metric_totals(metrics: Sequence[Metric], sums: NDArray[np.number[Any]], survivors: int) -> NDArray[np.float64]:
    """Sums of the clients' means, from the sums of `metric_integers` with their noise, (k,) float64."""
    low = np.array([metric.low for metric in metrics])
    width = np.array([metric.high for metric in metrics]) - low
    totals: NDArray[np.float64] = survivors * low + width * (sums / METRIC_STEPS + survivors / 2)
    return totals
