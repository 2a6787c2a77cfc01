"""A meter whose usages carry their carbon, and sums of usages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.costs import PHASES, Grams, Usage, sources, worst
from fedsus.energy.grid.carbon import priced

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from fedsus.costs import Meter, Phase
    from fedsus.energy.grid.intensity import Clock, Intensity


class PricedMeter:
    """See `fedsus.costs.Meter`: another one's usages, each priced by the carbon intensity of its interval.

    Args:
        intensity: None, and nothing is priced.
        clock: seconds since the epoch.
    """

    def __init__(self, meter: Meter, intensity: Intensity | None, clock: Clock) -> None:
        self._meter, self._intensity, self._clock = meter, intensity, clock
        self._since = clock()

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """As `Meter.phase`."""
        return self._meter.phase(name)

    def take(self) -> Usage | None:
        """As `Meter.take`.

        Raises:
            EnvironmentFault: also where the intensity has no figure for the interval, and nothing may stand in.
        """
        usage, start = self._meter.take(), self._since
        self._since = self._clock()
        return None if usage is None else priced(usage, self._intensity, start, self._since)


def together(one: Usage | None, other: Usage | None) -> Usage | None:
    """Both intervals as one; one of them where the other is not known.

    Grams are those of both, or None: where one has joules and no grams, or they are of different kinds.
    """
    if one is None or other is None:
        return other if one is None else one
    joules = {phase: one.joules.get(phase, 0.0) + other.joules.get(phase, 0.0) for phase in PHASES}
    return Usage(
        seconds=one.seconds + other.seconds,
        joules={phase: found for phase, found in joules.items() if found},
        low=one.low + other.low,
        high=one.high + other.high,
        idle=one.idle + other.idle,
        method=worst(one.method, other.method),
        source=sources(one.source, other.source),
        boundary=sources(one.boundary, other.boundary),
        grams=_both(one, other),
    )


def _both(one: Usage, other: Usage) -> Grams | None:
    found = [usage.grams for usage in (one, other) if usage.grams is not None]
    if any(usage.grams is None and usage.total for usage in (one, other)) or not found:
        return None
    if len(found) == 1:
        return found[0]
    first, second = found
    return first + second if first.kind == second.kind else None
