"""What this device's work uses: measured by phase, for whom, in the owner's durable record, and told once.

A meter or a disk that fails never fails a round, unless ``[energy] missing = "refuse"`` says so: then the next request
is refused. What a failure leaves out is marked as unmeasured.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from fedsus.errors import CorruptionError, EnvironmentFault, FedsusError, Refusal
from fedsus.owner import days, folding
from fedsus.owner.consumed import Consumed
from fedsus.owner.cost_reports import coordinates
from fedsus.owner.day_budget import Standing
from fedsus.owner.days import Steady
from fedsus.owner.energy_record import Attempt, Interval
from fedsus.owner.guarded import Guarded, check, line
from fedsus.owner.note_file import NoteFile
from fedsus.owner.tallies import Tallies
from fedsus.types import nothing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fedsus.costs import Meter, Phase, Usage
    from fedsus.owner.cost_reports import Reports
    from fedsus.owner.policy import DayBudget
    from fedsus.types import Clock

BUSY_SECONDS, IDLE_SECONDS = 60.0, 600.0
"""So often are lines written while a run is worked on, and while none is; a round's report writes them too."""

Fault: TypeAlias = Literal["meter", "record", "carbon", "budget"]
"""What can be missing: joules, a place to write them, their carbon, a figure that a cap can be kept by."""

Price = Callable[["Usage", float, float], "Usage"]
"""Adds the carbon of an interval's joules; the interval in seconds since the epoch."""

log = logging.getLogger("fedsus.device")


def _unpriced(usage: Usage, start: float, end: float) -> Usage:
    del start, end
    return usage


class Consumption:
    """Counts what a device uses. May be used by several threads; one request is worked on at a time.

    What is used from `working` to `rest` belongs to the attempt that is worked on, anything else to none.

    Args:
        meter: None measures nothing.
        path: of the record; None keeps it in memory alone.
        price: adds carbon to each interval.
        clock: seconds since the epoch.
        refuse: what ends the taking part while it is missing: see `Fault`.

    Raises:
        CorruptionError: the record was changed.
        EnvironmentFault: another agent uses it, or it cannot be read.
    """

    def __init__(
        self,
        meter: Meter | None,
        path: Path | None,
        clock: Clock,
        *,
        price: Price = _unpriced,
        refuse: Collection[Fault] = (),
    ) -> None:
        self._meter, self._price, self._clock, self._refuse = meter, price, clock, refuse
        self._lock = threading.RLock()
        self._tallies = Tallies()
        self._attempt: Attempt | None = None
        self._faults: dict[Fault, str] = dict.fromkeys(get_args(Fault), "")
        self._path, self._notes = path, NoteFile(path)
        try:
            last = self._replay()
        except BaseException:
            self._notes.close()
            raise
        self._steady, self._since = Steady(clock, last), clock()
        self._written, self._day = self._since, max(self._since, last) // days.DAY

    @classmethod
    def none(cls) -> Consumption:
        """Of a device without a meter, as in simulations."""
        return cls(None, None, lambda: 0.0)

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """Count what happens inside as ``name``; inside another phase, as ``name`` alone."""
        return nullcontext() if self._meter is None else Guarded(self._meter, name, self._failed)

    def working(self, run: str, round: int, attempt: int) -> None:
        """From here on what is used belongs to this attempt, and so does what was used since `rest`."""
        if self._meter is None:
            return
        with self._lock:
            wanted = Attempt(run, round, attempt)
            if self._attempt not in (None, wanted):
                self.take()
            self._attempt = wanted

    def rest(self) -> None:
        """From here on what is used belongs to no run: the agent waits."""
        if self._meter is None:
            return
        with self._lock:
            self.take()
            self._attempt = None
            if self._due():
                self.write()
            self._shorten()

    def take(self) -> None:
        """Count what was used until now."""
        if self._meter is None:
            return
        with self._lock:
            start, self._since = self._since, self._clock()
            try:
                usage = self._meter.take()
                check(usage)
            except Exception as error:  # whatever a driver does: a round does not fail by it
                self._failed(error)
                unmeasured = Consumed(unmeasured=max(self._since - start, 0.0))
                self._tallies.add(self._steady(), self._attempt, unmeasured)
                return
            if self._faults["meter"]:
                self.fault("meter", "")
            if usage is not None:
                self._tallies.add(self._steady(), self._attempt, self._priced(usage, start))

    def tick(self) -> None:
        """To be called every now and then: a long training is on the disk in parts."""
        if self._meter is None:
            return
        with self._lock:
            if self._due():
                self.take()
                self.write()
            if self._attempt is None:
                self._shorten()

    def write(self) -> bool:
        """Write all that was taken; whether it is on the disk."""
        with self._lock:
            self._written = self._clock()
            unwritten = self._tallies.unwritten
            for attempt, used in list(unwritten.items()):
                if not self._append(Interval(self._steady(), attempt, used).written()):
                    return False
                del unwritten[attempt]
            return True

    def join(self, budget: DayBudget, run: str, others: int = 0) -> None:
        """Whether this device takes part in another attempt: asked before it is joined, never in the middle of one.

        Args:
            run: whose attempt it is.
            others: attempts of other runs that were joined and have not trained yet.

        Raises:
            SitsOut: what is left of the day does not cover it.
            Refusal: a figure is missing, and the owner refuses then.
        """
        if not budget.capped and not self._refuse:
            return  # nothing hangs on what was used until here: it is of the attempt that follows
        with self._lock:
            self.take()
            for about in self._refuse:
                if self._faults[about]:
                    table = "carbon" if about == "carbon" else "energy"
                    raise Refusal(f'{self._faults[about]} ([{table}] missing = "refuse")')
            if not budget.capped:
                return
            standing = self.standing(budget, run)
            unknown = standing.unknown(self._tallies.latest)
            if unknown is not None and budget.missing == "refuse":
                raise Refusal(f'{unknown} ([budget] missing = "refuse")')
            self.fault("budget", unknown or "")
            sits_out = standing.sits_out(others, self._steady.ahead)
            if sits_out is not None:
                raise sits_out

    def standing(self, budget: DayBudget, run: str | None = None) -> Standing:
        """The day's budget now, for another round of ``run``; of the one that was worked on last."""
        with self._lock:
            return self._tallies.recent.standing(budget, self._steady(), run)

    def report(self, attempt: Attempt, ranges: Mapping[str, tuple[float, float]]) -> NDArray[Any]:
        """What is told of a run in this attempt: all that was used for it and not told before, (costs,) float64.

        Args:
            ranges: `fedsus.plan.Plan.cost_ranges`.
        """
        if self._meter is None or not ranges:
            return nothing()
        with self._lock:
            self.take()
            if not self.write() or not self._append({"type": "sent", **attempt._asdict()}):
                return nothing()  # what is told without a note of it would be told twice after a restart
            return coordinates(self._reports.begin(*attempt), ranges)

    def withdrawn(self, run: str, attempt: int) -> None:
        """The answer of an attempt did not leave the device: what it told is told again."""
        with self._lock:
            if self._reports.withdrawn(run, attempt):
                self._append({"type": "withdrawn", "run": run, "attempt": attempt})

    def certified(self, run: str, attempt: int) -> None:
        """The survivors of an attempt are certified, this device among them: what it told is not told again."""
        with self._lock:
            if self._reports.certified(run, attempt):
                self._append({"type": "told", "run": run, "attempt": attempt})

    def close(self) -> None:
        """Write everything and close the record."""
        with self._lock:
            self.take()
            self.write()
            self._notes.close()
            self._meter = None

    def fault(self, about: Fault, line: str) -> None:
        """Note what is missing; a new reason is logged once."""
        with self._lock:
            if line and line != self._faults[about]:
                log.warning("%s", line)
            self._faults[about] = line

    def _failed(self, error: Exception) -> None:
        self.fault("meter", f"energy is not measured: {line(error)}")

    def _priced(self, usage: Usage, start: float) -> Usage:
        try:
            priced = self._price(usage, start, self._since)
            if priced is not usage:
                check(priced)
        except Exception as error:
            self.fault("carbon", f"the carbon of energy is not known: {line(error)}")
            return replace(usage, grams=None)
        if self._faults["carbon"]:
            self.fault("carbon", "")
        return priced

    @property
    def _reports(self) -> Reports:
        return self._tallies.reports

    def _due(self) -> bool:
        busy = self._attempt is not None or self._tallies.busy
        return abs(self._clock() - self._written) >= (BUSY_SECONDS if busy else IDLE_SECONDS)

    def _append(self, entry: dict[str, Any]) -> bool:
        try:
            self._notes.append(entry)
        except FedsusError as error:
            self.fault("record", f"energy is not recorded: {error}")
            return False
        self.fault("record", "")
        return True

    def _shorten(self) -> None:
        """On a new day, fold the record; what fails is tried again on the next."""
        day = self._steady() // days.DAY
        if day == self._day:
            return
        self._day = day
        try:
            folding.shorten(self._notes)
        except FedsusError as error:
            self.fault("record", f"energy's record stays long: {error}")

    def _replay(self) -> float:
        """Take over what the record holds, and fold it where it is long; its last time."""
        last, entries = 0.0, self._notes.entries()
        for entry in entries:
            try:
                last = max(last, folding.replay(entry, self._tallies.recent, self._reports))
            except (ValueError, KeyError, TypeError):
                raise CorruptionError(f"{self._path}: line {entry['seq']}: not of this version") from None
        shorter = folding.folded(entries)
        if shorter is not None:
            try:
                self._notes.replace(shorter)
            except EnvironmentFault as error:  # a full disk: the long one serves as well
                self.fault("record", f"energy's record stays long: {error}")
        return last


NO_CONSUMPTION: Final = Consumption.none()
"""Measures and keeps nothing; for devices that have no meter."""
