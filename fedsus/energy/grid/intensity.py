"""How much carbon a kilowatt-hour of a grid stands for, behind one small interface."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias, overload

from fedsus.costs import Method
from fedsus.errors import EnvironmentFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("fedsus.energy")

Kind: TypeAlias = Literal["average", "marginal"]
Clock: TypeAlias = Callable[[], float]
"""Seconds since the epoch."""

JOULES_PER_KWH: Final = 3.6e6
STANDS_IN: Final = "instead of a source that failed"
"""In the source of a rate that was put in the place of another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Carbon intensity of a grid over an interval, location-based.

    Attributes:
        value, low, high: g CO2e/kWh, ``low <= value <= high``.
        method: "modelled": computed for this interval by who publishes it; "assumed": a number that stands in for it.
        kind: of the average plant, or of those that run because of a little more load.
        source: where it is from, for a person.
    """

    value: float
    low: float
    high: float
    method: Method
    kind: Kind
    source: str

    def assumed(self, why: str) -> Rate:
        """The same, marked as standing in for another."""
        return replace(self, method="assumed", source=f"{self.source}; {why}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A forecast: ``rate`` is expected from ``start`` to ``end``, seconds since the epoch."""

    start: float
    end: float
    rate: Rate


class Steps(Sequence[Step]):
    """Steps that follow each other, as arrays: a schedule looks at hundreds of them, and at few one by one.

    Args:
        edges: (n + 1,) float64, seconds since the epoch: each step's start, and the end of the last.
        values: (n,) float64, g CO2e/kWh.
        rate: that of step i, from 0 on.
    """

    def __init__(self, edges: NDArray[np.float64], values: NDArray[np.float64], rate: Callable[[int], Rate]) -> None:
        self.edges, self.values, self._rate = edges, values, rate

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, at: int) -> Step: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Step]: ...
    def __getitem__(self, at: int | slice) -> Step | Sequence[Step]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        place = range(len(self))[at]
        return Step(start=float(self.edges[place]), end=float(self.edges[place + 1]), rate=self._rate(place))


class Intensity(Protocol):
    """One source of carbon intensity. May be used by several threads."""

    def over(self, start: float, end: float) -> Rate:
        """The mean over an interval, seconds since the epoch; at one moment where both are equal.

        Raises:
            EnvironmentFault: the source has no figure for it.
        """
        ...

    def forecast(self, now: float, until: float) -> Sequence[Step]:
        """What is expected after ``now`` as it was known then: steps in order, without gaps between them, the first of
        which holds ``now``. They end where the source knows no more; empty where it forecasts nothing.
        """
        ...


@dataclass(frozen=True, slots=True)
class Flat:
    """One rate at all times: a number that the owner states, or a yearly average."""

    rate: Rate

    def over(self, start: float, end: float) -> Rate:
        """Always the same."""
        finite(start, end)
        return self.rate

    def forecast(self, now: float, until: float) -> Sequence[Step]:
        """One step."""
        finite(now, until)
        return (Step(start=now, end=until, rate=self.rate),) if until > now else ()


class Backed:
    """A source, and another that stands in where it has no figure; each change of the reason is logged once.

    An interval that ends before it starts, since the clock was set back meanwhile, counts as the moment of its end,
    marked as assumed.

    Args:
        source: asked first.
        instead: asked where it fails; None, and the failure is the caller's.
    """

    def __init__(self, source: Intensity, instead: Intensity | None) -> None:
        self._source, self._instead = source, instead
        self._said = ""
        self._lock = threading.Lock()

    def over(self, start: float, end: float) -> Rate:
        """See `Intensity.over`.

        Raises:
            EnvironmentFault: the source has no figure, and nothing may stand in.
        """
        finite(start, end)
        if end < start:
            return self.over(end, end).assumed("the clock was set back meanwhile")
        try:
            rate = self._source.over(start, end)
        except EnvironmentFault as fault:
            if self._instead is None:
                raise
            self._say(f"{fault}; going on with an assumed carbon intensity")
            return self._instead.over(start, end).assumed(f"{STANDS_IN}: {fault}")
        self._say("")
        return rate

    @property
    def end(self) -> float | None:
        """From here on the source has no figure, seconds since the epoch; None where that is not known."""
        found: float | None = getattr(self._source, "end", None)
        return found

    def forecast(self, now: float, until: float) -> Sequence[Step]:
        """What the source forecasts; a stand-in forecasts nothing."""
        return self._source.forecast(now, until)

    def _say(self, line: str) -> None:
        with self._lock:
            news, self._said = line != self._said, line
        if line and news:
            log.warning("%s", line)


def stated(value: float, spread: float, kind: Kind) -> Flat:
    """A number that the owner states, g CO2e/kWh; ``spread`` is a fraction to either side."""
    low, high = value * (1 - spread), value * (1 + spread)
    source = f"stated by the owner, ±{spread:.0%}"
    return Flat(Rate(value=value, low=low, high=high, method="assumed", kind=kind, source=source))


def finite(*moments: float) -> None:
    """Raises:
    EnvironmentFault: a moment is not a finite number: no clock says so.
    """
    if not all(map(math.isfinite, moments)):
        raise EnvironmentFault(f"the clock says {', '.join(map(str, moments))}: seconds since 1970 are expected")
