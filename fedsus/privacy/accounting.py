"""What a release spends: events, and their epsilon by privacy loss distributions.

Plain Gaussians by their closed form (Balle and Wang 2018, Theorem 8). Poisson-sampled ones by privacy loss
distributions, as in Koskela et al. (AISTATS 2020) and Doroshenko et al. (PoPETs 2022), computed by
``dp_accounting`` with pessimistic rounding: every number here is an upper bound. Adjacency is add or remove one.
``dp_accounting`` is imported when first needed, so that an agent connects before it loads.
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

_COARSE: Final = 1e-3
_FINEST: Final = 1e-6
_ENOUGH: Final = 2000
"""Privacy loss is refined until epsilon spans so many discretisation intervals."""


def dp_sgd_event(noise_multiplier: float, sampling_rate: float, steps: int) -> DpEvent:
    """What ``steps`` steps of DP-SGD spend: Poisson-sampled Gaussians, plain ones at a sampling rate of 1.

    Args:
        noise_multiplier: z, noise standard deviation over the clipping bound, > 0.
        sampling_rate: q, in (0, 1].
        steps: batches, >= 1.
    """
    import dp_accounting as dpa

    event: DpEvent = dpa.GaussianDpEvent(noise_multiplier)
    if sampling_rate < 1:
        event = dpa.PoissonSampledDpEvent(sampling_rate, event)
    return dpa.SelfComposedDpEvent(event, steps)


def epsilon(event: DpEvent, delta: float) -> float:
    """Smallest epsilon, rounded up, for which ``event`` is (epsilon, delta)-DP.

    Infinity without privacy, and beyond `LARGEST_LOSS`. Equal parts are merged and results are remembered, so
    that asking each round is cheap.

    Raises:
        Refusal: delta is not in (0, 1), or the event is unknown, malformed, or not computable. Never a guess.
    """
    if not 0 < delta < 1:
        raise Refusal(f"epsilon is not defined at delta = {delta}: it must lie between 0 and 1")
    counts: dict[DpEvent, int] = {}
    for leaf, count in _leaves(event, 1):
        counts[leaf] = counts.get(leaf, 0) + count
    return _epsilon(frozenset(counts.items()), float(delta))


def _leaves(event: DpEvent, times: int) -> Iterator[tuple[DpEvent, int]]:
    """The events that are no composition, and how often each happens."""
    import dp_accounting as dpa

    if isinstance(event, dpa.SelfComposedDpEvent):
        if not isinstance(event.count, int) or event.count < 0:
            raise Refusal(f"privacy event repeated {event.count!r} times: expected an integer, 0 or more")
        yield from _leaves(event.event, times * event.count)
    elif isinstance(event, dpa.ComposedDpEvent):
        for part in event.events:
            yield from _leaves(part, times)
    elif times > 0 and not isinstance(event, dpa.NoOpDpEvent):
        _check(event)
        yield event, times


def _check(leaf: Any) -> None:
    """Refuses what is not one of the few releases that fedsus makes, in a sound range."""
    import dp_accounting as dpa

    gaussian, rate = leaf, 1.0
    if isinstance(leaf, dpa.NonPrivateDpEvent):
        return
    if isinstance(leaf, dpa.PoissonSampledDpEvent):
        gaussian, rate = leaf.event, leaf.sampling_probability
    if not isinstance(gaussian, dpa.GaussianDpEvent):
        raise Refusal(f"privacy event {type(gaussian).__name__} is unknown: its epsilon is not computed")
    noise = gaussian.noise_multiplier
    if not 0 <= rate <= 1:
        raise Refusal(f"privacy event with sampling rate {rate}: expected a number from 0 to 1")
    if noise != 0 and not SMALLEST_NOISE <= noise < math.inf:
        raise Refusal(f"noise multiplier {noise}: epsilon is computed from {SMALLEST_NOISE} upwards")


@lru_cache(maxsize=1024)
def _epsilon(parts: frozenset[tuple[Any, int]], delta: float) -> float:
    """Closed form for plain Gaussians, else refined from coarse to fine; each value is an upper bound."""
    import dp_accounting as dpa

    if any(_noise(leaf) == 0 for leaf, _ in parts) or sum(_expected_loss(*part) for part in parts) > LARGEST_LOSS:
        return math.inf
    try:
        if parts and all(isinstance(leaf, dpa.GaussianDpEvent) for leaf, _ in parts):
            scale = math.sqrt(1 / math.fsum(count / leaf.noise_multiplier**2 for leaf, count in parts))
            return _finite(dpa.get_epsilon_gaussian(scale, delta))
        best = math.inf
        for interval in _intervals(parts):
            best = min(best, _finite(_at(parts, delta, interval)))
            if best == 0 or best > _ENOUGH * interval:
                break
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
    noise, rate = _noise(leaf), float(getattr(leaf, "sampling_probability", 1.0))
    return count * min(rate / (2 * noise**2), rate**2 * math.expm1(min(1 / noise**2, 700.0)))


def _intervals(parts: frozenset[tuple[Any, int]]) -> Iterator[float]:
    """Coarse to fine; less fine where little noise spreads the losses over hundreds: bounds time and memory."""
    least = min((_noise(leaf) for leaf, _ in parts), default=1.0)
    interval = _COARSE if least >= 0.3 else 10 * _COARSE
    while interval >= max(_FINEST, 1e-5 / least**2):
        yield interval
        interval /= 10


def _at(parts: frozenset[tuple[DpEvent, int]], delta: float, interval: float) -> float:
    import dp_accounting as dpa
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(value_discretization_interval=interval)
    ordered = sorted(parts, key=repr)  # a set has no order, and floating-point results must not depend on it
    accountant.compose(dpa.ComposedDpEvent([dpa.SelfComposedDpEvent(leaf, count) for leaf, count in ordered]))
    return float(accountant.get_epsilon(delta))
