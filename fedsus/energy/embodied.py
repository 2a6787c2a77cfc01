"""Carbon of a machine's manufacture, of which work bears its share of the lifetime: M = TE * TS * RS (ISO 21031)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedsus.energy.figures import Figure
from fedsus.errors import EnvironmentFault
from fedsus.settings.carbon import EmbodiedSettings

YEAR: Final = 365.25 * 86_400

_SHEETS: Final = "makers' product sheets collected by Boavizta (February 2023)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Embodied:
    """One machine.

    Attributes:
        kg, low, high: TE, kg CO2e of its manufacture.
        years: expected lifetime, which the time share TS is a part of.
        share: RS, of the machine that the work takes.
        source: for a person.
    """

    kg: float
    low: float
    high: float
    years: float
    share: float
    source: str

    def over(self, seconds: float) -> Figure:
        """What work of ``seconds`` bears, g CO2e.

        Raises:
            EnvironmentFault: a negative length, since the clock was set back.
        """
        if not 0 <= seconds < float("inf"):
            raise EnvironmentFault(f"an interval of {seconds:g} s: 0 or more is expected; was the clock set back?")
        part = 1000.0 * self.share * seconds / (self.years * YEAR)
        source = f"{self.source}; {self.share:.0%} of the machine, {self.years:g} years of life"
        return Figure(
            value=self.kg * part,
            low=self.low * part,
            high=self.high * part,
            unit="g CO2e",
            method="assumed",
            source=source,
        )


# Median, 5th and 95th percentile of total times the share of manufacture, of the sheets that state both.
# The server's high end is the life cycle assessment of a PowerEdge R740 with eight large SSDs (thinkstep 2019).
PUBLISHED: Final = {
    "phone": (53.0, 13.0, 85.0, 3.0, f"median of 50 smartphones, 5th to 95th percentile, {_SHEETS}"),
    "laptop": (236.0, 115.0, 363.0, 4.0, f"median of 226 laptops, 5th to 95th percentile, {_SHEETS}"),
    "desktop": (249.0, 154.0, 465.0, 4.0, f"median of 157 desktops, 5th to 95th percentile, {_SHEETS}"),
    "server": (
        1215.0,
        536.0,
        4283.0,
        4.0,
        f"median of 48 servers, from the 5th percentile to a server full of SSDs (thinkstep 2019), {_SHEETS}",
    ),
}
"""kg CO2e, low, high, years, source by kind of machine."""


def embodied(settings: EmbodiedSettings | None) -> Embodied | None:
    """What the owner stated, or the published figures of such a machine; None where it is not to be counted."""
    if settings is None:
        return None
    if settings.machine is not None:
        kg, low, high, years, source = PUBLISHED[settings.machine]
        chosen = years if settings.years is None else settings.years
        return Embodied(kg=kg, low=low, high=high, years=chosen, share=settings.share, source=source)
    kg, years = settings.kg or 0.0, settings.years or 0.0
    return Embodied(
        kg=kg,
        low=kg * (1 - settings.spread),
        high=kg * (1 + settings.spread),
        years=years,
        share=settings.share,
        source=f"stated by the owner, ±{settings.spread:.0%}",
    )
