"""The lines of the owner's record of energy and carbon, ``state/energy.jsonl``, and what the last days amount to.

    used       what was used until ``time`` since the line before of its kind, for a run or, null, for none
    sent       a report of all of a run's that was not told before was encoded for an attempt
    told       the sum that holds it is certified
    withdrawn  it did not leave the device

and those of `fedsus.owner.folding`, where a record has become long.
Lines are a `fedsus.owner.note_file.NoteFile`'s: chained, synced, and an unfinished last one is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from fedsus.errors import CorruptionError
from fedsus.owner import consumed, days
from fedsus.owner.consumed import NOTHING, Consumed
from fedsus.owner.day_budget import REMEMBERED, Amounts, Standing
from fedsus.owner.note_file import NoteFile
from fedsus.owner.policy import DayBudget

FILE: Final = "energy.jsonl"
_QUARTER: Final = 900.0
"""Seconds. Days of all time zones begin at a multiple of it."""

_KEPT_QUARTERS: Final = 3 * 96


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


@dataclass(slots=True)
class Recent:
    """What was used in the last days, so that a day's total is known in whichever time zone the owner reckons."""

    quarters: dict[int, Consumed] = field(default_factory=dict)
    rounds: dict[int, dict[Attempt, Amounts]] = field(default_factory=dict)

    def add(self, interval: Interval) -> None:
        """Intervals come in the order of time."""
        quarter, day = int(interval.time // _QUARTER), int(interval.time // days.DAY)
        if quarter not in self.quarters:
            self._forget(quarter, day)
        self.quarters[quarter] = self.quarters.get(quarter, NOTHING) + interval.used
        if interval.attempt is not None and interval.attempt.attempt > 0:  # else an hour's sum of several
            before = self.rounds.get(day - 1, {})
            found = before if interval.attempt in before else self.rounds.setdefault(day, {})
            found[interval.attempt] = found.get(interval.attempt, Amounts()) + Amounts.of(interval.used)

    def largest(self, time: float, most: Amounts) -> None:
        """The most that one round used on the day of ``time``."""
        self.rounds.setdefault(int(time // days.DAY), {})[Attempt("", 0, 0)] = most

    def each_day(self) -> Iterator[tuple[int, Amounts]]:
        """Days since the epoch, and the most that one round used on each."""
        for day, found in self.rounds.items():
            yield day, _largest(found.values())

    def _forget(self, quarter: int, day: int) -> None:
        """Of a day that is over the largest round alone is kept; of one long over, nothing."""
        for old in [one for one in self.quarters if one < quarter - _KEPT_QUARTERS]:
            del self.quarters[old]
        for since, found in list(self.rounds.items()):
            if since < day - REMEMBERED:
                del self.rounds[since]
            elif since < day - 1 and len(found) > 1:
                self.rounds[since] = {Attempt("", 0, 0): _largest(found.values())}

    def standing(self, budget: DayBudget, now: float) -> Standing:
        """The budget of the day of ``now``."""
        first = int(days.begins(now, budget.zone) // _QUARTER)
        today = sum((used for quarter, used in self.quarters.items() if quarter >= first), NOTHING)
        amounts = [one for found in self.rounds.values() for one in found.values()]
        return Standing(budget, now, today, _largest(amounts))


def _largest(amounts: Iterable[Amounts]) -> Amounts:
    found = Amounts()
    for one in amounts:
        found = found.most(one)
    return found


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


def intervals(entries: list[dict[str, Any]], path: Path) -> Iterator[Interval]:
    """All intervals of a record, in order.

    Raises:
        CorruptionError: a line is not of this version; names file and line.
    """
    for entry in entries:
        if entry.get("type") in ("used", "folded"):
            with_line = f"{path}: line {entry.get('seq')}: not of this version"
            try:
                yield interval_of(entry)
            except (ValueError, KeyError, TypeError):
                raise CorruptionError(with_line) from None


def history(path: Path) -> list[Interval]:
    """The intervals of a record that an agent may be writing; empty where there is none.

    Raises:
        CorruptionError, EnvironmentFault: as `NoteFile.read_only`.
    """
    return list(intervals(NoteFile.read_only(path), path))
