"""Whether what is left of a day's energy and carbon is enough for another round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from fedsus.energy.grid.intensity import JOULES_PER_KWH
from fedsus.energy.grid.yearly import WORLD
from fedsus.errors import Refusal
from fedsus.owner import days

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fedsus.owner.consumed import Consumed
    from fedsus.owner.policy import DayBudget

ASSUMED_INTENSITY: Final = WORLD.value
"""g CO2e/kWh where a cap on grams meets joules without a known intensity."""

REMEMBERED: Final = 30
"""Days that a round is remembered for."""

RECENT: Final = 9
"""Rounds of a run that tell what its next one takes."""

_QUARTILE: Final = 0.75
_HOUR: Final = 3600.0


class SitsOut(Refusal):
    """The day's budget does not cover another round.

    Attributes:
        hour: since the epoch, in which it may again; None where that is not known, or not to be told.
    """

    def __init__(self, reason: str, hour: int | None = None) -> None:
        super().__init__(reason)
        self.hour = hour


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a cap counts: ``joules`` above idle, and their ``grams``, with `ASSUMED_INTENSITY` where none is known."""

    joules: float = 0.0
    grams: float = 0.0

    @classmethod
    def of(cls, consumed: Consumed) -> Amounts:
        """Of a sum of intervals."""
        return cls(consumed.total, consumed.carbon + consumed.unpriced / JOULES_PER_KWH * ASSUMED_INTENSITY)

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(self.joules + other.joules, self.grams + other.grams)

    def most(self, other: Amounts) -> Amounts:
        """The larger of each."""
        return Amounts(max(self.joules, other.joules), max(self.grams, other.grams))


NO_AMOUNTS: Final = Amounts()


@dataclass(frozen=True, slots=True)
class Expected:
    """What a run's next round is taken to use.

    The upper quartile of its last rounds, rounded down, so that of two or more the largest alone decides nothing: one
    huge round keeps no device away. ``sure`` says that there were two; of a guess, half a day's cap counts at most.

    Attributes:
        largest: of any run's recent rounds; so much each round counts that was joined and is still to be trained for.
    """

    round: Amounts = NO_AMOUNTS
    largest: Amounts = NO_AMOUNTS
    sure: bool = False

    @classmethod
    def of(cls, own: Sequence[Amounts], all: Sequence[Amounts]) -> Expected:
        """From the recent rounds of a run, and of all runs; of a run that had none, from all."""
        sample, largest = own or all, NO_AMOUNTS
        for one in all:
            largest = largest.most(one)
        found = Amounts(_quartile([one.joules for one in sample]), _quartile([one.grams for one in sample]))
        return cls(found, largest, len(own) > 1)


def _quartile(values: Iterable[float]) -> float:
    found = sorted(values)
    return found[max(math.floor(_QUARTILE * len(found)), 1) - 1] if found else 0.0


@dataclass(frozen=True, slots=True)
class Bar:
    """One cap and what is used of it today.

    Attributes:
        name: "joules" or "grams".
        unit: "J" or "g CO2e".
        round: what the next one is taken to use; 0 before the first.
        largest: of one round lately; 0 before the first.
        sure: whether ``round`` is more than a guess.
    """

    name: str
    unit: str
    cap: float
    used: float
    round: float
    largest: float
    sure: bool

    @property
    def left(self) -> float:
        """0 at least."""
        return max(self.cap - self.used, 0.0)

    @property
    def hopeless(self) -> bool:
        """Whether no day has room for a round."""
        return self.sure and self.round > self.cap

    def covers(self, others: int) -> bool:
        """Whether one round more fits beside others that were joined; anything fits before the first, as long as
        something is left. So a day ends above its cap by less than one round, as long as none of the others is larger
        than any before."""
        round = self.round if self.sure else min(self.round, self.cap / 2)
        return self.left > 0 and self.left >= round + others * self.largest

    def __str__(self) -> str:
        return f"{quantity(self.used, self.unit)} of {quantity(self.cap, self.unit)}"


@dataclass(frozen=True, slots=True)
class Standing:
    """A day's budget as it stands.

    Attributes:
        now: seconds since the epoch, as `fedsus.owner.days.Steady` tells them.
        today: what was used since the day began.
        expected: of the next round.
    """

    budget: DayBudget
    now: float
    today: Consumed
    expected: Expected

    @property
    def bars(self) -> Iterator[Bar]:
        """One for each cap."""
        used, next, most = Amounts.of(self.today), self.expected.round, self.expected.largest
        sure = self.expected.sure
        if self.budget.most_joules is not None:
            yield Bar("joules", "J", self.budget.most_joules, used.joules, next.joules, most.joules, sure)
        if self.budget.grams is not None:
            yield Bar("grams", "g CO2e", self.budget.grams, used.grams, next.grams, most.grams, sure)

    @property
    def ends(self) -> float:
        """When the next day begins, in the time of ``now``."""
        return days.ends(self.now, self.budget.zone)

    @property
    def until(self) -> str:
        """When the next day begins, for a person."""
        return _moment(self.ends, self.budget.zone)

    def sits_out(self, others: int = 0, ahead: float = 0.0) -> SitsOut | None:
        """Why another round is not taken part in; None where it is.

        Args:
            others: rounds that were joined and are still to be trained for.
            ahead: how far ``now`` is ahead of the clock.
        """
        reason = self.too_little(others)
        if reason is None:
            return None
        waits = self.budget.tell_until and not any(bar.hopeless for bar in self.bars)
        # What sits out beside another run's round alone may take part once that is over, today.
        told = waits and self.too_little() is not None
        return SitsOut(reason, math.ceil((self.ends - ahead) / _HOUR) if told else None)

    def too_little(self, others: int = 0) -> str | None:
        """Likewise, in one line."""
        for bar in self.bars:
            if not bar.hopeless and bar.covers(others):
                continue
            where, round = f"[budget] {bar.name}", quantity(bar.round, bar.unit)
            if bar.hopeless:
                return (
                    f"{where}: {quantity(bar.cap, bar.unit)} a day are less than one round, for this run's last took "
                    f"{round}: set it higher, or wait until that is {REMEMBERED} days ago"
                )
            why = f", and a round takes {round}" if bar.left > 0 else ""
            used = f"{where}: {bar} of today are used{why}"
            if others and self.too_little() is None:
                return f"{used}, beside {others} of other runs that were joined: takes part again once these are over"
            return f"{used}: takes part again from {self.until}"
        return None

    def unknown(self, sample: Consumed) -> str | None:
        """Which cap is not kept by a measured or modelled figure, in one line; None where all are."""
        if self.budget.most_joules is not None or self.budget.grams is not None:
            if not sample.measured:
                return "[budget]: energy is not measured here, so that no cap can be kept: see [energy] of agent.toml"
            if sample.method == "assumed":
                return (
                    "[budget]: joules are only assumed here, for lack of a counter and of a processor whose power is "
                    "known: see fedsus energy show"
                )
        if self.budget.grams is not None and not sample.priced:
            return "[budget] grams: no carbon intensity is known: give [carbon] of agent.toml a source"
        return None


def quantity(value: float, unit: str) -> str:
    """An amount for a person: joules as Wh or kWh too where they are many."""
    if unit == "J" and value >= 3600:
        hours = value / 3600
        return f"{value:.4g} J ({hours / 1000:.3g} kWh)" if hours >= 1000 else f"{value:.4g} J ({hours:.3g} Wh)"
    return f"{value:.3g} {unit}"


def _moment(seconds: float, zone: str) -> str:
    return f"{datetime.fromtimestamp(seconds, days.zone_of(zone)):%Y-%m-%d %H:%M} ({zone})"
