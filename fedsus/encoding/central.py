"""Noise at the server: clients send clipped updates, and what is released of their sum is noised there.

With N = cohort size, b = bits, c the round's clipping bound:

    update   M = floor((2**(b - 1) - 1) / N)   trunc(x / c * M)    x = w delta, clipped to c
    told     metrics and costs: `fedsus.encoding.noised`
    below    1 if the norm was at most c, else -1                  where clipping is adaptive

Cutting to integers towards zero keeps an update within M steps, so the noise has z M steps. It is rounded to whole
steps: the sum is whole as well, so that is post-processing, and no digit of a floating-point draw is seen by anyone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.encoding import packing, residues, rounding
from fedsus.encoding.noised import NoisedUpdates, shortened
from fedsus.errors import ConfigError, ProtocolViolation
from fedsus.privacy import factorisation, sensitivity
from fedsus.types import Mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedsus.encoding.packing import Buffer
    from fedsus.plan import Plan
    from fedsus.protection import Adaptive, ClientCentral
    from fedsus.types import Arrays, LocalUpdates, Noise, Ring

_LEAST_CLIP: Final = 1e-9
_MOST_CLIP: Final = 1e9
_MOST_POWER: Final = 50.0
"""Beyond exp of this a bound is out of range, from wherever it comes: much noise on few clients asks for more."""


class ClientGaussian(NoisedUpdates):
    """Client unit, noise at the server: independent or correlated over rounds, with a fixed or an adaptive bound.

    Attributes:
        bits: sums are taken mod 2**bits.
        size: update, what is told beside it, and one more where clipping is adaptive.

    Raises:
        ConfigError: the plan's bits cannot carry its cohort.
    """

    def __init__(self, plan: Plan, privacy: ClientCentral) -> None:
        self._plan, self._privacy = plan, privacy
        super().__init__(plan, plan.metrics if privacy.metrics is not None else (), privacy.full_weight)
        self.bits = plan.encoding.bits
        self._clip = privacy.clip if plan.clip is None else plan.clip
        if not _LEAST_CLIP <= self._clip <= _MOST_CLIP:  # no server that follows the rule asks for another
            raise ConfigError(f"clip {self._clip:g}: expected {_LEAST_CLIP:g} to {_MOST_CLIP:g}")
        self._end = plan.dimension + self.told
        self.size = self._end + (privacy.adaptive is not None)
        self._steps = ((1 << (self.bits - 1)) - 1) // plan.cohort.size  # M
        if self._steps < max(residues.LEVELS, sensitivity.METRIC_STEPS if self.told else 1):
            raise ConfigError(
                f"encoding.bits = {self.bits}: cannot carry {plan.cohort.size} clients; use more bits or fewer clients"
            )

    def init(self) -> Arrays:
        """The bound of the next round where it is adaptive; earlier noise, which is secret, where it is correlated."""
        if self._privacy.adaptive is not None:
            return {"clip": np.array([self._privacy.clip])}
        if self._privacy.banded is not None:
            return {"noise": np.zeros((self._privacy.banded.bands - 1, self._plan.dimension))}
        return {}

    def _integers(self, updates: LocalUpdates, noise: Noise) -> NDArray[np.uint32]:
        del noise  # the server's
        scales, rest = self._measured(updates)
        rings = np.empty((len(updates), self.size), dtype=np.uint32)
        unclamped = np.full(len(updates), np.inf)
        for rows, columns, values in rounding.rounded(updates.deltas, scales, unclamped, np.trunc):
            rings[rows, columns] = residues.of(values, self.bits)
        rings[:, self.dimension :] = residues.of_whole(rest, self.bits)
        return rings

    def add_to(self, total: Ring, updates: LocalUpdates, noises: Sequence[Noise] = ()) -> None:
        """Add the integers of all updates to ``total`` (size,) uint32 in place, mod 2**bits, without making them.

        Exact: float64 holds the sum of up to 2**22 clients, each below 2**31.
        """
        del noises  # the server's
        scales, rest = self._measured(updates)
        unclamped = np.full(len(updates), np.inf)
        for columns, sums in rounding.summed(updates.deltas, scales, unclamped, np.trunc):
            residues.add(total[columns], sums, self.bits)
        residues.add(total[self.dimension :], rest.sum(axis=0).astype(np.float64), self.bits)

    def _measured(self, updates: LocalUpdates) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Steps in one unit of each update, 0 where it is not finite, and what follows the update, (m, rest) int64."""
        if updates.deltas.shape[1:] != (self.dimension,):
            raise ProtocolViolation(f"update: shape {updates.deltas.shape[1:]}, the plan says ({self.dimension},)")
        norms, weights = rounding.norms(updates.deltas), self._weights(updates)
        finite = np.isfinite(norms)
        norms = np.where(finite, norms, 0.0) * weights
        scales = np.where(finite, weights * shortened(norms, self._clip) * (self._steps / self._clip), 0.0)
        rest = np.empty((len(updates), self.size - self.dimension), dtype=np.int64)
        rest[:, : self.told] = self._told(updates)
        if self._privacy.adaptive is not None:
            rest[:, -1] = np.where(norms <= self._clip, 1, -1)
        return scales, rest

    def check(self, packed: Buffer) -> None:
        """Refuse one client's packed integers that `encode` cannot make.

        Raises:
            ProtocolViolation: another length, or a residue beyond what one client can reach.
        """
        limits = self._limits()
        for start, part in packing.parts(packed, self.size, self.bits):
            reached = np.abs(residues.signed(part, self.bits).astype(np.int64))
            if (reached > limits[start : start + len(part)]).any():
                raise ProtocolViolation("answer: an integer is beyond what one client can reach")

    def release(self, state: Arrays, total: Ring, survivors: int, noise: Noise) -> tuple[Arrays, Mean]:
        """The noised mean of the sum ``total`` (size,) uint32 over ``survivors`` clients, and the next state.

        Raises:
            ProtocolViolation: another size, too many survivors, or a sum that honest clients cannot reach.
        """
        if total.shape != (self.size,):
            raise ProtocolViolation(f"sum: {total.size} residues, expected {self.size}")
        if not 1 <= survivors <= self._plan.cohort.size:
            raise ProtocolViolation(f"sum: {survivors} survivors of a cohort of {self._plan.cohort.size}")
        whole = residues.signed(total, self.bits).astype(np.int64)
        if (np.abs(whole) > survivors * self._limits()).any():
            raise ProtocolViolation("sum: it is beyond what its survivors can reach")
        dimension = self._plan.dimension
        following, row = self._noise_row(state, noise)
        update = whole[:dimension].astype(np.float64) + np.rint(row * (self._privacy.noise_multiplier * self._steps))
        update *= self._clip / self._steps / survivors
        told = whole[dimension : self._end].astype(np.float64)
        if self._privacy.metrics is not None and self.told:
            deviation = self._privacy.metrics * sensitivity.client_metrics(self.told).l2
            told += np.rint(noise.normal(self.told) * deviation)
        totals, held_out, costs = self._released(told, survivors)
        if self._privacy.adaptive is not None:
            following = {"clip": self._next_clip(self._privacy.adaptive, int(whole[-1]), survivors, noise)}
        return following, Mean(update.astype(np.float32), float(survivors), totals, held_out, None, costs)

    def _noise_row(self, state: Arrays, noise: Noise) -> tuple[Arrays, NDArray[np.float64]]:
        """The next state, and noise for the update in units of z M steps, (d,) float64."""
        fresh, banded = noise.normal(self._plan.dimension), self._privacy.banded
        if banded is None:
            return {}, fresh
        fresh *= factorisation.sensitivity(banded.bands, banded.participations)
        row = factorisation.next_noise(fresh, state["noise"])
        return {"noise": np.concatenate([row[np.newaxis], state["noise"]])[: banded.bands - 1]}, row

    def _next_clip(self, adaptive: Adaptive, balance: int, survivors: int, noise: Noise) -> NDArray[np.float64]:
        """Andrew et al. 2021, Algorithm 1; ``balance`` is how many were below the bound minus how many above."""
        noised = balance / 2 + float(np.rint(noise.normal(1)[0] * adaptive.noise * 2)) / 2
        below = noised / survivors + 0.5
        power = -adaptive.learning_rate * (below - adaptive.quantile)
        clip = self._clip * math.exp(min(max(power, -_MOST_POWER), _MOST_POWER))
        return np.array([min(max(clip, _LEAST_CLIP), _MOST_CLIP)])

    def _limits(self) -> NDArray[np.int64]:
        """Most that one client reaches in each coordinate."""
        limits = np.full(self.size, self._steps, dtype=np.int64)
        limits[self._plan.dimension : self._end] = sensitivity.METRIC_STEPS // 2
        limits[self._end :] = 1
        return limits
