"""Puts rounds off to cleaner hours, within the run's slack. Knows no client: cohorts are chosen after the wait."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from fedsus.energy.grid.schedule import Start, Work, next_start
from fedsus.errors import EnvironmentFault
from fedsus.journal.entries import AttemptAbandoned, AttemptOpened, Entry, RoundReleased

if TYPE_CHECKING:
    from fedsus.energy.grid.intensity import Intensity
    from fedsus.settings.schedule import ScheduleSettings
    from fedsus.types import Clock

log = logging.getLogger("fedsus.server")

Waits = Callable[[float | None, str], None]
"""Told until when a run waits, seconds since the epoch, and what for; None once it does no longer."""

CLEANER: Final = "for a cleaner hour"
_RECENT: Final = 9
_LEAST_SECONDS: Final = 1e-3


class Postponing:
    """Waits for the start of a round.

    The slack is what a run may be later than one that starts each round at once: all time since it was opened in
    which it asked nobody uses it up, whatever the reason, also a server that was down. So the last round is never
    released later than that, however rounds, forecasts and clocks turn out.

    Args:
        intensity: whose forecast counts; None, and nothing is put off.
        now, sleep: time, a simulation's own where it has one; ``now`` is in the forecast's time.
        waits: told when a wait begins, moves and ends.
        entries: of the run's journal; the list grows.
        virtual: whether ``now`` is a simulation's clock, which starts with the run.
    """

    def __init__(
        self,
        settings: ScheduleSettings,
        intensity: Intensity | None,
        now: Clock,
        sleep: Callable[[float], None],
        waits: Waits | None = None,
        entries: Sequence[Entry] = (),
        virtual: bool = False,
    ) -> None:
        self._settings, self._intensity, self._now, self._sleep = settings, intensity, now, sleep
        self._waits: Waits = waits or (lambda *_: None)
        self._said = ""
        self._entries, self._began = entries, 0.0 if virtual or not entries else entries[0].time
        self._read, self._stopwatch = 0, Stopwatch(virtual)
        self._took: list[float] = []
        self._noted = self._waited = 0.0

    def wait(self, rounds: int) -> float:
        """Wait until the next of so many rounds, 1 or more, is to start; seconds waited, never negative."""
        if self._settings.policy == "immediate":
            return 0.0
        self._catch_up()
        seconds = statistics.median(self._took[-_RECENT:]) if self._took else self._settings.duration
        if seconds is None:
            self._say("the first round is not put off: how long one takes is not known yet ([schedule] duration)")
            return 0.0
        left = self._settings.slack_hours * 3600 - self._used()
        waited = self._until(left, Work(rounds=rounds, seconds=max(seconds, _LEAST_SECONDS)))
        self._waited += waited
        return waited

    def _catch_up(self) -> None:
        """Take what was written since into account."""
        for entry in self._entries[self._read :]:
            lasted = self._stopwatch.feed(entry)
            if lasted is not None:
                self._took.append(lasted)
            if isinstance(entry, RoundReleased):
                self._noted += entry.waited
        self._read = len(self._entries)

    def _used(self) -> float:
        """Seconds since the run was opened in which it asked nobody; at least those that it waited."""
        return max(self._now() - self._began - sum(self._took), self._noted, self._waited)

    def _until(self, slack: float, work: Work) -> float:
        began, waited, put_off = self._now(), 0.0, False
        while True:
            now = self._now()
            waited = max(waited, now - began)  # a clock that stands still, or was set back, adds no slack
            start = self._start(now, slack - waited, work)
            if start.at <= now:
                break
            self._tell(start)
            pause = min(start.at - now, self._settings.step_minutes * 60)
            self._sleep(pause)
            waited, put_off = waited + pause, True
        if not put_off:
            return 0.0  # what it took to look at the forecast is no wait
        self._waits(None, "")
        return waited

    def _start(self, now: float, slack: float, work: Work) -> Start:
        """By the forecast as it is now; without one, at once."""
        step = self._settings.step_minutes * 60
        try:
            until = now + work.rounds * work.seconds + max(slack, 0.0)
            forecast = () if self._intensity is None else self._intensity.forecast(now, until)
            start = next_start(forecast, now, slack, work, step)
        except EnvironmentFault as fault:
            start = Start(at=now, why=str(fault))
        if start.at <= now and start.mean is None:
            self._say(f"rounds start at once: {start.why}")
        return start

    def _tell(self, start: Start) -> None:
        self._waits(start.at, CLEANER)
        until = datetime.fromtimestamp(start.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        self._say(f"waits {CLEANER} until {until}: {start.saved:.0%} less carbon is expected for what is left")

    def _say(self, line: str) -> None:
        if line != self._said:
            log.info("%s", line)
        self._said = line


class Stopwatch:
    """Tells how long attempts lasted, entry by entry.

    Args:
        virtual: by a simulation's clock; the time in which clients were waited for is then in it.
    """

    def __init__(self, virtual: bool = False) -> None:
        self._virtual, self._before = virtual, 0.0
        self._opened: AttemptOpened | None = None

    def feed(self, entry: Entry) -> float | None:
        """Seconds of the attempt that this entry ends, never negative; None of other entries."""
        if isinstance(entry, AttemptOpened):
            self._opened = entry
        if not isinstance(entry, RoundReleased | AttemptAbandoned):
            return None
        if self._virtual:
            at = self._before if entry.virtual is None else entry.virtual
            put_off = entry.waited if isinstance(entry, RoundReleased) else 0.0
            lasted, self._before = at - self._before - put_off, at
        elif isinstance(entry, RoundReleased):
            lasted = entry.seconds
        else:
            lasted = 0.0 if self._opened is None else entry.time - self._opened.time
        return max(lasted, 0.0)
