"""The documented model of a processor's energy: processor seconds times what a busy core draws above idle.

    joules of a phase = its processor seconds x watts per core
    watts per core    = (watts of the processor with all cores busy - its idle watts) / logical cores
    idle joules       = idle watts x seconds

Linear in the load, as servers are closely enough (Fan, Weber, Barroso: Power provisioning for a warehouse-sized
computer, ISCA 2007). docs/energy.md says where each number is from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedsus.energy.meters.spent import Spent

if TYPE_CHECKING:
    from fedsus.costs import Method
    from fedsus.energy.meters.phases import Work
    from fedsus.settings.energy import EnergySettings

BOUNDARY: Final = "this process: its processor time alone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A number and the range that it may have."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Range:
        """All three, multiplied."""
        return Range(value=self.value * factor, low=self.low * factor, high=self.high * factor)


CORE: Final = Range(value=3.1, low=1.0, high=10.0)
"""W of a busy logical core above idle, where nothing is known of the processor: mean over three clouds of the most less
the least W of a vCPU (AWS 3.5 - 0.74, Google 4.26 - 0.71, Azure 3.76 - 0.78: Cloud Carbon Footprint, Methodology,
"Compute", from SPECpower)."""

IDLE_CORE: Final = 0.74
"""W of an idle logical core, there."""

OF_TDP: Final = Range(value=0.8, low=0.5, high=2.4)
"""All cores busy, above idle, as parts of the thermal design power: all of it less an idle fifth. Low: 0.7 of it,
which is ours: ordinary work draws less than a design's limit. High: turbo goes to about twice of it, and a core
whose second thread sleeps draws more than half of what both draw."""

IDLE_OF_TDP: Final = 0.2
DECLARED: Final = Range(value=1.0, low=0.7, high=2.0)
"""Watts that the owner states: they are of all cores; of one busy core alone more (see `OF_TDP`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A processor.

    Attributes:
        core: W of a busy logical core above idle.
        idle: W when nothing runs.
        method: "modelled" where the processor is known, "assumed" where its watts are a declared or default number.
        source: for a person.
    """

    core: Range
    idle: float
    method: Method
    source: str

    def spend(self, work: Work) -> Spent:
        """See the formula above."""
        core, total = self.core, work.total
        return Spent(
            joules={phase: seconds * core.value for phase, seconds in work.cpu.items()},
            low=total * core.low,
            high=total * core.high,
            idle=self.idle * work.seconds,
            method=self.method,
            sources=(self.source,),
            boundaries=(BOUNDARY,),
        )


def model_of(settings: EnergySettings, cores: int, name: str | None = None, tdp: float | None = None) -> Model:
    """The model of this machine's processor: by declared watts, else by its thermal design power, else by default.

    Args:
        cores: logical cores of the machine.
        name, tdp: of the processor(s), W in all; None where unknown.
    """
    method: Method = "assumed"
    if settings.watts is not None:
        core = DECLARED.times(settings.watts / cores)
        source = f"model: {settings.watts:g} W above idle as declared, {cores} cores"
        idle = IDLE_OF_TDP / OF_TDP.value * settings.watts
    elif tdp is not None:
        core, method = OF_TDP.times(tdp / cores), "modelled"
        source, idle = f"model: {name}, {tdp:g} W TDP, {cores} cores", IDLE_OF_TDP * tdp
    else:
        core, idle = CORE, IDLE_CORE * cores
        source = f"model: {CORE.value:g} W a busy core above idle by default, {cores} cores"
    return Model(core=core, idle=idle, method=method, source=source)
