"""The owner's choice of a carbon intensity, and the carbon of what was used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fedsus.costs import Grams, Usage, worst
from fedsus.energy.fetching import Fetch
from fedsus.energy.http_source import HttpSource
from fedsus.energy.intensity import JOULES_PER_KWH, Backed, Clock, Flat, Intensity, stated
from fedsus.energy.series import load_series
from fedsus.energy.yearly import WORLD, yearly
from fedsus.errors import ConfigError
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
    if settings.country is not None:
        return yearly(settings.country)
    if settings.series is not None:
        return Backed(load_series(settings.series, settings.kind, settings.spread, folder), _instead(settings))
    if settings.http is not None:
        if fetch is None:
            raise ConfigError("[carbon.http]: nothing here opens connections; use country, series or grams_per_kwh")
        source = HttpSource(settings.http, settings.kind, settings.spread, folder, fetch, clock)
        return Backed(source, _instead(settings))
    return None


def _instead(settings: CarbonSettings) -> Intensity | None:
    """What stands in where a source has no figure; None where that is refused."""
    chosen = settings.fallback
    if chosen is not None and chosen.country is not None:
        return yearly(chosen.country)
    if chosen is not None and chosen.grams_per_kwh is not None:
        return stated(chosen.grams_per_kwh, min(1.0, 2 * settings.spread), settings.kind)
    return Flat(WORLD) if settings.missing == "assume" else None


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
