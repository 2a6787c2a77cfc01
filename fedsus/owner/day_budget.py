"""Whether what is left of a day's energy and carbon is enough for another round."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from fedsus.energy.intensity import JOULES_PER_KWH
from fedsus.energy.yearly import WORLD
from fedsus.errors import Refusal
from fedsus.owner import days

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedsus.owner.consumed import Consumed
    from fedsus.owner.policy import DayBudget

ASSUMED_INTENSITY: Final = WORLD.value
"""g CO2e/kWh where a cap on grams meets joules without a known intensity."""

REMEMBERED: Final = 30
"""Days whose largest round is remembered, so that one large run does not keep a device away for ever."""


class SitsOut(Refusal):
    """The day's budget does not cover another round."""


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


@dataclass(frozen=True, slots=True)
class Bar:
    """One cap and what is used of it today.

    Attributes:
        name: "joules" or "grams".
        unit: "J" or "g CO2e".
        largest: of one round, in the days that are remembered; 0 before the first.
    """

    name: str
    unit: str
    cap: float
    used: float
    largest: float

    @property
    def left(self) -> float:
        """0 at least."""
        return max(self.cap - self.used, 0.0)

    def covers(self, rounds: int) -> bool:
        """Whether so many rounds more fit; anything fits before the first, as long as something is left."""
        return self.left > 0 and self.left >= rounds * self.largest

    def __str__(self) -> str:
        return f"{quantity(self.used, self.unit)} of {quantity(self.cap, self.unit)}"


@dataclass(frozen=True, slots=True)
class Standing:
    """A day's budget as it stands.

    Attributes:
        now: seconds since the epoch, as `fedsus.owner.days.Steady` tells them.
        today: what was used since the day began.
        largest: the most that one round used, each amount for itself.
    """

    budget: DayBudget
    now: float
    today: Consumed
    largest: Amounts

    @property
    def bars(self) -> Iterator[Bar]:
        """One for each cap."""
        used = Amounts.of(self.today)
        if self.budget.most_joules is not None:
            yield Bar("joules", "J", self.budget.most_joules, used.joules, self.largest.joules)
        if self.budget.grams is not None:
            yield Bar("grams", "g CO2e", self.budget.grams, used.grams, self.largest.grams)

    @property
    def until(self) -> str:
        """When the next day begins, for a person."""
        return _moment(days.ends(self.now, self.budget.zone), self.budget.zone)

    def too_little(self, rounds: int = 1) -> str | None:
        """Why so many rounds more are not taken part in, in one line; None where they are."""
        for bar in self.bars:
            if bar.covers(rounds):
                continue
            where, largest = f"[budget] {bar.name}", f"the largest round so far took {quantity(bar.largest, bar.unit)}"
            if bar.largest > bar.cap:
                return (
                    f"{where}: {quantity(bar.cap, bar.unit)} a day are less than one round, for {largest}: set it "
                    f"higher, or wait until that is {REMEMBERED} days ago"
                )
            why = f", and {largest}" if bar.left > 0 else ""
            return f"{where}: {bar} of today are used{why}: takes part again from {self.until}"
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
