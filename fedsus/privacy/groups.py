"""What a release spends of one person with several rows, each of which is sampled by itself; add or remove them all.

Of r rows, each in a batch with probability q, K ~ Binomial(r, q) are, and move the sum by at most K times what one
row may. Let Q be the release without the person, P_S with the rows S, M = sum_S q^|S| (1 - q)^(r - |S|) P_S. Fewer
rows, or rows that move less, are dominated; so sizes may be rounded up (`sizes`), which bounds the work.

**Gaussian noise.** M and Q are dominated, in either direction and however steps are composed, by their one-dimensional
counterparts: noise N(0, z^2) about K and about 0 (Ganesh 2024, "Tight Group-Level DP Guarantees for DP-SGD with
Sampling via Mixture of Gaussians Mechanisms"; from Choquette-Choo, Ganesh, Steinke and Thakurta 2023, "Privacy
Amplification for Matrix Mechanisms", section 4: vectors by their norms, sizes by stochastically larger ones). Both
have the likelihood ratio

    L(x) = sum_k p_k exp(k x / z^2 - k^2 / (2 z^2)),    p_k = P(K = k).

`losses` gives both directions' privacy loss distributions; `_of_gaussian` the Renyi divergence D_a(M || Q), from
E_Q[L^a]. D_a(Q || M), from E_Q[L^(1-a)], is not larger: log L is convex in x. Take c >= 0 such that the linear
l(x) = c x / z - c^2 / 2 has E_Q[exp((1 - a) l)] = E_Q[L^(1-a)] (both are at least 1, by Jensen); then
E_Q[exp(a l)] is the same number. P(log L > y) - P(l > y) =: D(y) is positive, then negative, then positive again, as
y rises, for a convex function leaves a line so; and the integrals of exp(y) D and exp((1 - a) y) D are 0. Three
exponentials combine to exp(a y) - s exp(y) - t exp((1 - a) y) with zeros where D changes sign, and then the sign of
D throughout. So E_Q[L^a] - E_Q[exp(a l)], a times the integral of exp(a y) D, is not negative.

**Any noise** for which E_Q[(P_S / Q)^j] <= exp((j - 1) e_|S|(j)) at integer j, in both directions for one S by itself
(`fedsus.privacy.rdp`), Skellam noise with it. Expand E_Q[(M / Q)^a] into products of a likelihood ratios; of those
with j that are not 1, Hölder's inequality bounds each by the product of E_Q[(P_S / Q)^j]^(1/j):

    E_Q[(M / Q)^a] <= sum_j C(a, j) p_0^(a-j) Z(j)^j,    Z(j) = sum_{k >= 1} p_k exp((j - 1) e_k(j) / j).

For the other direction write M = sum_k l_k ((1 - p_k / l_k) Q + (p_k / l_k) P_k) over k >= 1, with any l_k >= p_k that
add up to 1. y^(1-a) is convex: E_Q[(M / Q)^(1-a)] is at most the mean, by l, of what each part has alone, and each of
those is a single move, sampled at the rate p_k / l_k, which `fedsus.privacy.rdp` bounds in that direction too. l_k is
tried in proportion to p_k exp((t - 1) e_k(t) / t), the terms of Z(t), at several t. With all rows as one of size r
both bounds are those of one move by r, sampled at 1 - (1 - q)^r: what was charged before is never less.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Curve = NDArray[np.float64]
    Sampled = Callable[[float, Curve, tuple[int, ...]], Curve]

FINEST: Final = 16
"""Numbers of rows are rounded up by less than one part in so many; up to twice as many they are told apart."""

_LEAST: Final = 1e-300
"""Chances below are rounded up to it."""

_TILTS: Final = (1, 2, 3, 4, 6, 10, 20)
"""t, in the module's text."""

_STEP: Final = 0.75
"""Of the trapezoid rule, in standard deviations: off by a share of 2 exp(-2 pi^2 / step^2) = 1e-15 for one Gaussian,
by Poisson's summation, and so for any mixture of them."""

_ENDS: Final = 10.0
"""Standard deviations beyond the outermost Gaussian: less than 1e-22 of it lies outside."""

_MOST_POINTS: Final = 1 << 14
_ERRORS: Final = 1e-12
"""More than all floating-point errors of a logarithm of moments: absolute, and as a share."""

_CUT: Final = 1e-22
"""Of the mass of a privacy loss distribution: what is beyond counts as lost."""

_MOST_LOSSES: Final = 200_000
_MOST_TERMS: Final = 6_600_000
"""Losses times sizes: bounds time and memory."""

_MOST_NEWTON: Final = 60


def sizes(rate: float, rows: int) -> tuple[Curve, Curve]:
    """How many of ``rows`` rows are drawn, rounded up (see `FINEST`); and the logarithm of their chance.

    To what a number is rounded does not depend on ``rows``, so that a row more never spends less.

    Returns:
        (k,) float64 from 0 to ``rows``; (k,) float64, whose exponentials add up to 1.
    """
    from scipy.stats import binom

    last = [0]
    while last[-1] < rows:
        last.append(min(last[-1] + max(last[-1] // FINEST, 1), rows))
    chances = np.add.reduceat(binom.pmf(np.arange(rows + 1), rows, rate), [0, *(end + 1 for end in last[:-1])])
    log_chance = np.log(np.maximum(chances, _LEAST))
    log_chance[0] = max(rows * math.log1p(-rate), math.log(_LEAST))  # next to 1, where a chance has no digits left
    return np.array(last, dtype=np.float64), log_chance


def divergence(
    rate: float,
    rows: int,
    noise: float | None,
    moved: Callable[[float], Curve],
    single: Sampled,
    orders: tuple[int, ...],
) -> Curve:
    """Upper bounds on the Renyi divergence at each order, (len(orders),) float64, in the worse direction.

    Args:
        rate: q, more than 0 and less than 1.
        rows: r, 2 or more.
        noise: z, where the noise is Gaussian.
        moved: e_k at the orders 0 to max(orders), of k rows.
        single: the divergence of a single move at a rate, from its own at the orders 0 to max(orders).
        orders: 2 or more each.
    """
    size, log_chance = sizes(rate, rows)
    curves = np.stack([moved(float(k)) for k in size[1:]])
    either = _of_any(log_chance, curves, single, orders, backwards=noise is None)
    return either if noise is None else np.fmin(either, _of_gaussian(size, log_chance, noise, orders))


def _of_any(log_chance: Curve, curves: Curve, single: Sampled, orders: tuple[int, ...], *, backwards: bool) -> Curve:
    """Of any noise, as in the module's text; in the one direction alone if not ``backwards``."""
    from scipy.special import logsumexp

    some = float(-np.expm1(log_chance[0]))
    share = log_chance[1:, None] - logsumexp(log_chance[1:])
    order = np.arange(curves.shape[1], dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        tilt = np.where(order >= 1, (order - 1) / order, 0.0) * curves
        tilt = np.where(np.isnan(tilt), math.inf, tilt)
        together = np.where(order >= 2, order / (order - 1), 0.0) * _log_mean(share, tilt)
    found = single(some, np.where(np.isnan(together), math.inf, together), orders)
    return np.fmax(found, _backwards(log_chance[1:], curves, tilt, single, orders)) if backwards else found


def _backwards(log_chance: Curve, curves: Curve, tilt: Curve, single: Sampled, orders: tuple[int, ...]) -> Curve:
    """D_a(Q || M): the least over the ways to take M apart, at each order."""
    from scipy.special import logsumexp

    best = np.full(len(orders), math.inf)
    above = np.array(orders) - 1.0
    for at in _TILTS:
        if at >= tilt.shape[1] or not np.isfinite(tilt[:, at]).all():
            continue
        weight = log_chance + tilt[:, at]
        weight -= logsumexp(weight)
        rates = np.exp(np.minimum(log_chance - weight, 0.0))
        if (log_chance > weight + 1e-12).any():  # a part would have to be drawn more often than always
            continue
        parts = [single(float(part), curve, orders) for part, curve in zip(rates, curves, strict=True)]
        best = np.fmin(best, _log_mean(weight[:, None], above * np.stack(parts)) / above)
    return best


def _log_mean(log_weight: Curve, exponent: Curve) -> Curve:
    """Upper bound on log(sum_k w_k exp(x_k)) of weights (k, 1) that add up to 1 and exponents (k, n), none negative.

    It is log(1 + sum_k w_k (exp(x_k) - 1)), of which nothing cancels however small the exponents are.
    """
    from scipy.special import logsumexp

    with np.errstate(divide="ignore", invalid="ignore"):
        terms = log_weight + exponent + np.log(-np.expm1(-exponent))
    found: Curve = np.logaddexp(0.0, logsumexp(terms, axis=0)) * (1 + _ERRORS)
    return found


def _of_gaussian(size: Curve, log_chance: Curve, noise: float, orders: tuple[int, ...]) -> Curve:
    """D_a(M || Q) in one dimension; infinity at orders that would take long, for which others serve.

    E_Q[L^a] integrates a mixture of Gaussians of the same deviation, between 0 and a r / z, whatever a.
    """
    from scipy.special import logsumexp

    found = np.full(len(orders), math.inf)
    with np.errstate(over="ignore"):
        step = size / noise
    for at, order in enumerate(orders):
        points = math.ceil((order * step[-1] + 2 * _ENDS) / _STEP) if step[-1] < _MOST_POINTS else _MOST_POINTS
        if points >= _MOST_POINTS:
            continue
        x = np.arange(points + 1) * _STEP - _ENDS
        ratio = logsumexp(log_chance[:, None] + step[:, None] * x - step[:, None] ** 2 / 2, axis=0)
        moment = logsumexp(order * ratio - x**2 / 2) + math.log(_STEP / math.sqrt(2 * math.pi))
        found[at] = (max(moment, 0.0) * (1 + _ERRORS) + _ERRORS) / (order - 1)
    return found


def losses(rate: float, rows: int, noise: float, interval: float) -> Any:
    """The privacy loss distribution of Gaussian noise, both directions, as ``dp_accounting`` composes them.

    Rounded up by the points at which its hockey-stick divergence is computed, ``interval`` apart (Doroshenko et al.
    2022, "Connect the dots"). None where it would take too many points.
    """
    from dp_accounting.pld.pld_pmf import create_pmf_pessimistic_connect_dots
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

    size, log_chance = sizes(rate, rows)
    mixture = _Mixture(size / noise, log_chance)
    both = []
    for low, high, deltas in ((*mixture.removed_range(), mixture.removed), (*mixture.added_range(), mixture.added)):
        first, last = math.floor(low / interval), math.ceil(high / interval)
        if last - first > min(_MOST_LOSSES, _MOST_TERMS / size.size):
            return None
        grid = np.arange(first, last + 1)
        found = np.maximum.accumulate(np.clip(deltas(np.asarray(grid * interval, dtype=np.float64)), 0.0, 1.0)[::-1])[
            ::-1
        ]
        both.append(create_pmf_pessimistic_connect_dots(interval, grid, found))
    return PrivacyLossDistribution(*both)


class _Mixture:
    """N(0, 1) and its mixture about ``size``, with the chances ``exp(log_chance)``; the first is about 0."""

    def __init__(self, size: Curve, log_chance: Curve) -> None:
        self.size, self.log_chance = size, log_chance

    def removed(self, epsilon: Curve) -> Curve:
        """Hockey-stick divergence of the mixture from the noise alone, at each epsilon."""
        from scipy.special import ndtr

        above = epsilon > self.log_chance[0]
        found = -np.expm1(np.where(above, 0.0, epsilon))  # all of it, where log L is never so small
        x = self._where(epsilon[above])
        mixed = np.exp(self.log_chance) @ ndtr(self.size[:, None] - x)
        found[above] = mixed - np.exp(epsilon[above] + _log_ndtr(-x))
        return np.asarray(found)

    def added(self, epsilon: Curve) -> Curve:
        """Of the noise alone from the mixture."""
        from scipy.special import logsumexp, ndtr

        found = np.zeros_like(epsilon)
        below = epsilon < -self.log_chance[0]
        x = self._where(-epsilon[below])
        mixed = logsumexp(self.log_chance[:, None] + _log_ndtr(x - self.size[:, None]), axis=0)
        found[below] = ndtr(x) - np.exp(epsilon[below] + mixed)
        return found

    def removed_range(self) -> tuple[float, float]:
        """Privacy losses between which all but `_CUT` of the mass lies."""
        from scipy.special import ndtri

        tail = np.minimum(_CUT / self.size.size / np.exp(self.log_chance), 1.0)  # 1: left out
        return self._loss(float(ndtri(_CUT))), self._loss(float(np.max(self.size - ndtri(tail))))

    def added_range(self) -> tuple[float, float]:
        """Likewise, the other way round."""
        from scipy.special import ndtri

        end = -float(ndtri(_CUT))
        return -self._loss(end), -self._loss(-end)

    def _loss(self, x: float) -> float:
        """log L."""
        return float(np.logaddexp.reduce(self.log_chance + self.size * x - self.size**2 / 2))

    def _where(self, loss: Curve) -> Curve:
        """Where log L is ``loss``, which is more than its least: Newton's steps, which a convex function lets go left
        only. They start where the first of its exponentials alone would be enough."""
        wanted = loss + np.log(-np.expm1(self.log_chance[0] - loss))  # of all but the Gaussian about 0
        size, start = self.size[1:, None], (self.log_chance[1:] - self.size[1:] ** 2 / 2)[:, None]
        x = np.min((wanted - start) / size, axis=0)
        for _ in range(_MOST_NEWTON):
            terms = start + size * x
            top = terms.max(axis=0)
            parts = np.exp(terms - top)
            whole = parts.sum(axis=0)
            move = (top + np.log(whole) - wanted) / ((size * parts).sum(axis=0) / whole)
            x = x - move
            if (np.abs(move) <= 1e-12 * (1 + np.abs(x))).all():
                break
        return np.asarray(x)


def _log_ndtr(x: Curve) -> Curve:
    from scipy.special import log_ndtr

    return np.asarray(log_ndtr(x))
