"""When the rounds of one run start, by policy. `cleanest` is the round loop's own code, and so is its arithmetic.

immediate   each round at once
one piece   the start whose forecast has the lowest mean over the whole run, without a pause: for jobs that cannot
            be interrupted, Wiesner et al., "Let's Wait Awhile" (Middleware 2021)
threshold   a round starts while the intensity is among the lowest 30% of the last day, or the slack is used up
cleanest    `fedsus.rounds.server_half.postponing`, with what is known at each moment; the last day's hours
            stand for what lies behind the forecast's end
7 days alike  the same; behind the forecast's end, the hours of seven days, working days or weekends as the day itself
oracle      the same, with all that is to come: an upper bound, on the same grid of starts
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.energy.grid.days_alike import DAY
from fedsus.errors import RunFailed
from fedsus.journal.entries import AttemptOpened, Entry, RoundReleased
from fedsus.rounds.server_half.postponing import Postponing
from fedsus.settings.schedule import ScheduleSettings
from fedsus_simulations.benchmarks.carbon_traces import Known, Oracle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedsus.energy.grid.intensity import Intensity
    from fedsus_simulations.benchmarks.carbon_traces import Trace

STEP_MINUTES: Final = 15.0
"""Of `[schedule]`. With the default of 5, what 15 starts saved differed by half a point at most, at twice the time."""
LOWEST: Final = 0.3
DAYS: Final = 7
"""Chosen on the years before 2021; see docs/carbon-schedule.md."""
CALENDAR: Final = "America/Los_Angeles"
BY_DAYS: Final = f"{DAYS} days alike"
_HASH: Final = "0" * 64
_LATE: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Job:
    """So many rounds of equal length, seconds."""

    rounds: int
    seconds: float

    @property
    def total(self) -> float:
        """Seconds without any wait."""
        return self.rounds * self.seconds

    def __str__(self) -> str:
        return f"{self.rounds} x {self.seconds / 60:g} min"


@dataclass(frozen=True, slots=True)
class Asked:
    """A job that arrives at a moment, and may end so much later (seconds) than if it ran at once."""

    start: float
    job: Job
    slack: float
    step_minutes: float = STEP_MINUTES

    def checked(self, starts: list[float]) -> NDArray[np.float64]:
        """The starts of the rounds, (rounds,) float64.

        Raises:
            RunFailed: one is too early, two overlap, or the last ends after the deadline.
        """
        found = np.array(starts)
        ends = found + self.job.seconds
        if len(found) != self.job.rounds or found[0] < self.start or np.any(found[1:] < ends[:-1] - _LATE):
            raise RunFailed(f"carbon-hours: rounds at {starts}: not {self.job} from {self.start:g} s on")
        if ends[-1] > self.start + self.job.total + self.slack + _LATE:
            raise RunFailed(f"carbon-hours: the deadline was missed: {ends[-1]:g} s, for {self}")
        return found


Policy = Callable[["Trace", Asked], "NDArray[np.float64]"]
"""The starts of a job's rounds on a trace."""


def immediate(trace: Trace, asked: Asked) -> NDArray[np.float64]:
    """One round after the other."""
    del trace
    return asked.checked(_straight(asked.start, asked.job))


def known(days: int, calendar: str | None = None) -> Policy:
    """As a server would; behind the forecast's end, the hours of so many last days stand for it."""

    def cleanest(trace: Trace, asked: Asked) -> NDArray[np.float64]:
        return _postponed(Known(trace, days, calendar), asked)

    return cleanest


def oracle(trace: Trace, asked: Asked) -> NDArray[np.float64]:
    """As a server would that knows what is to come."""
    return _postponed(Oracle(trace), asked)


def one_piece(trace: Trace, asked: Asked) -> NDArray[np.float64]:
    """By the forecast at arrival; of equal means the earliest."""
    job, step = asked.job, asked.step_minutes * 60
    steps = Known(trace).forecast(asked.start, asked.start + asked.slack + job.total)
    edges = np.array([asked.start, *(one.end for one in steps)])
    areas = np.concatenate([[0.0], np.cumsum(np.array([one.rate.value for one in steps]) * np.diff(edges))])
    starts = asked.start + np.arange(int(asked.slack // step) + 1) * step
    sums = np.interp(starts + job.total, edges, areas) - np.interp(starts, edges, areas)
    first = int(np.flatnonzero(sums <= sums.min() * (1 + 1e-9))[0])
    return asked.checked(_straight(float(starts[first]), job))


def threshold(trace: Trace, asked: Asked) -> NDArray[np.float64]:
    """By what is there now alone."""
    step, day = asked.step_minutes * 60, round(DAY / trace.step)
    now, left, starts = asked.start, asked.slack, list[float]()
    while len(starts) < asked.job.rounds:
        row = trace.row(now)
        limit = np.quantile(trace.values[max(row - day, 0) : row + 1], LOWEST)
        if trace.values[row] <= limit or left < step:
            starts.append(now)
            now += asked.job.seconds
        else:
            now, left = now + step, left - step
    return asked.checked(starts)


POLICIES: Final[Mapping[str, Policy]] = {
    "one piece": one_piece,
    "threshold": threshold,
    "cleanest": known(1),
    BY_DAYS: known(DAYS, CALENDAR),
    "oracle": oracle,
}


def _straight(start: float, job: Job) -> list[float]:
    return [start + at * job.seconds for at in range(job.rounds)]


class _Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def _postponed(intensity: Intensity, asked: Asked) -> NDArray[np.float64]:
    """The starts that the round loop finds, round by round."""
    time, job = _Time(asked.start), asked.job
    entries: list[Entry] = [AttemptOpened(round=1, attempt=1, plan_digest=_HASH, cohort=1, time=asked.start)]
    settings = ScheduleSettings(
        policy="cleanest",
        slack_hours=asked.slack / 3600,
        duration=job.seconds,
        step_minutes=asked.step_minutes,
    )
    postponing = Postponing(settings, intensity, time, time.sleep, entries=entries)
    released, starts = _released(job.seconds), list[float]()
    for at in range(job.rounds):
        postponing.wait(job.rounds - at)
        starts.append(time.now)
        time.now += job.seconds
        entries.append(released)
    return asked.checked(starts)


def _released(seconds: float) -> RoundReleased:
    """What a schedule reads of a round: how long it took."""
    return RoundReleased(
        round=1,
        attempt=1,
        survivors=1,
        refused=0,
        lost=0,
        weight=1.0,
        metrics=None,
        held_out=0,
        saturated=0,
        checkpoint=_HASH,
        bytes_sent=0,
        bytes_received=0,
        seconds=seconds,
    )
