"""What every mechanism that noises whole updates has in common: clipping, and what is told beside as a block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.encoding.costs import CostBlock
from fedsus.encoding.rounding import chunks
from fedsus.errors import ProtocolViolation
from fedsus.privacy.sensitivity import METRIC_STEPS
from fedsus.types import LocalUpdate, LocalUpdates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedsus.plan import Metric, Plan
    from fedsus.types import Noise, Ring

_MARGIN: Final = 1e-12
"""Half of what a clipped vector stays below its bound, relative: more than float64 errs in its norm."""


class NoisedUpdates:
    """How updates are taken in, one or many: row i of a stack is what a stack of it alone would give.

    Attributes:
        dimension: parameters of the model.
        metrics: what the plan names and noises.
        told: coordinates of the block beside the update: metrics, then costs.
        full_weight: as `fedsus.protection.ClientCentral`.
    """

    bits: int
    size: int

    def __init__(self, plan: Plan, metrics: Sequence[Metric], full_weight: float | None) -> None:
        self.dimension, self.metrics, self.full_weight = plan.dimension, metrics, full_weight
        self._costs = CostBlock(plan)
        self.told = len(metrics) + self._costs.size

    def encode(self, update: LocalUpdate, noise: Noise) -> Ring:
        """One client's integers, (size,) uint32. NaN or infinity count as zeros.

        Raises:
            ProtocolViolation: the update's shape is not the plan's.
        """
        totals = update.totals if len(update.totals) == len(self.metrics) else np.full(len(self.metrics), np.nan)
        one = LocalUpdates(
            update.delta[np.newaxis],
            np.array([update.weight], dtype=np.float64),
            np.asarray(totals, dtype=np.float64)[np.newaxis],
            np.array([update.held_out]),
            costs=update.costs[np.newaxis],
        )
        ring: Ring = self._integers(one, noise)[0]
        return ring

    def encode_all(self, updates: LocalUpdates, noises: Sequence[Noise]) -> NDArray[np.uint32]:
        """The integers of a stack of m clients, (m, size) uint32.

        Row i is what `encode` makes with noise i. One source for all is drawn from once for all: the same law, and
        other integers than one client after the other.
        """
        if len(updates) > 1 and all(noise is noises[0] for noise in noises):
            return self._integers(updates, noises[0])
        rings = np.empty((len(updates), self.size), dtype=np.uint32)
        for row, update, noise in zip(rings, updates, noises, strict=True):
            row[:] = self.encode(update, noise)
        return rings

    def add_to(self, total: Ring, updates: LocalUpdates, noises: Sequence[Noise]) -> None:
        """Add the integers of all updates to ``total`` (size,) uint32 in place, mod 2**bits."""
        for update, noise in zip(updates, noises, strict=True):
            total += self.encode(update, noise)
        total &= np.uint32((1 << self.bits) - 1)

    def _integers(self, updates: LocalUpdates, noise: Noise) -> NDArray[np.uint32]:
        """The integers of each, (m, size) uint32, all drawn from one source."""
        raise NotImplementedError

    def _weights(self, updates: LocalUpdates) -> NDArray[np.float64]:
        """What each update counts, (m,): min(weight / full_weight, 1); 0 for a weight that is none."""
        if self.full_weight is None:
            return np.ones(len(updates))
        counted = np.where(np.isfinite(updates.weights) & (updates.weights > 0), updates.weights, 0.0)
        return np.minimum(counted / self.full_weight, 1.0)

    def _checked(self, updates: LocalUpdates) -> NDArray[np.float64]:
        """The updates, (m, d) float64, a copy. Zeros where a coordinate is NaN or infinite."""
        if updates.deltas.shape[1:] != (self.dimension,):
            raise ProtocolViolation(f"update: shape {updates.deltas.shape[1:]}, the plan says ({self.dimension},)")
        rows = updates.deltas.astype(np.float64)
        rows[~np.isfinite(rows).all(axis=1)] = 0.0
        return rows

    def _told(self, updates: LocalUpdates) -> NDArray[np.int64]:
        """Each client's metrics and costs, each from -STEPS/2 to STEPS/2, (m, told) int64."""
        costs, _ = self._costs.whole(updates.costs, len(updates))
        return np.concatenate([self._means(updates), costs], axis=1)

    def _released(
        self, sums: NDArray[np.number[Any]], survivors: int
    ) -> tuple[NDArray[np.float64], int, NDArray[np.float64]]:
        """Totals of the metrics, how many are behind them, and sums of the costs, from the noised sums (told,)."""
        count = len(self.metrics)
        totals = metric_totals(self.metrics, sums[:count], survivors)
        return totals, survivors if count else 0, self._costs.sums(sums[count:], survivors)

    def _means(self, updates: LocalUpdates) -> NDArray[np.int64]:
        """Means of each client's metrics over its held-out part, each from -STEPS/2 to STEPS/2, (m, k) int64.

        Clamped to the plan's ranges. Zeros, the middle, where a client has none or one is not finite.
        """
        low, width = _ranges(self.metrics)
        counted = updates.held_out > 0
        if updates.totals.shape[1:] != low.shape:
            return np.zeros((len(updates), len(low)), dtype=np.int64)
        counted = counted & np.isfinite(updates.totals).all(axis=1)
        share = np.full((len(updates), len(low)), 0.5)
        share[counted] = (updates.totals[counted] / updates.held_out[counted, np.newaxis] - low) / width
        whole: NDArray[np.int64] = np.rint((np.clip(share, 0.0, 1.0) - 0.5) * METRIC_STEPS).astype(np.int64)
        return whole


def clip_rows(rows: NDArray[np.float64], clip: float) -> NDArray[np.float64]:
    """Shorten rows (m, d) in place to norm ``clip``; the norms (m,) that they had."""
    norms = norms_of(rows)
    factors = shortened(norms, clip)
    if (factors < 1).any():
        rows *= factors[:, np.newaxis]
    return norms


def shortened(norms: NDArray[np.float64], clip: float) -> NDArray[np.float64]:
    """By what vectors of these norms (m,) are multiplied, so that none is longer than ``clip``: 1 or less, (m,)."""
    # One length in both places: a vector a little longer must not become shorter than one a little shorter.
    length = clip * (1 - 2 * _MARGIN)
    factors = np.ones(len(norms))
    long = norms > length
    factors[long] = length / norms[long]
    return factors


def norms_of(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """L2 norms of finite rows (m, d), (m,); no square overflows or vanishes."""
    largest, squares = np.zeros((2, len(rows)))
    for part in chunks(rows.shape[1]):
        np.maximum(largest, np.abs(rows[:, part]).max(axis=1), out=largest)
    unit = np.where(largest > 0, largest, 1.0)[:, np.newaxis]
    for part in chunks(rows.shape[1]):
        scaled = rows[:, part] / unit
        scaled *= scaled
        squares += np.add.reduce(scaled, axis=1)
    return np.sqrt(squares) * largest


def metric_totals(metrics: Sequence[Metric], sums: NDArray[np.number[Any]], survivors: int) -> NDArray[np.float64]:
    """Sums of the clients' means, from the sums of their integers with the noise, (k,) float64."""
    low, width = _ranges(metrics)
    totals: NDArray[np.float64] = survivors * low + width * (sums / METRIC_STEPS + survivors / 2)
    return totals


def _ranges(metrics: Sequence[Metric]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low = np.array([metric.low for metric in metrics], dtype=np.float64)
    return low, np.array([metric.high for metric in metrics], dtype=np.float64) - low
