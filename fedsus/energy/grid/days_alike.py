"""Which days before a moment stand for it: the last ones, or the last of its kind, Monday to Friday or the weekend."""

from __future__ import annotations

import functools
import itertools
from datetime import datetime
from typing import TYPE_CHECKING, Final

from fedsus.errors import ConfigError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

DAY: Final = 86_400.0
FADE: Final = 0.7
"""What a day counts of the one after it, where several stand for a forecast. Chosen as docs/carbon-schedule.md says."""
_SATURDAY: Final = 5


@functools.cache
def ages(newest: int, weekday: int | None, days: int) -> tuple[int, ...]:
    """How many days before a moment they lie, rising.

    Args:
        newest: of the day that is over, or just under way: 1 or more.
        weekday: of the moment, 0 is Monday; None, and all days are alike.
        days: how many.
    """
    found = itertools.count(newest)
    if weekday is None:
        return tuple(itertools.islice(found, days))
    weekend = weekday >= _SATURDAY
    alike = (age for age in found if ((weekday - age) % 7 >= _SATURDAY) == weekend)
    return tuple(itertools.islice(alike, days))


def weekday_of(time: float, calendar: ZoneInfo | None) -> int | None:
    """The weekday of a moment, seconds since the epoch, by the calendar of a zone; None without one."""
    return None if calendar is None else datetime.fromtimestamp(time, calendar).weekday()


def calendar_of(name: str | None) -> ZoneInfo | None:
    """The time zone of an IANA name.

    Raises:
        ConfigError: unknown, or this system has no time zones.
    """
    if name is None:
        return None
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ConfigError(
            f"series.calendar = '{name}' is no time zone that this machine knows; such as Europe/Berlin"
        ) from None
