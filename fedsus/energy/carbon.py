"""The owner's choice of a carbon intensity, and the carbon of what was used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedsus.costs import Grams, Usage, worst
from fedsus.energy.fetching import Fetch
from fedsus.energy.intensity import JOULES_PER_KWH, Clock, Intensity, stated
from fedsus.settings.carbon import CarbonSettings


def make_intensity(settings: CarbonSettings, folder: Path, fetch: Fetch | None, clock: Clock) -> Intensity | None:
    """The source that ``settings`` names; None where none is named, and grams are not computed.

    Args:
        folder: of the TOML file: relative paths start here.
        fetch: opens connections; None where the caller has none.
        clock: seconds since the epoch.

    Raises:
        ConfigError: unknown country, the extra ``energy`` is not installed, a series that is refused, no token.
    """
    if settings.grams_per_kwh is not None:
        return stated(settings.grams_per_kwh, settings.spread, settings.kind)
    return None


def priced(usage: Usage, intensity: Intensity | None, start: float, end: float) -> Usage:
    """``usage`` with the carbon of its joules; unchanged where no intensity is known.

    Args:
        start, end: of the interval in which it was used, seconds since the epoch.

    Raises:
        EnvironmentFault: the source has no figure for the interval, and nothing may stand in.
    """
    if intensity is None:
        return usage
    rate = intensity.over(start, end)
    grams = Grams(
        value=usage.total / JOULES_PER_KWH * rate.value,
        low=usage.low / JOULES_PER_KWH * rate.low,
        high=usage.high / JOULES_PER_KWH * rate.high,
        method=worst(usage.method, rate.method),
        kind=rate.kind,
        source=rate.source,
    )
    return replace(usage, grams=grams)
