"""Lower bounds on epsilon from what a mechanism released many times: statistics alone, whatever the mechanism.

Draw a number from what is released under each of two neighbouring inputs. If the mechanism is (epsilon, delta)-private,
no test that tells one input from the other by that number has a true-positive rate above e^epsilon times its
false-positive rate plus delta (Kairouz, Oh and Viswanath 2015). So with rates bounded by Clopper and Pearson (1934)

    epsilon >= log((lower bound of the one rate - delta) / upper bound of the other)

for each of the four tests that a threshold t makes: x >= t or x < t, and either input as the one that is to be told.
Nothing is assumed of the law of x (Jagielski, Ullman and Oprea 2020). Test and threshold are chosen on one half of the
draws, the bound is that of the other half, so that it fails no more often for having been chosen.

At a delta as small as a run's, a hundred thousand draws say little: a test that rarely errs is rarely seen to err. What
a mechanism spends is a curve, so the bound is also taken at larger `DELTAS`, and must be below the curve at each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    _Counts = NDArray[np.int64]

FAILURE: Final = 1e-3
"""Chance that a bound of `lower_bounds` is above the truth, at any of its deltas."""

DELTAS: Final = (1e-2, 0.05, 0.2)
"""Where the curve is looked at besides the run's own delta."""

_THRESHOLDS: Final = 600
_LEAST_DRAWS: Final = 4


@dataclass(frozen=True, slots=True)
class Bound:
    """What the draws show at one delta, beside what is claimed there.

    Attributes:
        delta: of the claim.
        claim: epsilon that the mechanism spends at most.
        lower: epsilon that it spends at least; 0 where the draws show nothing.
    """

    delta: float
    claim: float
    lower: float

    @property
    def broken(self) -> bool:
        """Whether the claim is refuted."""
        return self.lower > self.claim

    @property
    def share(self) -> float:
        """Of the claim that the draws show."""
        return self.lower / self.claim if self.claim > 0 else (math.inf if self.lower > 0 else 0.0)


def audit(
    absent: NDArray[np.float64],
    present: NDArray[np.float64],
    claim: Callable[[float], float],
    delta: float,
    failure: float = FAILURE,
) -> tuple[Bound, ...]:
    """The bounds at ``delta``, which comes first, and at those of `DELTAS` that are larger and where there are any.

    Args:
        absent, present: as `lower_bounds`.
        claim: epsilon as a function of delta.

    Raises:
        ConfigError: as `lower_bounds`.
    """
    deltas = [delta, *(other for other in DELTAS if other > delta)]
    found = lower_bounds(absent, present, deltas, failure)
    shown = [(at, lower) for at, lower in zip(deltas, found, strict=True) if at == delta or lower > 0]
    return tuple(Bound(at, claim(at), lower) for at, lower in shown)


def sharpest(bounds: Sequence[Bound]) -> Bound:
    """Where the draws show the largest part of what is claimed; the first where they show nothing."""
    return max(bounds, key=lambda bound: bound.share)


def lower_bounds(
    absent: NDArray[np.float64], present: NDArray[np.float64], deltas: Sequence[float], failure: float = FAILURE
) -> list[float]:
    """Epsilon at each delta is at least this; all hold together but for a chance of ``failure``.

    Args:
        absent, present: independent draws of the same number under each of two neighbouring inputs, (n,) and (m,).
            The two may depend on each other.
        deltas: each in [0, 1).
        failure: in (0, 1).

    Raises:
        ConfigError: too few draws, one that is not a number, or a delta or chance out of range.
    """
    _check(absent, present, deltas, failure)
    tuning, held = _Halves(absent[::2], present[::2]), _Halves(absent[1::2], present[1::2])
    each = failure / len(deltas) / 2  # at each delta two rates are bounded
    thresholds = _thresholds(absent[::2], present[::2])
    chosen, found = tuning.rates(thresholds, each), []
    for delta in deltas:
        test, at = np.unravel_index(np.argmax(_epsilons(*chosen, delta)), chosen[0].shape)
        lower, upper = held.rates(thresholds[at : at + 1], each)
        found.append(max(0.0, float(_epsilons(lower[test], upper[test], delta)[0])))
    return found


def clopper_pearson(counts: NDArray[Any], draws: int, failure: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lower and upper bounds on the chance of what came ``counts`` times in ``draws``; each fails with ``failure``."""
    from scipy.special import betaincinv

    found = np.asarray(counts, dtype=np.float64)
    lower, upper = np.zeros_like(found), np.ones_like(found)
    some, rest = found > 0, found < draws
    lower[some] = betaincinv(found[some], draws - found[some] + 1, failure)
    upper[rest] = betaincinv(found[rest] + 1, draws - found[rest], 1 - failure)
    return lower, upper


class _Halves:
    """How often each test of a threshold says "present", under each input."""

    def __init__(self, absent: NDArray[np.float64], present: NDArray[np.float64]) -> None:
        self._absent, self._present = np.sort(absent), np.sort(present)

    def rates(self, thresholds: NDArray[np.float64], failure: float) -> tuple[NDArray[Any], NDArray[Any]]:
        """The lower bounds on one rate and the upper bounds on the other, (4, thresholds) each."""
        below = np.searchsorted(self._absent, thresholds), np.searchsorted(self._present, thresholds)
        sizes = self._absent.size, self._present.size
        lower, upper = [], []
        for one, other in ((0, 1), (1, 0)):
            for above in (True, False):
                counts = [sizes[i] - below[i] if above else below[i] for i in (0, 1)]
                lower.append(clopper_pearson(counts[one], sizes[one], failure)[0])
                upper.append(clopper_pearson(counts[other], sizes[other], failure)[1])
        return np.array(lower), np.array(upper)


def _epsilons(lower: NDArray[Any], upper: NDArray[Any], delta: float) -> NDArray[Any]:
    """0 where a rate is within delta."""
    over = lower - delta
    result: NDArray[Any] = np.where(over > 0, np.log(np.maximum(over, 1e-300) / upper), 0.0)
    return result


def _thresholds(absent: NDArray[np.float64], present: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles of either side's draws, as fine in the tails as there are draws."""
    ranks = np.unique(np.geomspace(1, max(absent.size, present.size), _THRESHOLDS // 4).astype(np.intp)) - 1
    found = []
    for draws in (absent, present):
        ordered, here = np.sort(draws), ranks[ranks < draws.size]
        found += [ordered[here], ordered[draws.size - 1 - here]]
    return np.unique(np.concatenate(found))


def _check(absent: NDArray[np.float64], present: NDArray[np.float64], deltas: Sequence[float], failure: float) -> None:
    if min(absent.size, present.size) < _LEAST_DRAWS:
        raise ConfigError(f"{min(absent.size, present.size)} draws: a bound needs {_LEAST_DRAWS} or more of each input")
    if np.isnan(absent).any() or np.isnan(present).any():
        raise ConfigError("a draw is not a number: nothing can be said of what was released")
    if not 0 < failure < 1:
        raise ConfigError(f"failure = {failure}: expected a number between 0 and 1")
    for delta in deltas:
        if not 0 <= delta < 1:
            raise ConfigError(f"delta = {delta}: expected a number from 0 to below 1")
