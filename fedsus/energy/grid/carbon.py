"""The owner's choice of a carbon intensity, and the carbon of what was used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fedsus.costs import Grams, Usage, worst
from fedsus.energy.grid.fetching import Fetch
from fedsus.energy.grid.http_source import HttpSource
from fedsus.energy.grid.intensity import JOULES_PER_KWH, Backed, Clock, Flat, Intensity, stated
from fedsus.energy.grid.series import load_series
from fedsus.energy.grid.yearly import WORLD, yearly
from fedsus.errors import ConfigError
from fedsus.settings.carbon import CarbonSettings


def make_intensity(
    settings: CarbonSettings, folder: Path, fetch: Fetch | None, clock: Clock, where: str
) -> Intensity | None:
    """The source that ``settings`` names; None where none is named, and grams are not computed.

    Args:
        folder: of the TOML file: relative paths start here.
        fetch: opens connections; None where the caller has none.
        clock: seconds since the epoch.
        where: the TOML file, for whoever is to mend it.

    Raises:
        ConfigError: unknown country, the extra ``energy`` is not installed, a series that is refused, no token, no
            authority. Names file, table and setting.
    """
    if settings.grams_per_kwh is not None:
        return stated(settings.grams_per_kwh, settings.spread, settings.kind)
    if settings.country is not None:
        with _named(where, "carbon.country"):
            return yearly(settings.country)
    if settings.series is not None:
        with _named(where, "carbon.series"):
            series = load_series(settings.series, settings.kind, settings.spread, folder)
        return Backed(series, _instead(settings, where))
    if settings.http is not None:
        with _named(where, "carbon.http"):
            if fetch is None:
                raise ConfigError("nothing here opens connections; use country, series or grams_per_kwh")
            source = HttpSource(settings.http, settings.kind, settings.spread, folder, fetch, clock)
        return Backed(source, _instead(settings, where))
    return None


def _instead(settings: CarbonSettings, where: str) -> Intensity | None:
    """What stands in where a source has no figure; None where that is refused."""
    chosen = settings.fallback
    if chosen is not None and chosen.country is not None:
        with _named(where, "carbon.fallback.country"):
            return yearly(chosen.country)
    if chosen is not None and chosen.grams_per_kwh is not None:
        return stated(chosen.grams_per_kwh, min(1.0, 2 * settings.spread), settings.kind)
    return Flat(WORLD) if settings.missing == "assume" else None


@contextlib.contextmanager
def _named(where: str, setting: str) -> Iterator[None]:
    """Say of which file and setting a fault is."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: '{setting}': {error}") from None


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
