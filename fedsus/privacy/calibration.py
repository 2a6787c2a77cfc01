"""From the privacy that a run may spend to the noise that it needs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from fedsus.errors import ConfigError
from fedsus.privacy.accounting import SMALLEST_NOISE, dp_sgd_event
from fedsus.privacy.accounting import epsilon as spent

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST_NOISE: Final = 10_000.0
"""The largest noise multiplier that a plan may hold."""

LARGEST_LOCAL: Final = 100.0
"""The largest with which devices train by DP-SGD: more drowns everything and is slow to account for."""

_TOLERANCE: Final = 1e-4
_MARGIN: Final = 1e-6
"""Left unspent, as a share of epsilon: devices recompute the number with their own floating point."""


def calibrate(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The smallest noise multiplier with which DP-SGD spends at most ``epsilon`` at ``delta``.

    At most 1e-4 (relative) above the smallest, rounded up, never below `SMALLEST_NOISE`; what it spends was
    computed and is at most ``epsilon``.

    Args:
        epsilon: > 0, for the whole run.
        delta: in (0, 1).
        sampling_rate: q, the chance of each example to be in a batch, in (0, 1].
        steps: steps a round * (rounds + spare attempts), >= 1.

    Raises:
        ConfigError: an argument is out of range, or no noise up to `LARGEST_NOISE` is enough.
    """
    _check(epsilon, delta, sampling_rate, steps)
    noise = smallest_noise(epsilon, lambda noise: _spends(noise, delta, sampling_rate, steps))
    if noise is None:
        raise ConfigError(
            f"epsilon = {epsilon} at delta = {delta} cannot be reached with {steps} steps at sampling rate "
            f"{sampling_rate}: no noise up to {LARGEST_NOISE:g} is enough; allow more epsilon or fewer rounds"
        )
    return noise


def smallest_noise(epsilon: float, spends: Callable[[float], float], largest: float = LARGEST_NOISE) -> float | None:
    """The smallest noise multiplier with which ``spends(noise)``, which falls with it, is at most ``epsilon``.

    At most 1e-4 (relative) above the smallest, rounded up to six digits, never below `SMALLEST_NOISE`; what it spends
    was computed and is at most ``epsilon``. None where no noise up to ``largest`` is enough.
    """
    from scipy.optimize import brentq

    target = epsilon * (1 - _MARGIN)

    def excess(log_noise: float) -> float:
        return math.log(min(max(spends(math.exp(log_noise)), 1e-12), 1e12) / target)

    bracket = _bracket(lambda noise: spends(noise) <= target, largest)
    if bracket is None:
        return None
    low, high = bracket
    if low == high:
        return high
    root = math.exp(brentq(excess, math.log(low), math.log(high), xtol=_TOLERANCE / 8, rtol=1e-12))
    noise = min(_round_up(root * (1 - _TOLERANCE / 4)), high)
    while spends(noise) > target:
        noise = min(_round_up(noise * (1 + _TOLERANCE / 4)), high)
    return noise


def most_attempts(epsilon: float, spends: Callable[[int], float], most: int) -> int:
    """The most attempts, up to ``most``, with which ``spends(attempts)``, which rises, is at most ``epsilon``."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if spends(middle) <= epsilon:
            low = middle
        else:
            high = middle - 1
    return low


def _spends(noise: float, delta: float, sampling_rate: float, steps: int) -> float:
    return spent(dp_sgd_event(noise, sampling_rate, steps), delta)


def _bracket(enough: Callable[[float], bool], largest: float) -> tuple[float, float] | None:
    """Noise that is not enough, and at most twice as much that is; equal at the floor, None where none is enough."""
    noise = min(1.0, largest)
    if enough(noise):
        while noise > SMALLEST_NOISE:
            lower = max(noise / 2, SMALLEST_NOISE)
            if not enough(lower):
                return lower, noise
            noise = lower
        return noise, noise
    while noise < largest:
        lower, noise = noise, min(2 * noise, largest)
        if enough(noise):
            return lower, noise
    return None


def _check(epsilon: float, delta: float, sampling_rate: float, steps: int) -> None:
    if not 0 < epsilon < math.inf:
        raise ConfigError(f"epsilon = {epsilon}: expected a number greater than 0")
    if not 0 < delta < 1:
        raise ConfigError(f"delta = {delta}: expected a number between 0 and 1")
    if not 0 < sampling_rate <= 1:
        raise ConfigError(f"sampling_rate = {sampling_rate}: expected a number greater than 0, at most 1")
    if steps < 1:
        raise ConfigError(f"steps = {steps}: expected 1 or more")


def _round_up(noise: float) -> float:
    """Up to the next number of six significant digits."""
    digits = 5 - math.floor(math.log10(noise))
    return min(float(f"{math.ceil(noise * 10**digits)}e{-digits}"), LARGEST_NOISE)
