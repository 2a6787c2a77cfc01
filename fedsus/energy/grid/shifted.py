"""A carbon intensity in another time: a simulation's clock starts with its run, and a trace at some past hour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedsus.energy.grid.intensity import Intensity, Rate, Step


@dataclass(frozen=True, slots=True)
class Shifted:
    """See `fedsus.energy.grid.intensity.Intensity`.

    Attributes:
        source: in seconds since the epoch.
        start: where in the source's time this one's 0 is.
    """

    source: Intensity
    start: float

    def over(self, start: float, end: float) -> Rate:
        """As the source's."""
        return self.source.over(start + self.start, end + self.start)

    def forecast(self, now: float, until: float) -> Sequence[Step]:
        """As the source's."""
        steps = self.source.forecast(now + self.start, until + self.start)
        return [replace(step, start=step.start - self.start, end=step.end - self.start) for step in steps]
