"""Electricity of the networks between two machines, by bytes: a rough allocation, on a line of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedsus.costs import worst
from fedsus.energy.figures import Figure
from fedsus.energy.grid.intensity import JOULES_PER_KWH, Rate
from fedsus.errors import ConfigError
from fedsus.settings.carbon import NetworkSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """kWh for 1e9 bytes in either direction, its range and its source."""

    kwh_per_gb: float
    low: float
    high: float
    source: str

    def joules(self, octets: int) -> Figure:
        """Of ``octets`` bytes sent and received.

        Raises:
            ConfigError: fewer than none.
        """
        if octets < 0:
            raise ConfigError(f"{octets} bytes: 0 or more is expected")
        value, low, high = (each * octets / 1e9 * JOULES_PER_KWH for each in (self.kwh_per_gb, self.low, self.high))
        return Figure(value=value, low=low, high=high, unit="J", method="assumed", source=self.source)

    def grams(self, octets: int, rate: Rate) -> Figure:
        """Carbon of them, as if all of the way were on the grid of ``rate``."""
        joules = self.joules(octets)
        value, low, high = (
            amount / JOULES_PER_KWH * each
            for amount, each in ((joules.value, rate.value), (joules.low, rate.low), (joules.high, rate.high))
        )
        return Figure(
            value=value,
            low=low,
            high=high,
            unit="g CO2e",
            method=worst(joules.method, rate.method),
            source=f"{joules.source}; {rate.source}",
        )


PUBLISHED: Final = Network(
    kwh_per_gb=0.0065,
    low=0.0,
    high=0.06,
    source=(
        "fixed-line core and access networks in 2020, projected by Aslan et al. 2018 (J. Ind. Ecol. 22); high: their "
        "figure of 2015; low: networks draw nearly the same whatever they carry (Mytton et al. 2024, J. Ind. Ecol. 28)"
    ),
)
"""Not of mobile networks, which take more; and not of the router at home. Not taken past 2020: nobody
measured that the trend went on."""


def network(settings: NetworkSettings | None) -> Network | None:
    """What the owner stated, or what is published; None where it is not to be counted."""
    if settings is None:
        return None
    if settings.kwh_per_gb is None or settings.low is None or settings.high is None:
        return PUBLISHED
    return Network(kwh_per_gb=settings.kwh_per_gb, low=settings.low, high=settings.high, source="stated by the owner")
