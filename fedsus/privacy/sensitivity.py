"""How far one client, or one example, can move the integers that are summed.

Rounding makes a vector longer. With s the scale, c the clipping bound, d the (padded) dimension:

    client    ||round(s x)||_2 <= D2, where D2^2 is the least of
              (s c + sqrt d)^2  and  s^2 c^2 + d/4 + sqrt(2 ln(1/beta)) (s c + sqrt(d)/2)
              (Kairouz, Liu, Steinke 2021, "The distributed discrete Gaussian mechanism", equation 9). Rounding is drawn
              again until the bound holds, so it always holds, and beta costs nothing of delta.
    example   ||round(s (S + g)) - round(s S)||_2 <= s c + sqrt d, for one dither u in round(y) = floor(y + u) on both
              sides: each coordinate of the difference is off by less than 1. Redrawing would not help: the bound above
              is on one vector, not on the difference of two.

An integer vector has ||v||_1 <= min(sqrt(d) ||v||_2, ||v||_2^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

BETA: Final = math.exp(-0.5)
"""Chance that one rounding is drawn again, at most, in the bound on a client's vector."""

METRIC_STEPS: Final = 1 << 12
"""Integer steps across the range of one metric, or one cost."""

_SLACK: Final = 2.0**-10
"""Most by which float64 arithmetic moves one coordinate before it is rounded, in steps: rotating a vector of norm L
costs each coordinate at most log2(d) roundings of 2**-53 L."""

LARGEST_SUM: Final = 2.0**36
"""Norm of a sum of gradients, in steps, up to which that holds. A longer one is shortened to it, which brings no two
sums further apart: projection onto a ball is non-expansive."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Most that the summed integers move, in steps: L1 and L2."""

    l1: float
    l2: float

    def times(self, factor: float) -> Sensitivity:
        """Of ``factor`` such moves."""
        return Sensitivity(factor * self.l1, factor * self.l2)


def padded(dimension: int) -> int:
    """Coordinates after rotation: the next power of two."""
    return 1 << (dimension - 1).bit_length()


def client_update(clip: float, scale: float, size: int) -> Sensitivity:
    """Of one client's rounded update of ``size`` coordinates, against zeros."""
    return _of_integers(math.sqrt(largest_square(clip, scale, size)), size)


def largest_square(clip: float, scale: float, size: int) -> int:
    """Most that the squared norm of a client's rounded update may be: what rounding is drawn again for."""
    length = scale * clip
    sure = (length + math.sqrt(size)) ** 2
    likely = length**2 + size / 4 + math.sqrt(2 * math.log(1 / BETA)) * (length + math.sqrt(size) / 2)
    return math.floor(min(sure, likely))


def example_update(clip: float, scale: float, size: int) -> Sensitivity:
    """Of one example's clipped gradient, added to any others before rounding with one dither."""
    return _of_integers(scale * clip * (1 + 1e-9) + math.sqrt(size) * (1 + _SLACK), size)


def client_metrics(count: int) -> Sensitivity:
    """Of ``count`` metrics and costs of one client: each is within half of `METRIC_STEPS` of zero."""
    half = METRIC_STEPS / 2
    return Sensitivity(count * half, math.sqrt(count) * half)


def _of_integers(l2: float, size: int) -> Sensitivity:
    return Sensitivity(min(math.sqrt(size) * l2, l2**2), l2)
