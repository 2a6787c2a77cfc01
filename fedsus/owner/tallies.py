"""What a device used, added up by day, by run for its reports, and for the record: late, and many intervals at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedsus.owner.consumed import NOTHING, Consumed
from fedsus.owner.cost_reports import Reports
from fedsus.owner.energy_record import Interval, Recent

if TYPE_CHECKING:
    from fedsus.costs import Usage
    from fedsus.owner.energy_record import Attempt

_MANY: Final = 32
"""Intervals that wait to be added up, at most."""


class Tallies:
    """Each sum holds all that was added before it is asked for.

    To add up many at once takes a fraction of the time that each would take beside a training.
    """

    def __init__(self) -> None:
        self._recent, self._reports, self._latest = Recent(), Reports(), NOTHING
        self._unwritten: dict[Attempt | None, Consumed] = {}
        self._waiting: list[tuple[float, Attempt | None, Usage | Consumed]] = []

    def add(self, time: float, attempt: Attempt | None, used: Usage | Consumed) -> None:
        """What was used until ``time``; intervals come in the order of time."""
        self._waiting.append((time, attempt, used))
        if len(self._waiting) >= _MANY:
            self._sum()

    @property
    def recent(self) -> Recent:
        """Of the last days."""
        self._sum()
        return self._recent

    @property
    def reports(self) -> Reports:
        """By run."""
        self._sum()
        return self._reports

    @property
    def unwritten(self) -> dict[Attempt | None, Consumed]:
        """What is to be written, by attempt; what was is to be deleted from it."""
        self._sum()
        return self._unwritten

    @property
    def latest(self) -> Consumed:
        """The last interval."""
        self._sum()
        return self._latest

    @property
    def busy(self) -> bool:
        """Whether some attempt's is to be written."""
        return any(self._unwritten) or any(attempt for _, attempt, _ in self._waiting)

    def _sum(self) -> None:
        for time, attempt, taken in self._waiting:
            self._latest = used = taken if isinstance(taken, Consumed) else Consumed.of(taken)
            self._recent.add(Interval(time, attempt, used))
            if attempt is not None:
                self._reports.used(attempt.run, used)
            self._unwritten[attempt] = self._unwritten.get(attempt, NOTHING) + used
        self._waiting.clear()
