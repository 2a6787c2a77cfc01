"""How many bits a sum with noise in shares needs. Too few cost accuracy, by wrapping around, and no privacy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from fedsus.errors import ConfigError
from fedsus.privacy.sensitivity import METRIC_STEPS

if TYPE_CHECKING:
    from fedsus.config import RunConfig
    from fedsus.protection import Shares

FEWEST_BITS: Final = 16
MOST_BITS: Final = 32

_ROOM: Final = 4.0
"""Standard deviations of a sum that fit into the range on each side (k of Kairouz, Liu and Steinke 2021)."""


def bits_of(config: RunConfig, size: int, shares: Shares) -> int:
    """As asked for, else as many as sums need in which all vectors point the same way.

    Args:
        size: coordinates after rotation.

    Raises:
        ConfigError: the noise alone would wrap around, or sums need more than there are.
    """
    asked = config.plan.privacy
    needed = needed_bits(config, size, shares)
    if asked.bits is None:
        if needed > MOST_BITS:
            raise ConfigError(_too_wide(config, shares, needed))
        return needed
    least = _bits(_noise(config, shares), _told(config, shares))
    if asked.bits < least:
        raise ConfigError(
            f"plan.privacy.bits = {asked.bits}: the noise of a sum alone needs {least}; leave it out for {needed}"
            + (f", or lower granularity = {asked.granularity:g}" if least > _bits(0.0, _told(config, shares)) else "")
        )
    return asked.bits


def _too_wide(config: RunConfig, shares: Shares, needed: int) -> str:
    """What would fit: fewer steps in the update, or fewer clients where it is metrics and costs that do not."""
    asked, told = config.plan.privacy, _told(config, shares)
    wide = _bits(0.0, told)
    if wide > MOST_BITS:
        # A little fewer: of fewer clients the colluders are more, and the shares of the others a little larger.
        clients = math.floor(0.999 * (config.plan.cohort.size - (told - 2**MOST_BITS) / METRIC_STEPS))
        return (
            f"plan.privacy.metrics_share = {asked.metrics_share:g}: sums of what {config.plan.cohort.size} clients "
            f"tell beside the update need {wide} bits, {MOST_BITS} are there; ask for at most {clients} clients"
        )
    fits = asked.granularity / 2 ** (needed - MOST_BITS)
    return (
        f"plan.privacy.granularity = {asked.granularity:g}: sums need {needed} bits, {MOST_BITS} are there; "
        f"ask for at most {fits:.3g}, or for fewer clients"
    )


def needed_bits(config: RunConfig, size: int, shares: Shares) -> int:
    """Bits for `_ROOM` deviations of one coordinate of a sum in which all vectors point the same way.

    Rotated, a vector of length L has coordinates of standard deviation L / sqrt(size). Sums of metrics and costs are
    sure.
    """
    asked = config.plan.privacy
    together = float(config.plan.cohort.size)
    if asked.unit == "example" and asked.denominator is not None:
        together = asked.denominator
    aligned = shares.scale * asked.clip / math.sqrt(size) * together
    return _bits(math.hypot(aligned, _noise(config, shares)), _told(config, shares))


def _noise(config: RunConfig, shares: Shares) -> float:
    """Standard deviation of noise and rounding in one coordinate of the sum of a whole cohort."""
    return math.sqrt((shares.variance + 0.25) * config.plan.cohort.size)


def _told(config: RunConfig, shares: Shares) -> float:
    """Range of the sum of one metric or one cost, its noise included."""
    if shares.metrics is None:
        return 0.0
    clients = config.plan.cohort.size
    return clients * METRIC_STEPS + 2 * 2 * _ROOM * math.sqrt(shares.metrics * clients)


def _bits(deviation: float, told: float) -> int:
    return max(FEWEST_BITS, math.ceil(math.log2(max(2 * _ROOM * deviation, told, 1.0))))
