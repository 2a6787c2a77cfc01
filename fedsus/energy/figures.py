"""What is counted beside this machine's own joules, each on a line of its own; and the rate of ISO/IEC 21031."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedsus.costs import Method
from fedsus.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """An amount with its range, ``low <= value <= high``, its unit, and where it is from."""

    value: float
    low: float
    high: float
    unit: Literal["J", "g CO2e"]
    method: Method
    source: str


def sci(energy_kwh: float, grams_per_kwh: float, embodied: float, units: float) -> float | None:
    """Software carbon intensity, g CO2e per functional unit: ((E * I) + M) per R (ISO/IEC 21031:2024).

    Args:
        energy_kwh: E, of all that is inside the boundary.
        grams_per_kwh: I, location-based.
        embodied: M, g CO2e of manufacture that the work bears.
        units: R, functional units: rounds, or points of accuracy. Of none or less there is no rate: None.

    Raises:
        ConfigError: an amount is negative or not finite.
    """
    for name, amount in (("E", energy_kwh), ("I", grams_per_kwh), ("M", embodied)):
        if not math.isfinite(amount) or amount < 0:
            raise ConfigError(f"SCI: {name} = {amount:g}: 0 or more is expected")
    if not math.isfinite(units) or units <= 0:
        return None
    return (energy_kwh * grams_per_kwh + embodied) / units
