"""A run's budget of energy and carbon: what its journal counts, and whether another attempt fits.

Counted is the value of each figure, not the end of its range: sums of reports that are noised have no bias, and a range
would be reached long before the cap. What nobody measures or reports is not counted, and said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from fedsus.errors import ConfigError, Refusal
from fedsus.journal.entries import AttemptAbandoned, AttemptOpened, Entry, RoundReleased
from fedsus.privacy.stated import shown
from fedsus.rounds.server_half.postponing import Stopwatch

if TYPE_CHECKING:
    from fedsus.config import RunConfig
    from fedsus.rounds.planning.specification import Specification
    from fedsus.settings.budgets import RunBudget

Kind: TypeAlias = Literal["joules", "grams"]
_UNITS: Final[dict[Kind, str]] = {"joules": "J", "grams": "g CO2e"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What counts of one attempt, or of a run: J above idle, or g CO2e.

    Attributes:
        server: by its meter.
        reported: by the devices; a noised sum under DP, which may be below zero for one attempt, not for a run.
        assumed: of devices that reported nothing.
        silent: whose figures are not in these.
    """

    server: float
    reported: float
    assumed: float
    silent: frozenset[str] = frozenset()

    @property
    def total(self) -> float:
        """All of it, never below zero."""
        return max(self.server + self.reported + self.assumed, 0.0)

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            server=self.server + other.server,
            reported=self.reported + other.reported,
            assumed=self.assumed + other.assumed,
            silent=self.silent | other.silent,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally(Counted):
    """What counts of a run so far, over so many ``attempts`` that ended, and of its ``largest``."""

    attempts: int
    largest: float


class Counter:
    """Counts the entries of a run, one by one.

    Args:
        virtual: whether assumptions go by a simulation's clock.
    """

    def __init__(self, budget: RunBudget, kind: Kind, virtual: bool = False) -> None:
        self._budget, self._kind, self._stopwatch = budget, kind, Stopwatch(virtual)
        self._sum = Counted(server=0.0, reported=0.0, assumed=0.0)
        self._cohort = self._attempts = 0
        self._largest = 0.0

    def feed(self, entry: Entry) -> None:
        """Take one more entry into account."""
        lasted = self._stopwatch.feed(entry)
        if isinstance(entry, AttemptOpened):
            self._cohort = entry.cohort
        elif isinstance(entry, RoundReleased | AttemptAbandoned):
            found = _attempt(entry, self._cohort, lasted or 0.0, self._budget, self._kind)
            self._sum, self._attempts = self._sum + found, self._attempts + 1
            self._largest = max(self._largest, found.total)

    @property
    def tally(self) -> Tally:
        """What counts so far."""
        found = self._sum
        return Tally(
            server=found.server,
            # Only the run's sum is kept from falling below zero: of each noised report, that would add up.
            reported=max(found.reported, 0.0),
            assumed=found.assumed,
            silent=found.silent,
            attempts=self._attempts,
            largest=self._largest,
        )


def tally(entries: Iterable[Entry], budget: RunBudget, kind: Kind, virtual: bool = False) -> Tally:
    """What the entries of a run count; see `Counter`."""
    counter = Counter(budget, kind, virtual)
    for entry in entries:
        counter.feed(entry)
    return counter.tally


def _attempt(
    entry: RoundReleased | AttemptAbandoned, cohort: int, seconds: float, budget: RunBudget, kind: Kind
) -> Counted:
    silent = set()
    server = None if entry.server is None else entry.server.total
    if kind == "grams" and entry.server is not None:
        server = None if entry.server.grams is None else entry.server.grams.value
    if server is None:
        silent.add("the server")
    costs = entry.costs if isinstance(entry, RoundReleased) else None
    quiet = _quiet(entry, cohort, kind)
    assumed = budget.assumed(quiet, seconds)[kind]
    # What devices used for an abandoned attempt is in what they report next; where that is abandoned too, in nothing.
    if quiet and assumed is None and isinstance(entry, RoundReleased):
        silent.add("the devices" if costs is None else "devices that report nothing")
    return Counted(
        server=server or 0.0,
        reported=0.0 if costs is None else costs.get(kind, 0.0),
        assumed=assumed or 0.0,
        silent=frozenset(silent),
    )


def _quiet(entry: RoundReleased | AttemptAbandoned, cohort: int, kind: Kind) -> int:
    """How many devices worked and reported nothing of ``kind``, as far as anybody knows."""
    if isinstance(entry, AttemptAbandoned):
        return cohort
    if entry.costs is None:
        return entry.survivors + entry.lost
    # Under DP nobody counts who reports: all who are in the sum are taken to. Who was lost reports next time, mostly.
    reports = entry.costs.get("devices" if kind == "joules" else "priced", float(entry.survivors))
    return max(entry.survivors - round(reports), 0)


def check_counted(config: RunConfig, metered: bool) -> None:
    """Refuse a budget of which nobody would ever count anything.

    Raises:
        ConfigError: neither this loop has a meter, nor do devices report, nor is anything assumed of them.
    """
    if config.budget.capped and not metered and config.plan.costs is None and config.budget.device_watts is None:
        raise ConfigError(
            "[budget] caps what nobody counts here: this round loop has no meter, and devices are asked for no "
            "[plan.costs]; ask for them, say what to assume in [budget] device_watts, or leave [budget] out"
        )


class Budgets:
    """Whether another attempt fits into a run's budget.

    Args:
        entries: of the run's journal; the list grows.
        virtual: whether the run is a simulation, with a clock of its own.
    """

    def __init__(self, specification: Specification, entries: Sequence[Entry], virtual: bool = False) -> None:
        self._specification, self._entries, self._read = specification, entries, 0
        budget = specification.config.budget
        self._caps = {name: (cap, kind, Counter(budget, kind, virtual)) for name, cap, kind in _caps(budget)}

    def _tallies(self) -> Iterator[tuple[str, float, Kind, Tally]]:
        for entry in self._entries[self._read :]:
            for _, _, counter in self._caps.values():
                counter.feed(entry)
        self._read = len(self._entries)
        return ((name, cap, kind, counter.tally) for name, (cap, kind, counter) in self._caps.items())

    def shortage(self) -> str | None:
        """Why no other attempt fits, in one line; None while one does.

        One fits while what is left is at least the largest attempt so far; the first always does.
        """
        for name, cap, kind, found in self._tallies():
            if not found.attempts or found.total + found.largest <= cap:
                continue
            unit = _UNITS[kind]
            named = (("server", found.server), ("devices' reports", found.reported), ("assumed", found.assumed))
            parts = ", ".join(f"{who} {part:.4g}" for who, part in named if part)
            below = found.attempts == 1 and found.largest > cap
            why = (
                "no round fits" if below else f"the largest attempt took {found.largest:.4g} {unit}, more than is left"
            )
            counted = f"{found.total:.4g} of {cap:.4g} {unit} are counted ({parts})"
            opened = sum(isinstance(entry, AttemptOpened) for entry in self._entries)
            first = _before_epsilon(self._specification, opened)
            return f"[budget] {name} is spent: {counted}; {why}{first}{_left_out(found)}"
        return None

    def beside(self) -> str:
        """What is counted where attempts were spent first; of epsilon, too, where there is one."""
        told = [
            f"{found.total:.4g} of {cap:.4g} {_UNITS[kind]} of [budget] {name}{_left_out(found)}"
            for name, cap, kind, found in self._tallies()
        ]
        first = "" if self._specification.privacy.unit == "none" else ", and epsilon with them"
        return f"{first}, before {' and '.join(told)}" if told else first


def _caps(budget: RunBudget) -> Iterator[tuple[str, float, Kind]]:
    """Name, value and kind of what is capped: of joules and kWh, the smaller."""
    if budget.most_joules is not None:
        yield ("joules" if budget.joules == budget.most_joules else "kwh"), budget.most_joules, "joules"
    if budget.grams is not None:
        yield "grams", budget.grams, "grams"


def _before_epsilon(specification: Specification, attempts: int) -> str:
    """What was spent of the run's epsilon when its energy or carbon was; nothing of a run without."""
    if specification.privacy.unit == "none":
        return ""
    try:
        spent = specification.epsilon(attempts)
    except Refusal:
        spent = math.inf
    asked = specification.config.plan.privacy.epsilon or math.inf
    return f"; it came before epsilon, of which {shown(spent)} of {asked:g} are spent (planned)"


def _left_out(found: Counted) -> str:
    return f" (not counted: {' and '.join(sorted(found.silent))})" if found.silent else ""
