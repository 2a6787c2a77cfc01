"""From an update to integers mod 2**bits, and from their sum to the mean update.

The mechanism is the one owner of the derived numbers (scales, bounds). Both sides build it from the plan; none of
them is ever sent.

With N = cohort size, b = bits, R = value_range, W = weight_cap, a client's integers are bounded by

    update      M = floor((2**(b - 1) - 1) / N)   round(clamp(delta, -R, R) / R * (w / W) * M), signed
    weight      W                                 w = min(round(examples), W)
    saturated   U = floor((2**b - 1) / N)         min(count, U)
    metrics     U                                 round((mean - low) / (high - low) * (h / W) * U)
    held_out    W                                 h = min(examples, W)
    costs       U                                 `fedsus.encoding.costs`

so that a sum over N clients cannot wrap. Rounding is to nearest even and needs no randomness. In a private run
w / W is 1 and the update is all that is sent. A client with more than W held-out examples counts as W of them with the
same mean. The mean update is off by at most N_survivors / 2 steps, one step being `FixedPoint.step` / sum of weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from fedsus.encoding import residues, rounding
from fedsus.encoding.costs import CostBlock
from fedsus.encoding.layout import Layout
from fedsus.encoding.packing import Buffer, parts
from fedsus.errors import ConfigError, ProtocolViolation
from fedsus.types import Arrays, LocalUpdate, LocalUpdates, Mean, Noise, Ring, Vector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedsus.plan import Plan

_SMALLEST: Final = 1e-37  # below, coordinates are no normal float32, and the scale might be infinite


class Mechanism(Protocol):
    """Turns one client's update into integers, and the sum over a cohort into what is released of it."""

    @property
    def bits(self) -> int:
        """Sums are taken mod 2**bits."""
        ...

    @property
    def size(self) -> int:
        """Length of the integer vector."""
        ...

    def init(self) -> Arrays:
        """What the server keeps between rounds, before the first; empty where it adds no noise. It is secret."""
        ...

    def encode(self, update: LocalUpdate, noise: Noise) -> Ring:
        """One client's integers, (size,) uint32, each below 2**bits."""
        ...

    def encode_all(self, updates: LocalUpdates, noises: Sequence[Noise]) -> NDArray[np.uint32]:
        """The integers of a stack of m clients, (m, size) uint32: row i is what ``encode`` makes with noise i."""
        ...

    def add_to(self, total: Ring, updates: LocalUpdates, noises: Sequence[Noise]) -> None:
        """Add the integers of a stack of clients to ``total`` (size,) uint32 in place, mod 2**bits."""
        ...

    def check(self, packed: Buffer) -> None:
        """Refuse one client's packed integers that no ``encode`` makes."""
        ...

    def release(self, state: Arrays, total: Ring, survivors: int, noise: Noise) -> tuple[Arrays, Mean]:
        """What may be known of the sum of ``survivors`` clients' integers, and the state after it.

        Args:
            noise: the server's own, for mechanisms whose noise is added there.
        """
        ...


class FixedPoint:
    """Deterministic fixed point; noise, where there is any, is already in the update.

    Attributes:
        bits: sums are taken mod 2**bits.
        layout: segments of the integer vector.
        step: value of one integer step of the summed update, times the sum of the weights (1 each in a private run).

    Raises:
        ConfigError: the plan's bits cannot carry its cohort, or its range is below what a float32 can be.
    """

    def __init__(self, plan: Plan) -> None:
        self.bits = plan.encoding.bits
        self.layout = Layout.of(plan)
        self._clients, self._costs = plan.cohort.size, CostBlock(plan)
        self._range = plan.encoding.value_range
        self._cap = 1 if plan.private else plan.encoding.weight_cap
        self._low = np.array([metric.low for metric in plan.metrics], dtype=np.float64)
        self._width = np.array([metric.high for metric in plan.metrics], dtype=np.float64) - self._low
        residues.check_bits(self.bits, self._clients, self._cap)
        if self._range < _SMALLEST:
            raise ConfigError(f"encoding.value_range = {self._range:g}: expected {_SMALLEST:g} or more")
        self._mask = (1 << self.bits) - 1
        self._signed = (self._mask >> 1) // self._clients  # M
        self._unsigned = self._mask // self._clients  # U
        self.step = self._range * self._cap / self._signed

    @property
    def size(self) -> int:
        """Length of the integer vector."""
        return self.layout.size

    def encode(self, update: LocalUpdate, noise: Noise) -> Ring:
        """One client's integers, (size,) uint32. An update with NaN or infinity becomes zeros of weight 0.

        Raises:
            ProtocolViolation: the update's shapes are not the plan's.
        """
        one = LocalUpdates(
            update.delta[np.newaxis],
            np.array([update.weight], dtype=np.float64),
            np.asarray(update.totals, dtype=np.float64)[np.newaxis],
            np.array([update.held_out]),
            costs=update.costs[np.newaxis],
        )
        del noise  # rounding to nearest needs none
        ring: Ring = self.encode_all(one)[0]
        return ring

    def encode_all(self, updates: LocalUpdates, noises: Sequence[Noise] = ()) -> NDArray[np.uint32]:
        """The integers of a stack of m clients, (m, size) uint32: row i is what `encode` makes of update i.

        Raises:
            ProtocolViolation: the updates' shapes are not the plan's.
        """
        del noises  # rounding to nearest needs none
        scales, limits, counts = self._measured(updates)
        rings = np.empty((len(updates), self.size), dtype=np.uint32)
        if self.layout.purpose == "train":
            for rows, columns, values in rounding.rounded(updates.deltas, scales, limits):
                rings[rows, columns] = residues.of(values, self.bits)
        rings[:, self.layout.update.stop :] = counts
        return rings

    def add_to(self, total: Ring, updates: LocalUpdates, noises: Sequence[Noise] = ()) -> None:
        """Add the integers of all updates to ``total`` (size,) uint32 in place, mod 2**bits, without making them.

        Exact: float64 holds the sum of up to 2**22 clients, each below 2**31.

        Raises:
            ProtocolViolation: the updates' shapes, or the sum's, are not the plan's; nothing was added.
        """
        del noises
        if total.shape != (self.size,):
            raise ProtocolViolation(f"sum: {total.size} residues, expected {self.size}")
        scales, limits, counts = self._measured(updates)
        end = self.layout.update.stop
        if self.layout.purpose == "train":
            for columns, sums in rounding.summed(updates.deltas, scales, limits):
                residues.add(total[columns], sums, self.bits)
        residues.add(total[end:], counts.sum(axis=0, dtype=np.float64), self.bits)

    def check(self, packed: Buffer) -> None:
        """Refuse one client's packed integers that `encode` cannot make: added, they would spoil the whole sum.

        For an exchange that shows the server each client's integers.

        Raises:
            ProtocolViolation: another length, or a residue beyond what one client can reach.
        """
        layout, cap, most = self.layout, self._cap, self._unsigned
        end = layout.update.stop
        bounds = np.zeros(layout.size - end, dtype=np.uint32)
        limits = ((layout.weight, cap), (layout.saturated, most), (layout.totals, most), (layout.held_out, cap))
        for segment, bound in (*limits, (layout.costs, most)):
            bounds[self._rest(segment)] = bound
        for start, part in parts(packed, layout.size, self.bits):
            cut = max(end - start, 0)
            signed, rest = residues.signed(part[:cut], self.bits), part[cut:]
            if signed.size and max(int(signed.max()), -int(signed.min())) > self._signed:
                raise ProtocolViolation("answer: the update is beyond what one client can reach")
            first = max(start - end, 0)
            if (rest > bounds[first : first + rest.size]).any():
                raise ProtocolViolation("answer: a count is beyond what one client can reach")

    def init(self) -> Arrays:
        """Nothing is kept between rounds."""
        return {}

    def release(self, state: Arrays, total: Ring, survivors: int, noise: Noise) -> tuple[Arrays, Mean]:
        """As `decode`; noise, where there is any, was added on the devices."""
        del noise
        return state, self.decode(total, survivors)

    def decode(self, total: Ring, survivors: int) -> Mean:
        """The mean of the sum ``total`` (size,) uint32 over ``survivors`` clients.

        The update is zero when the weights sum to 0.

        Raises:
            ProtocolViolation: another size, more survivors than the cohort, or a sum that honest clients cannot reach.
        """
        layout = self.layout
        if total.shape != (layout.size,):
            raise ProtocolViolation(f"sum: {total.size} residues, expected {layout.size}")
        if not 0 <= survivors <= self._clients:
            raise ProtocolViolation(f"sum: {survivors} survivors of a cohort of {self._clients}")
        train = layout.purpose == "train"
        if layout.private:
            delta = self._decode_update(total[layout.update], survivors, survivors)
            return Mean(delta, float(survivors), np.zeros(0), 0, None)
        weight = self._bounded(total[layout.weight], survivors * self._cap, "weight")
        delta = self._decode_update(total[layout.update], int(weight.sum()), survivors)
        saturated = int(total[layout.saturated][0]) if train else None
        held_out = int(self._bounded(total[layout.held_out], survivors * self._cap, "held_out")[0])
        shares = self._bounded(total[layout.totals], survivors * self._unsigned, "metrics")
        totals = self._low * held_out + self._width * (shares.astype(np.float64) * (self._cap / self._unsigned))
        costs = self._costs.sums(self._bounded(total[layout.costs], survivors * self._unsigned, "costs"), survivors)
        return Mean(delta, float(weight.sum()), totals, held_out, saturated, costs)

    def _measured(self, updates: LocalUpdates) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """Scale and limit of each row (see `rounding.rounded`), and the segments after the update as (m, rest) int64.

        The scale is 0 where an update counts for nothing.
        """
        layout, m = self.layout, len(updates)
        counts = np.zeros((m, layout.size - layout.update.stop), dtype=np.int64)
        weights, limits, saturated = np.zeros(m, np.int64), np.full(m, np.inf), np.zeros(m, np.int64)
        if layout.purpose == "train":
            weights, limits, saturated = self._weighed(updates)
            counts[:, self._rest(layout.weight)] = weights[:, np.newaxis]
        if not layout.private:
            counts[:, self._rest(layout.costs)], clamped = self._costs.whole(updates.costs, m)
            saturated += clamped + self._count_metrics(updates, counts)
            counts[:, self._rest(layout.saturated)] = np.minimum(saturated, self._unsigned)[:, np.newaxis]
        return self._signed * (weights / self._cap) / self._range, limits, counts

    def _weighed(self, updates: LocalUpdates) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Weight of each row, its limit, and how many coordinates are clamped or not finite, each (m,)."""
        deltas = updates.deltas
        if deltas.shape[1:] != (self.layout.dimension,):
            raise ProtocolViolation(f"update: shape {deltas.shape[1:]}, the plan says ({self.layout.dimension},)")
        weights = np.full(len(deltas), self._cap) if self.layout.private else self._whole(updates.weights)
        largest, saturated = rounding.largest(deltas), np.zeros(len(deltas), dtype=np.int64)
        for i in np.flatnonzero(~(largest <= self._range)):
            if not np.isfinite(largest[i]):
                weights[i], saturated[i] = 0, rounding.broken(deltas[i])
            elif weights[i]:
                saturated[i] = rounding.beyond(deltas[i], self._range)
        return weights, np.where(largest > self._range, self._range, np.inf), saturated

    def _count_metrics(self, updates: LocalUpdates, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Fill the metrics' segments; how many were out of bounds. Totals that are not finite count for nothing."""
        if updates.totals.shape[1:] != self._low.shape:
            raise ProtocolViolation(f"update: {updates.totals.shape[-1]} metrics, the plan names {self._low.size}")
        held_out, outside = self._whole(updates.held_out), np.zeros(len(updates), dtype=np.int64)
        good = (held_out > 0) & np.isfinite(updates.totals).all(axis=1)
        share = (updates.totals[good] / updates.held_out[good, np.newaxis] - self._low) / self._width
        inside = np.clip(share, 0.0, 1.0)
        scaled = np.rint(inside * (held_out[good, np.newaxis] / self._cap * self._unsigned))
        counts[good, self._rest(self.layout.totals)] = scaled
        counts[:, self._rest(self.layout.held_out)] = np.where(good, held_out, 0)[:, np.newaxis]
        outside[good] = np.count_nonzero(np.abs(share - inside) > 1e-6, axis=1)  # a sum of float32 may end just outside
        return outside

    def _rest(self, segment: slice) -> slice:
        """A segment after the update, counted from the update's end."""
        end = self.layout.update.stop
        return slice(segment.start - end, segment.stop - end)

    def _decode_update(self, total: Ring, weight: int, survivors: int) -> Vector:
        """Mean update (d,) float32; zero when the weight is 0."""
        delta = np.zeros(self.layout.dimension, dtype=np.float32)
        if not weight:
            return delta
        scale, bound = self.step / weight, survivors * self._signed
        for part in rounding.chunks(len(total)):
            signed = residues.signed(total[part], self.bits)
            if int(signed.max()) > bound or int(signed.min()) < -bound:
                raise ProtocolViolation("sum: the update is beyond what its survivors can reach")
            delta[part] = signed * scale
        return delta

    def _whole(self, examples: NDArray[np.float64] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts of examples as the integers that are sent, 0..weight_cap; 0 for what is no count."""
        counted = np.where(np.isfinite(examples) & (examples > 0), examples, 0.0)
        return np.minimum(np.rint(counted), self._cap).astype(np.int64)

    @staticmethod
    def _bounded(total: Ring, bound: int, name: str) -> NDArray[np.int64]:
        values = total.astype(np.int64)
        if values.size and int(values.max()) > bound:
            raise ProtocolViolation(f"sum: {name} is beyond what its survivors can reach")
        return values
