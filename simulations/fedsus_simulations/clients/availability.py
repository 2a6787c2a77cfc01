"""Who is there at which hour: daily curves, each client by its own clock.

A client draws one number a day, and is there in the hours whose share is above it: so it comes and goes a few times a
day, as people do, and not by chance from hour to hour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
from pydantic import BeforeValidator

from fedsus_simulations.scenario.draws import uniforms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

HOUR: Final = 3600.0
_DAY: Final = 24

CURVES: Final[dict[str, tuple[float, ...]]] = {
    "always": (1.0,) * _DAY,
    "night": (0.8,) * 6 + (0.4, 0.2) + (0.1,) * 12 + (0.2, 0.3, 0.5, 0.7),
    "office": (0.05,) * 7 + (0.3, 0.8) + (0.95,) * 8 + (0.6, 0.2) + (0.05,) * 5,
}
"""Shares of clients that are there from 0:00, 1:00, ... on their own clocks.

"night": phones that are idle, charging and on a free network, mostly at night, as Bonawitz et al. (MLSys 2019) describe
theirs; "office": machines that are switched on for work. The numbers are made up to have these shapes.
"""


def _checked(asked: Any) -> tuple[float, ...]:
    """The shares of a curve's name or of 24 numbers."""
    if isinstance(asked, str) and asked in CURVES:
        return CURVES[asked]
    fits = isinstance(asked, list | tuple) and len(asked) == _DAY
    if not fits or not all(type(one) in (int, float) and 0 <= one <= 1 for one in asked):
        raise ValueError(f"expected one of {', '.join(map(repr, CURVES))}, or {_DAY} numbers from 0 to 1, one an hour")
    return tuple(map(float, asked))


Curve = Annotated[tuple[float, ...], BeforeValidator(_checked)]
"""A named curve, or 24 shares."""


@dataclass(slots=True)
class Availability:
    """Daily availability of all registered clients.

    Args:
        clients: registered.
        hour: of the day at which the run starts, on the first time zone's clocks.
        zones: clients live in so many time zones, an hour apart.
    """

    seed: int
    clients: int
    curve: Sequence[float]
    hour: float = 0.0
    zones: int = 1
    _zone: NDArray[np.int64] | None = field(default=None, init=False)
    _days: dict[int, NDArray[np.float64]] = field(default_factory=dict, init=False)
    _hours: dict[int, NDArray[np.bool_]] = field(default_factory=dict, init=False)

    def there(self, now: float) -> NDArray[np.bool_] | None:
        """Whether each client is there at a virtual time, (clients,) bool; None: everybody. Made once an hour."""
        if min(self.curve) >= 1.0:
            return None
        at = math.floor(now / HOUR + self.hour)
        if at not in self._hours:
            self._hours = {at: self._in(at)}
        return self._hours[at]

    def _in(self, at: int) -> NDArray[np.bool_]:
        """Who is there in one hour, counted from midnight before the run's start."""
        if self._zone is None:
            zone = uniforms(self.seed, np.arange(self.clients), "time zone") * self.zones
            self._zone = zone.astype(np.int64)
        today, hour = divmod(at, _DAY)
        days = [self._drawn(today)]
        if hour + self.zones > _DAY:  # in the last zones it is tomorrow
            days.append(self._drawn(today + 1))
        own = hour + self._zone
        chosen = days[0] if len(days) == 1 else np.where(own < _DAY, *days)
        result: NDArray[np.bool_] = chosen < np.asarray(self.curve)[own % _DAY]
        return result

    def _drawn(self, day: int) -> NDArray[np.float64]:
        """The numbers that all clients draw on one day; those of two days are kept."""
        if day not in self._days:
            self._days = {kept: self._days[kept] for kept in self._days if kept == day - 1}
            self._days[day] = uniforms(self.seed, np.arange(self.clients), "availability", day)
        return self._days[day]
