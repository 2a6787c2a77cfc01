"""Renyi differential privacy (Mironov 2017) of the releases that fedsus makes, at integer orders; add or remove one.

**Skellam noise.** Of a record that moves the integers by v, ||v||_1 <= D1, ||v||_2 <= D2, under noise of variance
mu per coordinate (Agarwal, Kairouz and Liu, NeurIPS 2021, the multi-dimensional bound, integer orders a >= 2):

    eps(a) = a D2^2 / (2 mu) + min(((2a - 1) D2^2 + 6 D1) / (4 mu^2), 3 D1 / (2 mu))

**Poisson sampling.** Let Q be the release without the record, P with it, M = (1 - q) Q + q P. At integer orders

    E_Q[(M / Q)^a] = sum_j C(a, j) (1 - q)^(a-j) q^j E_Q[(P / Q)^j],    E_Q[(P / Q)^j] <= exp((j - 1) eps(j)),

which bounds D_a(M || Q). D_a(Q || M) is not larger wherever an involution swaps P and Q (Mironov, Talwar and Zhang
2019, Theorem 5, shown there for Gaussians and needing no more than that): the two points of each orbit, of masses x
and y under Q, y and x under P, add no less to the first divergence than to the second. For noise that is symmetric
about 0 and a record that moves the sum by v, z -> v - z is that involution, and both Gaussian and Skellam noise are
symmetric. The sum itself is such a pure shift once everything else is fixed that both neighbours draw alike: the
other records, who of them was sampled, and the dither of every rounding. Renyi divergence is jointly quasi-convex
(van Erven and Harremoes 2014, Theorem 13), so that mixing over what was fixed adds nothing. No step of this uses
what a Gaussian is but eps(j) = j / (2 z^2). Of several rows of one person: `fedsus.privacy.groups`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dp_accounting import DpEvent
    from numpy.typing import NDArray

ORDERS: Final[tuple[int, ...]] = (
    *range(2, 64),
    *range(64, 128, 4),
    *range(128, 256, 8),
    *range(256, 512, 16),
    *range(512, 1025, 32),
)
"""Integer orders: each up to 64, then steps of a sixteenth, up to 1024."""

HIGHEST: Final = 1 << 14
"""Orders beyond this are refused, which bounds memory; ever higher ones serve ever smaller epsilon."""


def rdp(event: DpEvent, orders: Sequence[int] = ORDERS) -> NDArray[np.float64]:
    """Upper bounds on the Renyi divergence of ``event`` at each order, (len(orders),) float64; inf without privacy.

    Raises:
        Refusal: the event is unknown, or a number in it is out of range.
        ConfigError: an order is no integer from 2 to `HIGHEST`.
    """
    from fedsus.privacy.events import leaves

    asked = _checked(orders)
    total = np.zeros(len(asked))
    for leaf, count in leaves(event).items():
        with np.errstate(over="ignore"):
            total += count * _of_release(leaf, asked)
    return total


def epsilon_of(rdp: NDArray[np.float64], orders: Sequence[int], delta: float) -> tuple[float, int]:
    """Smallest epsilon at ``delta``, and the order that gives it (Canonne, Kamath and Steinke 2020, Proposition 12).

    Raises:
        ConfigError: delta is not in (0, 1), or an order is out of range, or ``rdp`` is of another length.
    """
    from dp_accounting.rdp import compute_epsilon

    _check_delta(delta)
    asked = _checked(orders)
    if len(asked) != len(rdp) or np.isnan(rdp).any():
        raise ConfigError(f"{len(rdp)} Renyi divergences for {len(asked)} orders: expected a number for each")
    if not all(rdp):  # said here, since delta^2 may be too small a number for what follows
        return 0.0, asked[int(np.argmin(rdp))]
    epsilon, order = compute_epsilon(asked, [float(value) for value in rdp], delta)
    return float(epsilon), int(order)


def budget(epsilon: float, delta: float, order: int) -> float:
    """The largest Renyi divergence at ``order`` that is still (epsilon, delta)-DP, rounded down.

    What a Renyi filter may let pass in all, whatever is asked and in whatever order (Feldman and Zrnic 2021),
    if the order is fixed before the first release. Below -log(1 - delta^2) epsilon is 0 at any order.

    Raises:
        ConfigError: epsilon is below 0 or no number, delta is not in (0, 1), or the order is out of range.
    """
    _check_delta(delta)
    _checked((order,))
    if not epsilon >= 0:
        raise ConfigError(f"epsilon = {epsilon}: expected 0 or more")
    if math.isinf(epsilon):
        return math.inf
    slack = math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
    free = -math.log1p(-delta * delta) * (1 - 1e-9)
    step = 2.0**-52 * (1 + epsilon + abs(slack))
    largest = epsilon - slack
    while largest > free and epsilon_of(np.array([largest]), (order,), delta)[0] > epsilon:
        largest -= step
    return max(largest, free)


def best_order(epsilon: float, delta: float, event: DpEvent | None = None) -> int:
    """The order of `ORDERS` at whose `budget` the most copies of ``event`` fit; of a small Gaussian without one.

    Raises:
        Refusal, ConfigError: as `rdp` and `budget`.
    """
    allowed = np.array([budget(epsilon, delta, order) for order in ORDERS])
    curve = np.array(ORDERS, dtype=np.float64)
    if event is not None:
        spent = rdp(event)
        if np.isfinite(spent).any() and spent.any():
            curve = spent
    return ORDERS[int(np.argmax(np.minimum(allowed, 1e300) / curve))]


def _checked(orders: Sequence[Any]) -> tuple[int, ...]:
    for order in orders:
        if isinstance(order, bool) or not isinstance(order, (int, np.integer)) or not 2 <= order <= HIGHEST:
            raise ConfigError(f"Renyi order {order!r}: expected an integer from 2 to {HIGHEST}")
    return tuple(int(order) for order in orders)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ConfigError(f"delta = {delta}: expected a number between 0 and 1")


def _of_release(leaf: Any, orders: tuple[int, ...]) -> NDArray[np.float64]:
    """One checked release, sampled or not."""
    import dp_accounting as dpa

    from fedsus.privacy.events import SampledRowsDpEvent, moved

    grouped = isinstance(leaf, SampledRowsDpEvent)
    if not grouped and not isinstance(leaf, dpa.PoissonSampledDpEvent):
        return _whole(leaf, np.array(orders, dtype=np.float64))
    rate = float(leaf.sampling_probability)
    if rate == 1:
        return _whole(moved(leaf.event, leaf.rows if grouped else 1), np.array(orders, dtype=np.float64))
    if grouped:
        return _of_rows(rate, leaf, orders)
    return _sampled(rate, _whole(leaf.event, np.arange(max(orders) + 1, dtype=np.float64)), orders)


def _of_rows(rate: float, leaf: Any, orders: tuple[int, ...]) -> NDArray[np.float64]:
    """Several rows of one person, each sampled by itself."""
    from fedsus.privacy import groups
    from fedsus.privacy.events import moved

    every = np.arange(max(orders) + 1, dtype=np.float64)
    noise = getattr(leaf.event, "noise_multiplier", None)
    if noise == 0:
        return np.full(len(orders), math.inf)
    return groups.divergence(
        rate,
        leaf.rows,
        None if noise is None else float(noise),
        lambda rows: _whole(moved(leaf.event, rows), every),
        _sampled,
        orders,
    )


def _whole(release: Any, order: NDArray[np.float64]) -> NDArray[np.float64]:
    """A release that is not sampled, at each order, in the shape of ``order``."""
    import dp_accounting as dpa

    from fedsus.privacy.events import SkellamDpEvent

    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if isinstance(release, dpa.GaussianDpEvent):
            bound = order / (2 * np.float64(release.noise_multiplier) ** 2)
        elif isinstance(release, SkellamDpEvent):
            bound = _skellam(np.float64(release.l1), np.float64(release.l2), np.float64(release.variance), order)
        else:
            bound = np.full_like(order, math.inf)
    return np.where(np.isnan(bound), math.inf, bound)


def _skellam(l1: np.float64, l2: np.float64, variance: np.float64, order: NDArray[np.float64]) -> NDArray[np.float64]:
    gaussian = order * (l2**2 / (2 * variance))
    small = ((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2)
    bound: NDArray[np.float64] = gaussian + np.fmin(small, 1.5 * l1 / variance)
    return bound


def _sampled(rate: float, whole: NDArray[np.float64], orders: tuple[int, ...]) -> NDArray[np.float64]:
    """The sum of the module's text at each order, from ``whole`` at orders 0 to max(orders).

    The binomial weights sum to 1, so that the sum is 1 + sum_{j >= 2} weight_j (exp((j - 1) eps(j)) - 1): no term is
    negative, and nothing cancels however small the rate.
    """
    if rate == 1:
        return np.asarray(whole[list(orders)])
    log_binomial, inside, starts, order = _grid(orders)
    gain = (inside - 1) * whole[inside.astype(np.intp)]
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = log_binomial + inside * math.log(rate) + (order - inside) * math.log1p(-rate)
        terms += gain + np.log(-np.expm1(-gain))
        top = np.maximum.reduceat(terms, starts)
        scaled = np.add.reduceat(np.exp(terms - np.repeat(top, np.diff(starts, append=terms.size))), starts)
        moment = np.logaddexp(0.0, top + np.log(scaled))
    moment = np.where(np.isposinf(top), math.inf, np.where(np.isneginf(top), 0.0, moment))
    result: NDArray[np.float64] = moment / (np.array(orders) - 1.0)
    return result


_Grid = tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.intp]", "NDArray[np.float64]"]


@lru_cache(maxsize=16)
def _grid(orders: tuple[int, ...]) -> _Grid:
    """For each order a, j = 2..a one after the other: log C(a, j), j, where each order starts, and a."""
    from scipy.special import gammaln

    inside = np.concatenate([np.arange(2.0, order + 1) for order in orders])
    order = np.repeat(np.array(orders, dtype=np.float64), np.array(orders) - 1)
    starts = np.concatenate([[0], np.cumsum(np.array(orders) - 1)[:-1]]).astype(np.intp)
    log_binomial = gammaln(order + 1) - gammaln(inside + 1) - gammaln(order - inside + 1)
    for part in (log_binomial, inside, starts, order):
        part.setflags(write=False)
    return log_binomial, inside, starts, order
