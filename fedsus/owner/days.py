"""The owner's days: where one begins in a time zone, and a time that never goes back, whatever is done to the clock."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from fedsus.errors import ConfigError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from fedsus.types import Clock

DAY: Final = 86_400.0

log = logging.getLogger("fedsus.device")


def zone_of(name: str) -> ZoneInfo:
    """A time zone by its name in the IANA data base.

    Raises:
        ConfigError: there is none of that name here.
    """
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found, not a name, a folder of names
        raise ConfigError(f"zone '{name}': no time zone of that name here; expected one as 'Europe/Berlin'") from None


def begins(now: float, zone: str) -> float:
    """When the day of ``now`` began; seconds since the epoch."""
    there = datetime.fromtimestamp(now, zone_of(zone))
    return there.replace(hour=0, minute=0, second=0, microsecond=0, fold=0).timestamp()


def ends(now: float, zone: str) -> float:
    """When the next day begins; days with a change of clocks have 23 or 25 hours."""
    there = datetime.fromtimestamp(now, zone_of(zone))
    morrow = (there + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return morrow.timestamp()


def named(now: float, zone: str) -> str:
    """The day of ``now``: "2031-05-09"."""
    return datetime.fromtimestamp(now, zone_of(zone)).strftime("%Y-%m-%d")


class Steady:
    """Seconds since the epoch that never go back, so that no day gets younger.

    A clock set back by less than a day stands still here until it has caught up. One set back by more, as after a
    wrong date was mended, goes on from where it was, so that a day still ends after a day.

    Args:
        clock: seconds since the epoch.
        last: what a process before this one saw last.
    """

    def __init__(self, clock: Clock, last: float = 0.0) -> None:
        self._clock, self._last, self._ahead = clock, last, 0.0
        self._told = False

    @property
    def ahead(self) -> float:
        """Seconds that this time is ahead of a clock which was set back for good."""
        return self._ahead

    def __call__(self) -> float:
        """The time, at least as late as any told before."""
        now = self._clock() + self._ahead
        if now >= self._last:
            self._last, self._told = now, False
            return now
        back = self._last - now
        if back >= DAY:
            self._ahead += back
        if back >= 1.0 and not self._told:
            self._told = back < DAY
            day = named(self._last, "UTC")
            log.warning(
                "the clock went back by %s: energy is counted on from %s, no day begins twice", _long(back), day
            )
        return self._last


def _long(seconds: float) -> str:
    """A length of time for a person."""
    for unit, length in (("days", DAY), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
