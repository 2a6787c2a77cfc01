"""Yearly average carbon intensity of a country's grid, from the table that CodeCarbon ships (Our World in Data)."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Mapping
from importlib import util
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from fedsus.energy.grid.intensity import Flat, Rate
from fedsus.errors import ConfigError

LOW: Final = 0.3
HIGH: Final = 2.1
"""An hour's intensity over its year's mean: 0.30 to 2.07 in the grids of Germany, Great Britain and France in 2020
(hourly and shorter means published with Wiesner et al., "Let's Wait Awhile", Middleware 2021)."""

WORLD: Final = Rate(
    value=481.0,
    low=0.0,
    high=1400.0,
    method="assumed",
    kind="average",
    source="the world's average of 2023 (Ember, Global Electricity Review 2024); the range holds every country's",
)

_BEGINNING: Final = 3
_TABLE: Final = "data/private_infra/global_energy_mix.json"


def yearly(country: str) -> Flat:
    """The average of ``country`` (ISO 3166-1 alpha-3), g CO2e/kWh over the life cycle of its plants.

    Raises:
        ConfigError: the extra ``energy`` is not installed; the country is unknown, or has no usable figure.
    """
    table = _table()
    row = table.get(country)
    if row is None:
        raise ConfigError(f"'{country}' is not in the table of yearly averages{_hint(country, table)}")
    value, name, year = row["carbon_intensity"], row["country_name"], row["year"]
    if not isinstance(value, int | float) or not 0 < value <= 3000:
        raise ConfigError(
            f"'{country}': the table says {value} g/kWh for {name}, which no grid has; state a number in grams_per_kwh"
        )
    source = f"yearly average of {name}, {year} (Our World in Data, by CodeCarbon); an hour has {LOW} to {HIGH} of it"
    rate = Rate(value=float(value), low=value * LOW, high=value * HIGH, method="assumed", kind="average", source=source)
    return Flat(rate)


@functools.cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    """Found without importing codecarbon, which would look for hardware."""
    instead = "pip install 'fedsus[energy]', or state grams_per_kwh"
    spec = util.find_spec("codecarbon")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"a yearly average by country needs CodeCarbon's table: {instead}")
    try:
        text = Path(spec.submodule_search_locations[0]).joinpath(_TABLE).read_text("utf-8")
        table: Mapping[str, Mapping[str, Any]] = json.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"CodeCarbon's table cannot be read: {error}; {instead}") from None
    return table


def _hint(country: str, table: Mapping[str, Mapping[str, Any]]) -> str:
    """What may have been meant, by code or by name: other languages and slips of the pen leave a name's beginning."""
    names = {str(row["country_name"]).lower(): code for code, row in table.items()}
    given = country.lower()
    whole = max((name for name in names if given.startswith(name)), key=len, default="")
    alike = {
        name: len(list(takewhile(lambda pair: pair[0] == pair[1], zip(name, given, strict=False)))) for name in names
    }
    most = max(alike.values(), default=0)
    beginning = [name for name in names if alike[name] == most and most >= _BEGINNING]
    known = names | {code.lower(): code for code in table if len(given) >= len(code)}
    close = [whole] if whole else difflib.get_close_matches(given, beginning, n=1, cutoff=0.5)
    close = close or difflib.get_close_matches(given, known, n=1, cutoff=0.8)
    found = known[close[0]] if close else ""
    if not found:
        return "; three letters of ISO 3166-1 are expected, such as DEU"
    return f"; did you mean '{found}' ({table[found]['country_name']})?"
