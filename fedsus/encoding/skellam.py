"""Noise in shares: clip, rotate, scale, round, add a share of Skellam noise, all mod 2**bits.

    client unit     x = w delta, clipped to c      redraw the rounding until its norm is within the bound
    example unit    x = sum of clipped gradients   one dither, no redraw

The rotation (random signs, then Walsh-Hadamard) spreads an update evenly over its coordinates, so that few bits carry
it; it is public and keeps norms. What is summed is noised in every coordinate, the metrics included, so the server's
sum is all that anyone learns (Agarwal, Kairouz, Liu 2021, Algorithm 1). Integers that pass 2**(bits - 1) wrap around:
that costs accuracy and no privacy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.encoding import packing, residues
from fedsus.encoding.noised import clipped, full, metric_integers, metric_totals
from fedsus.encoding.rotation import rotate, rotate_back
from fedsus.errors import ProtocolViolation
from fedsus.plan import learning_rate
from fedsus.privacy import sensitivity
from fedsus.privacy.sampling import skellam
from fedsus.protection import ClientDistributed, ExampleDistributed
from fedsus.types import Mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedsus.encoding.packing import Buffer
    from fedsus.plan import Plan
    from fedsus.types import Arrays, LocalUpdate, LocalUpdates, Noise, Ring

_REDRAWS: Final = 64
"""Most roundings of one update: that all of them are too long has a chance below 2**-46; then it is cut to integers
towards zero, which is never too long."""

_EDGE: Final = 7 / 8
"""Sums beyond this part of the range are counted: where there are many, some have wrapped around."""


class SkellamShares:
    """What both units have in common. See `ClientSkellam` and `ExampleSkellam`.

    Attributes:
        bits: sums are taken mod 2**bits.
        size: the padded update, then the metrics.
    """

    def __init__(self, plan: Plan, privacy: ClientDistributed | ExampleDistributed) -> None:
        self._plan, self._privacy, self._shares = plan, privacy, privacy.shares
        self.bits = privacy.shares.bits
        self._padded = sensitivity.padded(plan.dimension)
        self._metrics = len(plan.metrics) if privacy.shares.metrics is not None else 0
        self.size = self._padded + self._metrics
        self._seed = f"fedsus rotation {plan.round}".encode()  # public; of the round alone, however it is run

    def init(self) -> Arrays:
        """Nothing is kept between rounds."""
        return {}

    def encode(self, update: LocalUpdate, noise: Noise) -> Ring:
        """One client's integers with its share of the noise, (size,) uint32. NaN or infinity count as zeros.

        Raises:
            ProtocolViolation: the update's shapes are not the plan's.
        """
        if update.delta.shape != (self._plan.dimension,):
            raise ProtocolViolation(f"update: shape {update.delta.shape}, the plan says ({self._plan.dimension},)")
        ring = np.empty(self.size, dtype=np.uint32)
        whole = self._integers(update, noise)
        whole += skellam(self._shares.variance).draw(noise, self._padded)
        ring[: self._padded] = residues.of_whole(whole, self.bits)
        if self._shares.metrics is not None and self._metrics:
            told = metric_integers(self._plan.metrics, update)
            told += skellam(self._shares.metrics).draw(noise, self._metrics)
            ring[self._padded :] = residues.of_whole(told, self.bits)
        return ring

    def encode_all(self, updates: LocalUpdates, noises: Sequence[Noise]) -> NDArray[np.uint32]:
        """The integers of a stack of m clients, (m, size) uint32: row i is what `encode` makes with noise i."""
        rings = np.empty((len(updates), self.size), dtype=np.uint32)
        for row, update, noise in zip(rings, updates, noises, strict=True):
            row[:] = self.encode(update, noise)
        return rings

    def add_to(self, total: Ring, updates: LocalUpdates, noises: Sequence[Noise]) -> None:
        """Add the integers of all updates to ``total`` (size,) uint32 in place, mod 2**bits."""
        for update, noise in zip(updates, noises, strict=True):
            total += self.encode(update, noise)
        total &= np.uint32((1 << self.bits) - 1)

    def check(self, packed: Buffer) -> None:
        """Refuse another length: noise reaches every residue."""
        packing.check(packed, self.size, self.bits)

    def release(self, state: Arrays, total: Ring, survivors: int, noise: Noise) -> tuple[Arrays, Mean]:
        """The mean of the sum ``total`` (size,) uint32; all noise is in it.

        Raises:
            ProtocolViolation: another size, or fewer survivors than the noise was calibrated for.
        """
        del noise
        if total.shape != (self.size,):
            raise ProtocolViolation(f"sum: {total.size} residues, expected {self.size}")
        if not self._shares.survivors <= survivors <= self._plan.cohort.size:
            raise ProtocolViolation(
                f"sum: {survivors} survivors, the noise was calibrated for {self._shares.survivors} or more"
            )
        whole = residues.signed(total, self.bits)
        update = whole[: self._padded]
        found = rotate_back(update.astype(np.float64), self._seed, self._plan.dimension)
        found *= self._factor(survivors) / self._shares.scale
        near = int(np.count_nonzero(np.abs(update.astype(np.int64)) > _EDGE * 2 ** (self.bits - 1)))
        totals, held_out = np.zeros(0), 0
        if self._metrics:
            totals, held_out = metric_totals(self._plan.metrics, whole[self._padded :], survivors), survivors
        return state, Mean(found.astype(np.float32), float(survivors), totals, held_out, near)

    def _integers(self, update: LocalUpdate, noise: Noise) -> NDArray[np.int64]:
        """The rounded update, (padded,) int64, within the mechanism's sensitivity."""
        raise NotImplementedError

    def _factor(self, survivors: int) -> float:
        """What the sum is multiplied by."""
        raise NotImplementedError


class ClientSkellam(SkellamShares):
    """Client unit: the mean over the survivors of clipped updates."""

    def __init__(self, plan: Plan, privacy: ClientDistributed) -> None:
        super().__init__(plan, privacy)
        self._clip, self._full = privacy.clip, privacy.full_weight
        self._most = sensitivity.largest_square(privacy.clip, privacy.shares.scale, self._padded)

    def _integers(self, update: LocalUpdate, noise: Noise) -> NDArray[np.int64]:
        scaled = rotate(clipped(update.delta, self._clip, full(update.weight, self._full)), self._seed)
        scaled *= self._shares.scale
        for _ in range(_REDRAWS):
            whole = _rounded(scaled, noise)
            if int(whole @ whole) <= self._most:  # exact: the squares of D2 < 2**31 steps sum below 2**62
                return whole
        return np.trunc(scaled).astype(np.int64)

    def _factor(self, survivors: int) -> float:
        return 1 / survivors


class ExampleSkellam(SkellamShares):
    """Example unit: one gradient step of the learning rate, on the noised sum over a public denominator."""

    def __init__(self, plan: Plan, privacy: ExampleDistributed) -> None:
        super().__init__(plan, privacy)
        self._most = sensitivity.LARGEST_SUM / privacy.shares.scale
        rate = learning_rate(plan.training, plan.round, plan.rounds)
        self._step = rate / privacy.denominator

    def _integers(self, update: LocalUpdate, noise: Noise) -> NDArray[np.int64]:
        scaled = rotate(clipped(update.delta, self._most, 1.0), self._seed)
        scaled *= self._shares.scale
        return _rounded(scaled, noise)

    def _factor(self, survivors: int) -> float:
        del survivors
        return self._step


def _rounded(values: NDArray[np.float64], noise: Noise) -> NDArray[np.int64]:
    """Stochastic rounding, unbiased: floor(y + u), u uniform in [0, 1)."""
    dithered: NDArray[np.float64] = noise.uniform(values.size)
    dithered += values
    np.floor(dithered, out=dithered)
    whole: NDArray[np.int64] = dithered.astype(np.int64)
    return whole
