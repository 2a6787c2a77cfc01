"""What a release spends: events, and their epsilon, an upper bound, by the tightest accountant that knows them all.

Plain Gaussians by their closed form (Balle and Wang 2018, Theorem 8). Poisson-sampled ones by privacy loss
distributions, as in Koskela et al. (AISTATS 2020) and Doroshenko et al. (PoPETs 2022), computed by
``dp_accounting`` with pessimistic rounding. Whatever Skellam noise is part of, by Renyi divergence
(`fedsus.privacy.rdp`). Adjacency is add or remove one. ``dp_accounting`` is imported when first needed, so that an
agent connects before it loads.

**What samplers of Skellam noise cost.** They draw by inversion of a table, each draw within `DRAW_DISTANCE` of the true
law in total variation. If all draws are within t, and exact noise is (epsilon, delta)-DP, then the noise drawn is
(epsilon, delta + (1 + exp(epsilon)) t)-DP: t is paid once for either neighbour. At most `MOST_DRAWS` a release, times
the releases, bound t; that much of delta is held back, never less than `LEAST_RESERVE`, and the rest is accounted for.
A release of 2**40 draws, such as 2**20 coordinates of 2**20 clients, costs t = 2**-65, which the least reserve covers
as long as 1 + exp(epsilon) <= 2**5, for epsilon up to 3.4; beyond, more is held back.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from fedsus.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dp_accounting import DpEvent

SMALLEST_NOISE: Final = 0.1
"""Noise multipliers below this are not accounted: they cost seconds and gigabytes and protect nobody."""

LARGEST_LOSS: Final = 2000.0
"""Expected privacy loss above which epsilon is infinity: a plan cannot make a device compute for hours."""

DRAW_DISTANCE: Final = 2.0**-105
"""Total variation between one draw of a Skellam sampler and the law that is accounted for; no table is used whose
distance, which grows with the noise, is more (`fedsus.privacy.sampling`)."""

MOST_DRAWS: Final = 2.0**40
"""Draws of one release that are accounted for: coordinates times clients."""

LEAST_RESERVE: Final = 2.0**-60
"""Of delta, held back from any event with Skellam noise."""

LEAST_DELTA: Final = 2.0**-50
"""For events with Skellam noise delta must be more, or what samplers cost would be no small part of it."""

_COARSE: Final = 1e-3
_FINEST: Final = 1e-6
_ENOUGH: Final = 2000
"""Privacy loss is refined until epsilon spans so many discretisation intervals."""
_ENOUGH_OF_ROWS: Final = 500
"""With several rows of one person, whose losses take longer to compute: within 0.1 % of the finest."""


def dp_sgd_event(noise_multiplier: float, sampling_rate: float, steps: int, rows: int = 1) -> DpEvent:
    """What ``steps`` steps of DP-SGD spend: Poisson-sampled Gaussians, plain ones at a sampling rate of 1.

    Args:
        noise_multiplier: z, noise standard deviation over the clipping bound, > 0.
        sampling_rate: q, in (0, 1].
        steps: batches, >= 1.
        rows: of one person, all of whom are added or removed, >= 1.
    """
    import dp_accounting as dpa

    return dpa.SelfComposedDpEvent(drawn(dpa.GaussianDpEvent(noise_multiplier), sampling_rate, rows), steps)


def drawn(event: DpEvent, sampling_rate: float, rows: int = 1) -> DpEvent:
    """``event``, of one row, for a person of so many rows, each of whom is drawn by itself."""
    import dp_accounting as dpa

    from fedsus.privacy.events import SampledRowsDpEvent, moved

    if sampling_rate == 1:
        return moved(event, rows)
    return (
        dpa.PoissonSampledDpEvent(sampling_rate, event) if rows == 1 else SampledRowsDpEvent(sampling_rate, rows, event)
    )


def epsilon(event: DpEvent, delta: float) -> float:
    """Smallest epsilon, rounded up, for which ``event`` is (epsilon, delta)-DP.

    Infinity without privacy, and beyond `LARGEST_LOSS`. Equal parts are merged and results are remembered, so
    that asking each round is cheap.

    Raises:
        Refusal: delta is not in (0, 1), or, with Skellam noise, not above `LEAST_DELTA`; or the event is unknown,
            malformed, or not computable. Never a guess.
    """
    parts, skellam = _parts(event, delta)
    if skellam:
        return _epsilon_rdp(parts, float(delta))
    _check_noise(parts)
    return _epsilon(parts, float(delta))


def epsilon_rdp(event: DpEvent, delta: float) -> float:
    """As `epsilon`, by Renyi divergence alone, whatever the noise: looser for Gaussians, and takes milliseconds.

    Raises:
        Refusal: as `epsilon`.
    """
    return _epsilon_rdp(_parts(event, delta)[0], float(delta))


def held_back(epsilon: float, releases: int) -> float:
    """What the samplers of so many releases with Skellam noise take of delta at ``epsilon``; 0 for none.

    A filter whose cap is (epsilon, delta) accounts for delta less this, for all the releases that it may ever let pass.
    """
    if releases == 0:
        return 0.0
    return max(LEAST_RESERVE, releases * MOST_DRAWS * DRAW_DISTANCE * (1 + math.exp(min(epsilon, 700.0))))


def _parts(event: DpEvent, delta: float) -> tuple[frozenset[tuple[Any, int]], bool]:
    """The releases of ``event`` with their counts, and whether Skellam noise is in any; all in range."""
    from fedsus.privacy.events import leaves

    if not 0 < delta < 1:
        raise Refusal(f"epsilon is not defined at delta = {delta}: it must lie between 0 and 1")
    counts = leaves(event)
    skellam = any(_is_skellam(leaf) for leaf in counts)
    if skellam and delta <= LEAST_DELTA:
        raise Refusal(f"epsilon of Skellam noise is computed for delta above 2**-50 = {LEAST_DELTA:.2g}, not {delta}")
    return frozenset(counts.items()), skellam


def _is_skellam(leaf: Any) -> bool:
    from fedsus.privacy.events import SkellamDpEvent

    return isinstance(getattr(leaf, "event", leaf), SkellamDpEvent)


def _check_noise(parts: frozenset[tuple[Any, int]]) -> None:
    for leaf, _ in parts:
        if 0 < (noise := _noise(leaf)) < SMALLEST_NOISE:
            raise Refusal(f"noise multiplier {noise}: epsilon is computed from {SMALLEST_NOISE} upwards")


@lru_cache(maxsize=1024)
def _epsilon_rdp(parts: frozenset[tuple[Any, int]], delta: float) -> float:
    """Holds back more of delta until it covers what samplers cost at the epsilon found; infinity if nothing does."""
    import dp_accounting as dpa

    from fedsus.privacy import rdp

    event = dpa.ComposedDpEvent([dpa.SelfComposedDpEvent(leaf, count) for leaf, count in parts])
    divergence = rdp.rdp(event)
    releases = sum(count for leaf, count in parts if _is_skellam(leaf))
    reserve = held_back(0.0, releases)
    while reserve <= delta / 2:
        found, _ = rdp.epsilon_of(divergence, rdp.ORDERS, delta - reserve)
        if (needed := held_back(found, releases)) <= reserve:
            return found
        reserve = 2 * needed
    return math.inf


@lru_cache(maxsize=1024)
def _epsilon(parts: frozenset[tuple[Any, int]], delta: float) -> float:
    """Closed form for plain Gaussians, else refined from coarse to fine; each value is an upper bound."""
    import dp_accounting as dpa
    import numpy as np

    if any(_noise(leaf) == 0 for leaf, _ in parts) or sum(_expected_loss(*part) for part in parts) > LARGEST_LOSS:
        return math.inf
    try:
        if parts and all(isinstance(leaf, dpa.GaussianDpEvent) for leaf, _ in parts):
            scale = math.sqrt(1 / math.fsum(count / leaf.noise_multiplier**2 for leaf, count in parts))
            with np.errstate(divide="ignore"):  # where its two terms are equal, delta is 0
                return _finite(dpa.get_epsilon_gaussian(scale, delta))
        best, of_rows = math.inf, any(_is_of_rows(leaf) for leaf, _ in parts)
        for interval in _intervals(parts):
            best = min(best, _finite(_at(parts, delta, interval)))
            if best == 0 or best > (_ENOUGH_OF_ROWS if of_rows else _ENOUGH) * interval:
                break
        if math.isinf(best) and of_rows:
            return _epsilon_rdp(parts, delta)
    except (ValueError, ArithmeticError, MemoryError) as error:
        raise Refusal(f"the epsilon of this release cannot be computed: {error}") from error
    return best


def _finite(bound: float) -> float:
    """Infinity, where the tail beyond delta was cut off, is a bound too; NaN is none."""
    if math.isnan(bound):
        raise ValueError("the accountant gives no number")
    return float(bound)


def _noise(leaf: Any) -> float:
    """Noise multiplier of a checked leaf; 0 where nothing protects."""
    return float(getattr(getattr(leaf, "event", leaf), "noise_multiplier", 0.0))


def _expected_loss(leaf: Any, count: int) -> float:
    """An upper bound on the mean privacy loss, from KL <= chi-squared and the convexity of KL."""
    if _is_of_rows(leaf):
        return count * _expected_loss_of_rows(leaf)
    precision, rate = (1 / _noise(leaf)) ** 2, float(getattr(leaf, "sampling_probability", 1.0))
    return count * min(rate * precision / 2, rate**2 * math.expm1(min(precision, 700.0)))


def _expected_loss_of_rows(leaf: Any) -> float:
    """Of one release, of rows that are drawn each by itself: mean and overlap of how many are."""
    rate, rows, precision = float(leaf.sampling_probability), float(leaf.rows), (1 / _noise(leaf)) ** 2
    return rows * rate * (1 - rate + rows * rate) * precision / 2


def _is_of_rows(leaf: Any) -> bool:
    from fedsus.privacy.events import SampledRowsDpEvent

    return isinstance(leaf, SampledRowsDpEvent)


def _intervals(parts: frozenset[tuple[Any, int]]) -> Iterator[float]:
    """Coarse to fine; less fine where little noise spreads the losses over hundreds: bounds time and memory."""
    least = min((_noise(leaf) for leaf, _ in parts), default=1.0)
    interval = _COARSE if least >= 0.3 and not any(_is_of_rows(leaf) for leaf, _ in parts) else 10 * _COARSE
    while interval >= max(_FINEST, 1e-5 / least**2):
        yield interval
        interval /= 10


def _at(parts: frozenset[tuple[DpEvent, int]], delta: float, interval: float) -> float:
    import dp_accounting as dpa
    from dp_accounting.pld import PLDAccountant

    if any(_is_of_rows(leaf) for leaf, _ in parts):
        return _together(parts, delta, interval)
    accountant = PLDAccountant(value_discretization_interval=interval)
    ordered = sorted(parts, key=repr)  # a set has no order, and floating-point results must not depend on it
    accountant.compose(dpa.ComposedDpEvent([dpa.SelfComposedDpEvent(leaf, count) for leaf, count in ordered]))
    return float(accountant.get_epsilon(delta))


def _together(parts: frozenset[tuple[DpEvent, int]], delta: float, interval: float) -> float:
    """As `_at`, with releases of several rows of one person among the parts; infinity where it would take long."""
    from dp_accounting.pld import privacy_loss_distribution

    from fedsus.privacy import groups

    whole = privacy_loss_distribution.identity(interval)
    for leaf, count in sorted(parts, key=repr):
        rate, noise = float(getattr(leaf, "sampling_probability", 1.0)), _noise(leaf)
        if _is_of_rows(leaf) and rate < 1:
            one = groups.losses(rate, leaf.rows, noise, interval)
            if one is None:
                return math.inf
        else:
            one = privacy_loss_distribution.from_gaussian_mechanism(
                noise / getattr(leaf, "rows", 1), value_discretization_interval=interval, sampling_prob=rate
            )
        whole = whole.compose(one.self_compose(count))
    return float(whole.get_epsilon_for_delta(delta))
