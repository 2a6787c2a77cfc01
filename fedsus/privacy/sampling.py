"""Skellam noise without floating point: exact inversion of a table with 127 bits of probability an entry.

The symmetric Skellam distribution of total variance v is the difference of two Poisson variables of rate v / 2 each:
P(X = k) = exp(-v) I_|k|(v), k any integer. Its Renyi divergence is what the distributed mechanisms account (Agarwal,
Kairouz and Liu, arXiv:2110.04995), so what is drawn must be that distribution. numpy's Poisson is rejection in
floating point, whose log-probabilities are off by up to 3e-9 at rate 1e6.

**The table.** x[k-1] = x[k+1] + (2k / v) x[k] from k = M down (Miller's backward recurrence, DLMF 3.6 and 10.29.1) in
integers, with x[M+1] = 0, x[M] = `_START`, v the rational number that the float is, and each division rounded down.
Any solution y with y[j] = 1, y[j+1] = 0 is below j a multiple r I of the Bessel functions but for an error of at most
1 in each entry: y[i] / I[i] moves by terms I[j+1] / (I[i] I[i+1]) of alternating sign and growing size (Casoratian of
y and I). It also has r I[j] <= 2. By linearity x[k], too, is within `_START` + 2M of a multiple of I[k], 0 <= k <= M.
The entries beyond M are bounded by Chernoff: P(|X| >= t) <= 2 exp(v (cosh h - 1) - h t), h = asinh(t / v). So both
errors are known without knowing a single value of I, and `SkellamTable.distance` adds them to those of rounding.

**The draw.** A word of 64 bits gives the sign (its lowest bit) and the highest 63 of the 127 bits U that choose
|X| = #{k: P(|X| <= k) <= U}. Different bits decide each, so sign and size are independent; minus zero is zero. Only if
those 63 bits are an entry's, a further word gives the other 64.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.errors import ConfigError
from fedsus.privacy.accounting import DRAW_DISTANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus.types import Noise

_START: Final = 1 << 24
_TAIL: Final = 144
"""The recurrence starts where at most 2**-144 is left; the table ends where 2**-128 is."""
_ENTRIES: Final = 1 << 22
_CHUNK: Final = 1 << 15
"""Draws at a time: 256 KiB a buffer."""
_ONE: Final = 1 << 127


class SkellamTable:
    """Draws from the symmetric Skellam distribution of one variance. Immutable; may be shared between threads.

    At a variance of 1e9 it takes 11 MB, 50 MB and a third of a second while it is made; all grow with the standard
    deviation. A draw takes 2 MiB besides its result.

    Args:
        variance: of one draw, in squared integer steps: the float's exact value.

    Attributes:
        variance: as given.
        distance: the total-variation distance of one draw from Skellam(variance / 2, variance / 2) is at most this,
            given uniform words. With n draws, what would be (epsilon, delta)-private with exact noise is
            (epsilon, delta + (1 + exp(epsilon)) n distance)-private.

    Raises:
        ConfigError: the variance is not finite and above 0, or beyond 8.7e10, where a table would get too large.
    """

    __slots__ = ("_guide", "_high", "_low", "_shift", "distance", "variance")

    def __init__(self, variance: float) -> None:
        if not (math.isfinite(variance) and variance > 0):
            raise ConfigError(f"variance of Skellam noise = {variance:g}: expected a finite number above 0")
        self.variance = float(variance)
        self._high, self._low, self.distance = _table(self.variance)
        if self.distance > DRAW_DISTANCE:  # the epsilon that was computed would not cover it
            raise ConfigError(f"variance of Skellam noise = {variance:g}: a draw errs by more than is accounted for")
        bits = min(max(int(variance**0.5).bit_length() + 4, 12), 22)
        self._shift = np.uint64(64 - bits)
        self._guide = _guide(self._high, bits)
        for array in (self._high, self._low, self._guide):
            array.flags.writeable = False

    def __repr__(self) -> str:
        return f"SkellamTable({self.variance!r})"

    def draw(self, noise: Noise, size: int) -> NDArray[np.int64]:
        """Independent draws, (size,) int64. Each takes one word of ``noise``, and with a chance below 2**-40 a second.

        The time that it takes depends on the words alone.
        """
        out = np.empty(size, dtype=np.int64)
        flips = np.empty(min(size, _CHUNK), dtype=np.int64)
        for start in range(0, size, _CHUNK):
            part = out[start : start + _CHUNK]
            words, flip = noise.words(part.size), flips[: part.size]
            self._sizes(words, noise, part)
            np.bitwise_and(words, np.uint64(1), out=flip.view(np.uint64))
            np.negative(flip, out=flip)  # 0 or -1: (k ^ 0) - 0 = k, (k ^ -1) - -1 = -k
            np.bitwise_xor(part, flip, out=part)
            np.subtract(part, flip, out=part)
        return out

    def _sizes(self, words: NDArray[np.uint64], noise: Noise, out: NDArray[np.int64]) -> None:
        """|X| for each word, into ``out``. The guide tells the first entry that its leading bits leave open."""
        np.take(self._guide, (words >> self._shift).view(np.int64), out=out, mode="clip")
        searched = np.flatnonzero(out == self._low.size)
        first = self._high.take(out, mode="clip")
        ties = words - first < 2  # of uint64: below the entry it wraps
        out += words >= first
        if searched.size:
            found = words[searched]
            sizes = np.searchsorted(self._high[:-1], found, side="right")
            out[searched] = sizes
            ties[searched] = (sizes > 0) & (found - self._high[sizes - 1] < 2)
        for i in np.flatnonzero(ties):
            out[i] = self._settle(words[i], noise.words(1)[0])

    def _settle(self, word: np.uint64, further: np.uint64) -> int:
        """|X| of a word whose 63 bits are those of one entry or more: the other 64 bits decide between them."""
        low, high = self._low, self._high[:-1]
        entry = word & ~np.uint64(1)
        first, end = np.searchsorted(high, entry, side="left"), np.searchsorted(high, entry, side="right")
        return int(first + np.searchsorted(low[first:end], further, side="right"))


@lru_cache(maxsize=4)
def skellam(variance: float) -> SkellamTable:
    """The table of a variance, kept for the next call.

    Raises:
        ConfigError: see `SkellamTable`.
    """
    return SkellamTable(variance)


def _log_tail(variance: float, t: int) -> float:
    """Chernoff's bound on log P(|X| >= t), t >= 1, written so that nothing cancels."""
    return math.log(2) + t * t / (variance + math.hypot(variance, t)) - t * math.asinh(t / variance)


def _reach(variance: float) -> int:
    """The smallest M >= 1 for which P(|X| >= M) is known to be at most 2**-144."""
    limit = -_TAIL * math.log(2)
    reach = 1 + bisect_left(range(1, _ENTRIES + 1), True, key=lambda t: _log_tail(variance, t) <= limit)
    if reach > _ENTRIES:
        raise ConfigError(
            f"variance of Skellam noise = {variance:g}: expected at most 8.7e10, beyond which a sampler's table gets "
            "too large; choose a coarser scale, or share the noise among more survivors"
        )
    return reach


def _tails(variance: float, reach: int) -> tuple[list[int], int]:
    """S * P(|X| > k) for k = 0..reach - 1, and S."""
    over, under = variance.as_integer_ratio()
    step, above, here, total = 2 * under, 0, _START, 0
    tails: list[int] = []
    for k in range(reach, 0, -1):
        total += 2 * here
        tails.append(total)
        above, here = here, above + k * step * here // over
    tails.reverse()
    return tails, total + here


def _table(variance: float) -> tuple[NDArray[np.uint64], NDArray[np.uint64], float]:
    """P(|X| <= k) * 2**127 for k = 0..n-1: bits 64..126, one place to the left, and bits 0..63; and the distance.

    The bits 64..126 have one entry more, which no word but one reaches, so that every index has an entry.
    """
    reach = _reach(variance)
    tails, whole = _tails(variance, reach)
    # Dividing by S as multiplying by a constant: quicker, and off by less than 2**-99 of a unit.
    places = whole.bit_length() + 100
    factor, half = (_ONE << places) // whole, 1 << (places - 1)
    entries = np.empty((reach, 2), dtype="<u8")
    for start in range(0, reach, _CHUNK):
        block = [_ONE - ((tail * factor + half) >> places) for tail in tails[start : start + _CHUNK]]
        raw = b"".join([entry.to_bytes(16, "little") for entry in block])
        entries[start : start + len(block)] = np.frombuffer(raw, dtype="<u8").reshape(-1, 2)
    entries = entries[: np.searchsorted(entries[:, 1], 1 << 63)]  # 2**127 is certainty: less than 2**-128 is left
    high = np.append(entries[:, 1] << np.uint64(1), np.uint64(2**64 - 1))
    off = (2 * reach + 1) * (_START + 2 * reach) / whole + 1.01 * 2.0**-_TAIL
    return high, entries[:, 0].astype(np.uint64), (len(entries) + 2) * 2.0**-128 + off


def _guide(high: NDArray[np.uint64], bits: int) -> NDArray[np.int64]:
    """For each value of a word's leading bits, the one entry that they leave open; n where there are several."""
    starts = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    first = np.searchsorted(high[:-1], starts)
    inside = np.diff(first, append=high.size - 1)
    return np.where(inside > 1, high.size - 1, first)
