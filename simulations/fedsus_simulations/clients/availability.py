"""Who is there at which hour: daily curves, each client by its own clock.

A client draws one number a day, and is there in the hours whose share is above it: so it comes and goes a few times a
day, as people do, and not by chance from hour to hour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus_simulations.scenario.draws import uniforms
from fedsus_simulations.scenario.traces import DAY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

HOUR: Final = 3600.0


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
        today, hour = divmod(at, DAY)
        days = [self._drawn(today)]
        if hour + self.zones > DAY:  # in the last zones it is tomorrow
            days.append(self._drawn(today + 1))
        own = hour + self._zone
        chosen = days[0] if len(days) == 1 else np.where(own < DAY, *days)
        result: NDArray[np.bool_] = chosen < np.asarray(self.curve)[own % DAY]
        return result

    def _drawn(self, day: int) -> NDArray[np.float64]:
        """The numbers that all clients draw on one day; those of two days are kept."""
        if day not in self._days:
            self._days = {kept: self._days[kept] for kept in self._days if kept == day - 1}
            self._days[day] = uniforms(self.seed, np.arange(self.clients), "availability", day)
        return self._days[day]
