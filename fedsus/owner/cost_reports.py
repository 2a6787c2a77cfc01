"""What a device tells a run of its energy and carbon: once each, as far as it can know what a sum holds."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fedsus.owner.consumed import NOTHING, Consumed

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("fedsus.device")


@dataclass(frozen=True, slots=True)
class Flight:
    """A report that was encoded and is not known to be summed; ``again``: some of it was in one before."""

    round: int
    attempt: int
    told: Consumed
    again: bool = False


@dataclass(slots=True)
class Reports:
    """By run, what was used for it and not told yet, and the one report under way; ``repeated``: whose untold was told.

    A report whose sum was certified is told. If its round is asked again, its attempt was abandoned, and what it held
    is in the next report. If the run went on to another round and this device did not see how the attempt ended, the
    report may be in a sum: it counts as told. That a round is asked again is the server's word alone, so nothing is
    told a third time: a server that goes on asking would see this device's sums grow, and nobody else's.
    """

    untold: dict[str, Consumed] = field(default_factory=dict)
    flights: dict[str, Flight] = field(default_factory=dict)
    repeated: set[str] = field(default_factory=set)

    def used(self, run: str, more: Consumed) -> None:
        """Something was used for a run."""
        self.untold[run] = self.untold.get(run, NOTHING) + more

    def begin(self, run: str, round: int, attempt: int) -> Consumed:
        """A report of all that is not told yet."""
        before = self.flights.pop(run, None)
        again = before is not None and before.round == round and not before.again
        if before is not None and again:
            self.used(run, before.told)
        told = self.untold.pop(run, NOTHING)
        self.flights[run] = Flight(round, attempt, told, again or run in self.repeated)
        self.repeated.discard(run)
        return told

    def withdrawn(self, run: str, attempt: int) -> bool:
        """The report did not leave the device; whether it was the one under way."""
        flight = self._landed(run, attempt)
        if flight is not None:
            self.used(run, flight.told)
            if flight.again:
                self.repeated.add(run)
        return flight is not None

    def certified(self, run: str, attempt: int) -> bool:
        """The survivors of the sum that holds the report are certified; whether it was the one under way."""
        return self._landed(run, attempt) is not None

    def _landed(self, run: str, attempt: int) -> Flight | None:
        flight = self.flights.get(run)
        return self.flights.pop(run) if flight is not None and flight.attempt == attempt else None


def coordinates(told: Consumed, ranges: Mapping[str, tuple[float, float]]) -> NDArray[np.float64]:
    """A report as the coordinates that a plan names, in its order; what the mechanism is going to clamp is logged.

    Args:
        ranges: `fedsus.plan.Plan.cost_ranges`.

    Grams are told where the carbon of everything in the report is known: of a part they would pass for the whole.
    """
    values: dict[str, float] = {
        "joules": told.total,
        "grams": told.carbon if told.priced else 0.0,
        "spread": (told.high - told.low) / 2,
        "devices": float(told.measured),
        "counted": float(told.measured and told.method == "counter"),
        "priced": float(told.priced),
    } | {f"joules_{phase}": joules for phase, joules in told.joules.items()}
    for name, (_, most) in ranges.items():
        if values.get(name, 0.0) > most:
            log.warning(
                "costs: %s %.4g is more than the plan's bound %.4g: the bound is told", name, values[name], most
            )
    return np.array([values.get(name, 0.0) for name in ranges], dtype=np.float64)
