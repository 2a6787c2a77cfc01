"""Noise in shares: clip, rotate, scale, round, add a share of Skellam noise, all mod 2**bits.

    client unit     x = w delta, clipped to c      redraw the rounding until its norm is within the bound
    example unit    x = sum of clipped gradients   one dither, no redraw

The rotation (random signs, then Walsh-Hadamard) spreads an update evenly over its coordinates, so that few bits carry
it; it is public and keeps norms. What is summed is noised in every coordinate, metrics and costs included, so the
server's sum is all that anyone learns (Agarwal, Kairouz, Liu 2021, Algorithm 1). Integers that pass 2**(bits - 1) wrap
around: that costs accuracy and no privacy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.encoding import packing, residues, rounding
from fedsus.encoding.noised import NoisedUpdates, clip_rows
from fedsus.encoding.rotation import rotate, rotate_back
from fedsus.errors import ConfigError, ProtocolViolation
from fedsus.plan import learning_rate
from fedsus.privacy import sensitivity
from fedsus.privacy.accounting import MOST_DRAWS
from fedsus.privacy.sampling import skellam
from fedsus.protection import ClientDistributed, ExampleDistributed
from fedsus.types import Mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus.encoding.packing import Buffer
    from fedsus.plan import Plan
    from fedsus.types import Arrays, LocalUpdates, Noise, Ring

_REDRAWS: Final = 64
"""Most roundings of one update: that all of them are too long has a chance below 2**-46; then it is cut to integers
towards zero, which is never too long."""

_LONGEST: Final = 2.0**31
"""Steps of a client's vector, so that its squares add up in int64."""

_EDGE: Final = 7 / 8
"""Sums beyond this part of the range are counted: where there are many, some have wrapped around."""


class SkellamShares(NoisedUpdates):
    """What both units have in common. See `ClientSkellam` and `ExampleSkellam`.

    Attributes:
        bits: sums are taken mod 2**bits.
        size: the padded update, then what is told beside it.
    """

    def __init__(self, plan: Plan, privacy: ClientDistributed | ExampleDistributed, full_weight: float | None) -> None:
        self._plan, self._shares = plan, privacy.shares
        super().__init__(plan, plan.metrics if privacy.shares.metrics is not None else (), full_weight)
        self.bits = privacy.shares.bits
        self._padded = sensitivity.padded(plan.dimension)
        self.size = self._padded + self.told
        if plan.cohort.size * self.size > MOST_DRAWS:
            raise ConfigError(
                f"plan.cohort.size = {plan.cohort.size}: with {plan.dimension} parameters a sum holds over 2**40 draws "
                "of noise, for which no epsilon is computed; ask fewer clients"
            )
        self._seed = f"fedsus rotation {plan.round}".encode()  # public; of the round alone, however it is run

    def init(self) -> Arrays:
        """Nothing is kept between rounds."""
        return {}

    def _integers(self, updates: LocalUpdates, noise: Noise) -> NDArray[np.uint32]:
        rings = np.empty((len(updates), self.size), dtype=np.uint32)
        whole, table = self._rounded(updates, noise).reshape(-1), skellam(self._shares.variance)
        for part in rounding.chunks(whole.size):
            whole[part] += table.draw(noise, part.stop - part.start)
            whole[part] &= (1 << self.bits) - 1
        rings[:, : self._padded] = whole.reshape(len(updates), self._padded)
        if self._shares.metrics is not None and self.told:
            told = self._told(updates)
            told += skellam(self._shares.metrics).draw(noise, told.size).reshape(told.shape)
            rings[:, self._padded :] = residues.of_whole(told, self.bits)
        return rings

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
        totals, held_out, costs = self._released(whole[self._padded :], survivors)
        return state, Mean(found.astype(np.float32), float(survivors), totals, held_out, near, costs)

    def _rounded(self, updates: LocalUpdates, noise: Noise) -> NDArray[np.int64]:
        """The rounded updates, (m, padded) int64, within the mechanism's sensitivity."""
        raise NotImplementedError

    def _factor(self, survivors: int) -> float:
        """What the sum is multiplied by."""
        raise NotImplementedError


class ClientSkellam(SkellamShares):
    """Client unit: the mean over the survivors of clipped updates."""

    def __init__(self, plan: Plan, privacy: ClientDistributed) -> None:
        super().__init__(plan, privacy, privacy.full_weight)
        self._clip = privacy.clip
        if privacy.clip * privacy.shares.scale + math.sqrt(self._padded) >= _LONGEST:
            raise ConfigError(
                f"clip {privacy.clip:g} is {privacy.clip * privacy.shares.scale:.3g} steps: steps are too fine; "
                "expected fewer than 2**31"
            )
        self._most = sensitivity.largest_square(privacy.clip, privacy.shares.scale, self._padded)

    def _rounded(self, updates: LocalUpdates, noise: Noise) -> NDArray[np.int64]:
        rows = self._checked(updates)
        rows *= self._weights(updates)[:, np.newaxis]
        clip_rows(rows, self._clip)
        scaled = rotate(rows, self._seed)
        scaled *= self._shares.scale
        whole = _dithered(scaled, noise)
        for _ in range(_REDRAWS):
            long = _longer(whole, self._most)
            if not long.size:
                return whole
            whole[long] = _dithered(scaled[long], noise)
        long = _longer(whole, self._most)
        whole[long] = np.trunc(scaled[long])
        return whole

    def _factor(self, survivors: int) -> float:
        return 1 / survivors


class ExampleSkellam(SkellamShares):
    """Example unit: one gradient step of the learning rate, on the noised sum over a public denominator."""

    def __init__(self, plan: Plan, privacy: ExampleDistributed) -> None:
        super().__init__(plan, privacy, None)
        self._most = sensitivity.LARGEST_SUM / privacy.shares.scale
        self._step = learning_rate(plan.training, plan.round, plan.rounds) / privacy.denominator

    def _rounded(self, updates: LocalUpdates, noise: Noise) -> NDArray[np.int64]:
        rows = self._checked(updates)
        clip_rows(rows, self._most)
        scaled = rotate(rows, self._seed)
        scaled *= self._shares.scale
        return _dithered(scaled, noise)

    def _factor(self, survivors: int) -> float:
        del survivors
        return self._step


def _dithered(values: NDArray[np.float64], noise: Noise) -> NDArray[np.int64]:
    """Stochastic rounding of (m, d), unbiased: floor(y + u), u uniform in [0, 1)."""
    whole = np.empty(values.shape, dtype=np.int64)
    flat, out = values.reshape(-1), whole.reshape(-1)
    for part in rounding.chunks(flat.size):
        dithered = noise.uniform(part.stop - part.start)
        dithered += flat[part]
        out[part] = np.floor(dithered, out=dithered)
    return whole


def _longer(whole: NDArray[np.int64], most: int) -> NDArray[np.intp]:
    """Which rows (m, d) have squares that sum to more than ``most``."""
    # Exact: the squares of fewer than 2**31 steps sum below 2**62.
    return np.flatnonzero(np.einsum("ij,ij->i", whole, whole) > most)
