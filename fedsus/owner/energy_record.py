"""The lines of the owner's record of energy and carbon, ``state/energy.jsonl``, and what the last days amount to.

    used       what was used until ``time`` since the line before of its kind, for a run or, null, for none
    sent       a report of all of a run's that was not told before was encoded for an attempt
    told       the sum that holds it is certified
    withdrawn  it did not leave the device

and those of `fedsus.owner.folding`, where a record has become long.
Lines are a `fedsus.owner.note_file.NoteFile`'s: chained, synced, and an unfinished last one is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from fedsus.errors import CorruptionError
from fedsus.owner import consumed, days
from fedsus.owner.consumed import NOTHING, Consumed
from fedsus.owner.day_budget import NO_AMOUNTS, RECENT, REMEMBERED, Amounts, Expected, Standing
from fedsus.owner.note_file import NoteFile
from fedsus.owner.policy import DayBudget

FILE: Final = "energy.jsonl"
_QUARTER: Final = 900.0
"""Seconds. Days of all time zones begin at a multiple of it."""

_KEPT_QUARTERS: Final = 3 * 96
_KEPT_RUNS: Final = 32
_WORK: Final = frozenset({"train", "evaluate"})
"""Phases of which an attempt that was worked on has one: a request that was refused says nothing of a round."""


class Attempt(NamedTuple):
    """What a device worked on: one attempt of a run's round."""

    run: str
    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Interval:
    """What was used until ``time`` (seconds since the epoch), for an attempt; None for none."""

    time: float
    attempt: Attempt | None
    used: Consumed

    def written(self) -> dict[str, Any]:
        """As a line of the record."""
        run, round, attempt = self.attempt or (None, None, None)
        fields = {"run": run, "round": round, "attempt": attempt, "used": self.used.written()}
        return {"type": "used", "time": self.time, **fields}


@dataclass(frozen=True, slots=True)
class Worked:
    """What an attempt used so far, at ``time`` last; ``whole`` once it was trained or evaluated for."""

    time: float
    amounts: Amounts = NO_AMOUNTS
    whole: bool = False


@dataclass(slots=True)
class Recent:
    """What was used in the last days, so that a day's total is known in whichever time zone the owner reckons, and what
    each run's last attempts used."""

    quarters: dict[int, Consumed] = field(default_factory=dict)
    runs: dict[str, dict[Attempt, Worked]] = field(default_factory=dict)

    def add(self, interval: Interval) -> None:
        """Intervals come in the order of time."""
        quarter, attempt = int(interval.time // _QUARTER), interval.attempt
        if quarter not in self.quarters:
            self._forget(quarter, interval.time)
        self.quarters[quarter] = self.quarters.get(quarter, NOTHING) + interval.used
        if attempt is not None and attempt.attempt > 0:  # else an hour's sum of several
            before = self.runs.get(attempt.run, {}).get(attempt, Worked(interval.time))
            whole = before.whole or not _WORK.isdisjoint(interval.used.joules)
            self.worked(attempt, Worked(interval.time, before.amounts + Amounts.of(interval.used), whole))

    def worked(self, attempt: Attempt, found: Worked) -> None:
        """All that an attempt used so far."""
        of_run = self.runs.pop(attempt.run, {})
        self.runs[attempt.run] = of_run  # the one that was worked on last is the last
        of_run[attempt] = found
        if len(of_run) > RECENT:
            idle = (one for one, each in of_run.items() if not each.whole and one != attempt)
            del of_run[next(idle, next(iter(of_run)))]
        if len(self.runs) > _KEPT_RUNS:
            del self.runs[next(iter(self.runs))]

    def _forget(self, quarter: int, time: float) -> None:
        for old in [one for one in self.quarters if one < quarter - _KEPT_QUARTERS]:
            del self.quarters[old]
        for run, found in list(self.runs.items()):
            for attempt in [one for one, each in found.items() if each.time < time - REMEMBERED * days.DAY]:
                del found[attempt]
            if not found:
                del self.runs[run]

    def standing(self, budget: DayBudget, now: float, run: str | None = None) -> Standing:
        """The budget of the day of ``now``, for another round of ``run``; of the one that was worked on last."""
        first = int(days.begins(now, budget.zone) // _QUARTER)
        today = sum((used for quarter, used in self.quarters.items() if quarter >= first), NOTHING)
        rounds = {name: [each.amounts for each in found.values() if each.whole] for name, found in self.runs.items()}
        own = rounds.get(next(reversed(rounds), "") if run is None else run, [])
        return Standing(budget, now, today, Expected.of(own, [one for found in rounds.values() for one in found]))


def interval_of(entry: Mapping[str, Any]) -> Interval:
    """The interval of a line of type "used".

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    time, run = entry["time"], entry["run"]
    if not isinstance(time, int | float) or not isinstance(run, str | None):
        raise ValueError("not an interval")
    attempt = None if run is None else Attempt(run, int(entry["round"]), int(entry["attempt"]))
    return Interval(float(time), attempt, consumed.read(entry["used"]))


def recent_of(entry: Mapping[str, Any], recent: Recent) -> Interval | None:
    """Take a line's figures over; its interval, if it is one.

    Raises:
        ValueError, KeyError, TypeError: it is not of this version.
    """
    match entry["type"]:
        case "used" | "folded":
            interval = interval_of(entry)
            recent.add(interval)
            return interval
        case "worked" | "largest" as kind:
            attempt = Attempt("", int(entry["time"] // days.DAY), 0)  # a line of an older version names a day, no run
            if kind == "worked":
                attempt = Attempt(str(entry["run"]), int(entry["round"]), int(entry["attempt"]))
            amounts = Amounts(float(entry["joules"]), float(entry["grams"]))
            recent.worked(attempt, Worked(float(entry["time"]), amounts, True))
    return None


def history(path: Path) -> list[Interval]:
    """The intervals of a record that an agent may be writing; as `looked_at`."""
    return looked_at(path)[0]


def looked_at(path: Path) -> tuple[list[Interval], Recent]:
    """The intervals of a record that an agent may be writing, and what they amount to; empty where there is none.

    Raises:
        CorruptionError: a line is not of this version; names file and line; or as `NoteFile.read_only`.
        EnvironmentFault: as `NoteFile.read_only`.
    """
    found, recent = [], Recent()
    for entry in NoteFile.read_only(path):
        try:
            interval = recent_of(entry, recent)
        except (ValueError, KeyError, TypeError):
            raise CorruptionError(f"{path}: line {entry.get('seq')}: not of this version") from None
        if interval is not None:
            found.append(interval)
    return found, recent
