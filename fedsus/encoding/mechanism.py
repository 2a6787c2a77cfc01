"""From an update to integers mod 2**bits, and from their sum to the mean update.

The mechanism is the one owner of the derived numbers (scales, bounds). Both sides build it from the plan; none of
them is ever sent.

With N = cohort size, b = bits, R = value_range, W = weight_cap, a client's integers are bounded by

    update      M = floor((2**(b - 1) - 1) / N)   round(clamp(delta, -R, R) / R * (w / W) * M), signed
    weight      W                                 w = min(round(examples), W)
    saturated   U = floor((2**b - 1) / N)         min(count, U)
    metrics     U                                 round((mean - low) / (high - low) * (h / W) * U)
    held_out    W                                 h = min(examples, W)

so that a sum over N clients cannot wrap. Rounding is to nearest even and needs no randomness. In a private run
w / W is 1 and the update is all that is sent. A client with more than W held-out examples counts as W of them with the
same mean. The mean update is off by at most N_survivors / 2 steps, one step being `FixedPoint.step` / sum of weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from fedsus.encoding.layout import Layout
from fedsus.encoding.packing import Buffer, parts
from fedsus.errors import ConfigError, ProtocolViolation
from fedsus.types import LocalUpdate, Mean, Noise, Ring, Vector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dp_accounting import DpEvent
    from numpy.typing import NDArray

    from fedsus.plan import Plan

_CHUNK: Final = 32 * 1024  # coordinates at a time: 256 KiB of float64
_LEVELS: Final = 127  # fewer steps than this on each side of zero is no update worth sending


class Mechanism(Protocol):
    """Turns one client's update into integers, and the sum over a cohort into their mean."""

    @property
    def bits(self) -> int:
        """Sums are taken mod 2**bits."""
        ...

    @property
    def size(self) -> int:
        """Length of the integer vector."""
        ...

    def encode(self, update: LocalUpdate, noise: Noise) -> Ring:
        """One client's integers, (size,) uint32, each below 2**bits."""
        ...

    def check(self, packed: Buffer) -> None:
        """Refuse one client's packed integers that no ``encode`` makes."""
        ...

    def decode(self, total: Ring, survivors: int) -> Mean:
        """The mean over ``survivors`` clients of the sum of their integers."""
        ...

    def event(self, update: LocalUpdate) -> DpEvent | None:
        """What releasing the sum spends for this client; None without differential privacy."""
        ...


class FixedPoint:
    """Deterministic fixed point; noise, where there is any, is already in the update.

    Attributes:
        bits: sums are taken mod 2**bits.
        layout: segments of the integer vector.
        step: value of one integer step of the summed update, times the sum of the weights (1 each in a private run).

    Raises:
        ConfigError: the plan's bits cannot carry its cohort.
    """

    def __init__(self, plan: Plan) -> None:
        self.bits = plan.encoding.bits
        self.layout = Layout.of(plan)
        self._clients = plan.cohort.size
        self._range = plan.encoding.value_range
        self._cap = 1 if plan.private else plan.encoding.weight_cap
        self._low = np.array([metric.low for metric in plan.metrics], dtype=np.float64)
        self._width = np.array([metric.high for metric in plan.metrics], dtype=np.float64) - self._low
        _check_bits(self.bits, self._clients, self._cap)
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
        del noise  # rounding to nearest needs none
        layout = self.layout
        ring = np.zeros(layout.size, dtype=np.uint32)
        saturated = 0
        if layout.purpose == "train":
            weight, saturated = self._encode_update(update, ring[layout.update])
            if not layout.private:
                ring[layout.weight] = weight
        if not layout.private:
            saturated += self._encode_metrics(update, ring)
            ring[layout.saturated] = min(saturated, self._unsigned)
        return ring

    def check(self, packed: Buffer) -> None:
        """Refuse one client's packed integers that `encode` cannot make: added, they would spoil the whole sum.

        For an exchange that shows the server each client's integers.

        Raises:
            ProtocolViolation: another length, or a residue beyond what one client can reach.
        """
        layout, cap, most = self.layout, self._cap, self._unsigned
        end = layout.update.stop
        bounds = np.zeros(layout.size - end, dtype=np.uint32)
        for segment, bound in (
            (layout.weight, cap),
            (layout.saturated, most),
            (layout.totals, most),
            (layout.held_out, cap),
        ):
            bounds[segment.start - end : segment.stop - end] = bound
        for start, part in parts(packed, layout.size, self.bits):
            cut = max(end - start, 0)
            signed, rest = self._signs(part[:cut]), part[cut:]
            if signed.size and max(int(signed.max()), -int(signed.min())) > self._signed:
                raise ProtocolViolation("answer: the update is beyond what one client can reach")
            first = max(start - end, 0)
            if (rest > bounds[first : first + rest.size]).any():
                raise ProtocolViolation("answer: a count is beyond what one client can reach")

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
        return Mean(delta, float(weight.sum()), totals, held_out, saturated)

    def event(self, update: LocalUpdate) -> DpEvent | None:
        """The trainer's own event: clamping and rounding are post-processing.

        Raises:
            ProtocolViolation: a private run's update that does not say what it spends.
        """
        if not self.layout.private:
            return None
        if update.event is None:
            raise ProtocolViolation("update: a private run's update must say what it spends")
        return update.event

    def _encode_update(self, update: LocalUpdate, out: Ring) -> tuple[int, int]:
        """Fill the update's segment; its weight, and how many coordinates were clamped or not finite."""
        delta = update.delta
        if delta.shape != (self.layout.dimension,):
            raise ProtocolViolation(f"update: shape {delta.shape}, the plan says ({self.layout.dimension},)")
        broken = sum(int(np.count_nonzero(~np.isfinite(delta[part]))) for part in _chunks(len(delta)))
        weight = self._cap if self.layout.private else self._whole(update.weight)
        if broken or not weight:
            return (0, broken)
        scale = self._signed * (weight / self._cap) / self._range
        clamped = 0
        for part in _chunks(len(delta)):
            values = delta[part].astype(np.float64)
            clamped += int(np.count_nonzero(np.abs(values) > self._range))
            np.clip(values, -self._range, self._range, out=values)
            values *= scale
            np.rint(values, out=values)
            out[part] = values.astype(np.int64) & self._mask
        return weight, clamped

    def _encode_metrics(self, update: LocalUpdate, ring: Ring) -> int:
        """Fill the metrics' segments; how many were out of bounds. Totals that are not finite count for nothing."""
        totals = np.asarray(update.totals, dtype=np.float64)
        if totals.shape != self._low.shape:
            raise ProtocolViolation(f"update: {totals.size} metrics, the plan names {self._low.size}")
        held_out = self._whole(update.held_out)
        if not held_out or not np.isfinite(totals).all():
            return 0
        share = (totals / update.held_out - self._low) / self._width
        inside = np.clip(share, 0.0, 1.0)
        scaled = np.rint(inside * (held_out / self._cap * self._unsigned))
        ring[self.layout.totals] = scaled.astype(np.uint32)
        ring[self.layout.held_out] = held_out
        return int(np.count_nonzero(np.abs(share - inside) > 1e-6))  # a sum of float32 may end just outside

    def _decode_update(self, total: Ring, weight: int, survivors: int) -> Vector:
        """Mean update (d,) float32; zero when the weight is 0."""
        delta = np.zeros(self.layout.dimension, dtype=np.float32)
        if not weight:
            return delta
        scale, bound = self.step / weight, survivors * self._signed
        for part in _chunks(len(total)):
            signed = self._signs(total[part])
            if int(signed.max()) > bound or int(signed.min()) < -bound:
                raise ProtocolViolation("sum: the update is beyond what its survivors can reach")
            delta[part] = signed * scale
        return delta

    def _signs(self, residues: Ring) -> NDArray[np.int32]:
        """Residues as signed numbers: to the top of a word and back, for the arithmetic shift extends the sign."""
        shift = 32 - self.bits
        return (residues << np.uint32(shift)).view(np.int32) >> np.int32(shift)

    def _whole(self, examples: float) -> int:
        """A count of examples as the integer that is sent, 0..weight_cap; 0 for what is no count."""
        return int(min(round(examples), self._cap)) if np.isfinite(examples) and examples > 0 else 0

    @staticmethod
    def _bounded(total: Ring, bound: int, name: str) -> NDArray[np.int64]:
        values = total.astype(np.int64)
        if values.size and int(values.max()) > bound:
            raise ProtocolViolation(f"sum: {name} is beyond what its survivors can reach")
        return values


def _chunks(length: int) -> Iterator[slice]:
    for start in range(0, length, _CHUNK):
        yield slice(start, min(start + _CHUNK, length))


def _check_bits(bits: int, clients: int, cap: int) -> None:
    """Refuse a width that cannot carry the cohort: M >= 127 steps, and N * W below 2**bits."""
    needed = max((2 * _LEVELS * clients + 1).bit_length(), (clients * cap).bit_length())
    if bits >= needed:
        return
    small = "a smaller cohort.size" if cap == 1 else f"a smaller cohort.size or encoding.weight_cap (now {cap})"
    way_out = f"it takes at least {needed}, or {small}" if needed <= 32 else f"no width up to 32 can: choose {small}"
    raise ConfigError(f"encoding.bits = {bits} cannot carry {clients} clients: {way_out}")
