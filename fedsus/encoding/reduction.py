"""Fewer coordinates on the way up: a random part of an update, the same part on all clients, so that parts add up.

With d parameters, k coordinates that are sent, S a choice of k of d without replacement, R orthonormal (d x d):

    rand_k       P = S
    projection   P = S R     R: random signs and Walsh-Hadamard (subsampled randomised Hadamard transform, Tropp 2011)

    sent      y = u P x          u v = d / k
    released  v P' mean(y)       P' the transpose

Each coordinate of R x is kept with chance k / d, and R' R = 1: E[P' P] = (k / d) 1, so what is released is unbiased,
unless y is clipped. Of the mean m it is off by (d / k - 1) |m|^2 in square, exactly, for both. A choice of few
coordinates alone misses, or catches, what is concentrated in few; the rotation spreads it first.

    noise after P     client unit: u = v = sqrt(d / k). E|y|^2 = |x|^2, so that one clipping bound serves all shares; y
                      is clipped, whatever it is, so that the bound holds. Noise of deviation z c in k coordinates comes
                      back as (d / k) k (z c)^2 = d (z c)^2: as much as without reduction.
    clipped before P  example unit, noise in shares: u = 1, since |P g| <= |g| for each clipped gradient g, and no more
                      can be promised; d / k multiplies the noise's square: (d / k)^2 k (z c)^2.
    noise before P    example unit, local: post-processing; d / k multiplies the noise's square, as it does |m|^2.

The choice is drawn from the plan's round and model, which everybody knows: it hides nothing, and no bound depends on
it, so a server that picks models until it likes a choice loses accuracy alone. A second attempt at a round asks for
the same coordinates of the same model.

R rotates the first p coordinates, p the largest power of two up to d, then the last p: no coordinate is padded.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.encoding.noised import clip_rows
from fedsus.encoding.rotation import rotate, rotate_back
from fedsus.encoding.rounding import CHUNK
from fedsus.errors import ProtocolViolation
from fedsus.plan import canonical
from fedsus.privacy.sensitivity import LARGEST_SUM
from fedsus.protection import ExampleDistributed
from fedsus.types import LocalUpdate, LocalUpdates, Mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedsus.encoding.mechanism import Mechanism
    from fedsus.encoding.packing import Buffer
    from fedsus.plan import Plan
    from fedsus.types import Arrays, Noise, Ring

_TAG: Final = b"fedsus reduction 1\0"


@dataclass(frozen=True, slots=True)
class Reduction:
    """The linear map of a round.

    Attributes:
        seed: public; of the round.
        dimension, coordinates: d and k, k < d.
        rotated: whether P rotates before it chooses.
        up: u; v is d / k / u.
        longest: what an update's norm is cut to first, so that float64 arithmetic moves no step of a sum whose
            sensitivity is counted before the reduction; None where it is bounded after it.
    """

    seed: bytes
    dimension: int
    coordinates: int
    rotated: bool
    up: float
    longest: float | None = None

    @classmethod
    def of(cls, plan: Plan) -> Reduction | None:
        """What ``plan`` asks for; None where whole updates are sent, or none."""
        dimension, coordinates, uplink = plan.dimension, plan.coordinates, plan.encoding.uplink
        if uplink is None or coordinates == dimension or plan.purpose == "evaluate":
            return None
        seed = hashlib.sha256(_TAG + canonical([uplink.name, plan.round, plan.model])).digest()
        up, longest = math.sqrt(dimension / coordinates), None
        if isinstance(plan.privacy, ExampleDistributed):
            up, longest = 1.0, LARGEST_SUM / plan.privacy.shares.scale
        return cls(seed, dimension, coordinates, uplink.name == "projection", up, longest)

    def reduce(self, rows: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
        """u P x of each row (m, d), (m, k) float64; rows with NaN or infinity are NaN.

        Raises:
            ProtocolViolation: another shape.
        """
        if rows.shape[1:] != (self.dimension,):
            raise ProtocolViolation(f"update: shape {rows.shape[1:]}, the plan says ({self.dimension},)")
        found = np.empty((len(rows), self.coordinates))
        kept, together = chosen(self.seed, self.dimension, self.coordinates), max(1, CHUNK // self.dimension)
        for start in range(0, len(rows), together):
            part = slice(start, min(start + together, len(rows)))
            found[part] = self._reduced(rows[part], kept)
        return found

    def _reduced(self, rows: NDArray[np.float32] | NDArray[np.float64], kept: NDArray[np.int64]) -> NDArray[np.float64]:
        finite = np.isfinite(rows).all(axis=1)
        values = rows.astype(np.float64)
        values[~finite] = 0.0
        if self.longest is not None:
            clip_rows(values, self.longest)
        if self.rotated:
            power = _power(self.dimension)
            values[:, :power] = rotate(values[:, :power], self.seed + b"head")
            if power < self.dimension:
                values[:, -power:] = rotate(values[:, -power:], self.seed + b"tail")
        found = values[:, kept]
        found *= self.up
        found[~finite] = np.nan
        return found

    def expand(self, values: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
        """v P' y of ``values`` (k,): (d,) float64."""
        found = np.zeros(self.dimension)
        kept = chosen(self.seed, self.dimension, self.coordinates)
        found[kept] = values.astype(np.float64) * (self.dimension / self.coordinates / self.up)
        if self.rotated:
            power = _power(self.dimension)
            if power < self.dimension:
                found[-power:] = rotate_back(found[-power:], self.seed + b"tail", power)
            found[:power] = rotate_back(found[:power], self.seed + b"head", power)
        return found


@lru_cache(maxsize=1)  # of the round: as many numbers as are sent
def chosen(seed: bytes, dimension: int, count: int) -> NDArray[np.int64]:
    """``count`` of 0..``dimension`` - 1 without replacement, rising, (count,) int64: the same everywhere.

    Those with the least of 64-bit numbers from SHAKE-128 of ``seed``; of equal numbers the first.
    """
    found = least(np.frombuffer(hashlib.shake_128(seed).digest(8 * dimension), dtype="<u8"), count)
    found.flags.writeable = False
    return found


def least(numbers: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """Where the ``count`` least of ``numbers`` are, rising; of equal ones the first."""
    limit = np.partition(numbers, count - 1)[count - 1]
    below, equal = np.flatnonzero(numbers < limit), np.flatnonzero(numbers == limit)
    return np.sort(np.concatenate([below, equal[: count - len(below)]])).astype(np.int64)


def _power(dimension: int) -> int:
    """The largest power of two up to ``dimension``."""
    return 1 << (dimension.bit_length() - 1)


class Reduced:
    """A mechanism of k coordinates between the reduction and its inverse. Metrics and costs pass as they are.

    Attributes:
        reduction: of the round.
        inner: the mechanism of the plan with k parameters.
    """

    def __init__(self, reduction: Reduction, inner: Mechanism) -> None:
        self.reduction, self.inner = reduction, inner

    @property
    def bits(self) -> int:
        """Sums are taken mod 2**bits."""
        return self.inner.bits

    @property
    def size(self) -> int:
        """Length of the integer vector."""
        return self.inner.size

    def init(self) -> Arrays:
        """The inner mechanism's."""
        return self.inner.init()

    def encode(self, update: LocalUpdate, noise: Noise) -> Ring:
        """One client's integers, (size,) uint32.

        Raises:
            ProtocolViolation: the update's shape is not the plan's.
        """
        delta = self.reduction.reduce(np.asarray(update.delta)[np.newaxis])[0]
        return self.inner.encode(replace(update, delta=delta), noise)

    def encode_all(self, updates: LocalUpdates, noises: Sequence[Noise]) -> NDArray[np.uint32]:
        """The integers of a stack of m clients, (m, size) uint32: row i is what `encode` makes with noise i."""
        return self.inner.encode_all(self._reduced(updates), noises)

    def add_to(self, total: Ring, updates: LocalUpdates, noises: Sequence[Noise]) -> None:
        """Add the integers of a stack of clients to ``total`` (size,) uint32 in place, mod 2**bits."""
        self.inner.add_to(total, self._reduced(updates), noises)

    def check(self, packed: Buffer) -> None:
        """Refuse one client's packed integers that no ``encode`` makes."""
        self.inner.check(packed)

    def release(self, state: Arrays, total: Ring, survivors: int, noise: Noise) -> tuple[Arrays, Mean]:
        """As the inner mechanism, with a mean update of d coordinates: an unbiased estimate but for clipping."""
        state, mean = self.inner.release(state, total, survivors, noise)
        return state, replace(mean, delta=self.reduction.expand(mean.delta).astype(np.float32))

    def _reduced(self, updates: LocalUpdates) -> LocalUpdates:
        # float64, as a sum of gradients is: each mechanism takes both
        return replace(updates, deltas=self.reduction.reduce(updates.deltas))  # type: ignore[arg-type]
