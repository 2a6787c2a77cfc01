"""What a released round's entry in the journal says, and what the entries say of attempts before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from fedsus.encoding.costs import told_sums
from fedsus.energy.priced import together
from fedsus.errors import EnvironmentFault
from fedsus.journal.entries import AttemptAbandoned, AttemptOpened, Entry, RoundReleased

if TYPE_CHECKING:
    from fedsus.costs import Meter, Usage
    from fedsus.plan import Plan
    from fedsus.rounds.server_half.exchange import Metered
    from fedsus.types import Mean, Summed

log = logging.getLogger("fedsus.server")

_LONGEST_SECONDS: Final = 600.0
"""Of waiting in one interval."""

Reason: TypeAlias = Literal["completed", "stopped", "failed"]


class UsageOf:
    """What this machine used since the entry before that says so.

    A counter, or a carbon intensity, for which the operator wants no assumption, ends the run only after the entry:
    what was released stays released.

    Args:
        meter: None where there is none.
    """

    def __init__(self, meter: Meter | None) -> None:
        self._meter = meter
        self._kept: Usage | None = None
        self._unknown = False
        self._fault: EnvironmentFault | None = None

    def mark(self) -> None:
        """Close an interval within the entry's: what is used in other hours has another carbon intensity."""
        found = self._found()
        self._kept, self._unknown = together(self._kept, found), self._unknown or found is None

    def take(self) -> Usage | None:
        """None where it is not known, be it of a part."""
        self.mark()
        kept = None if self._unknown else self._kept
        self._kept, self._unknown = None, False
        return kept

    def sleeping(self, sleep: Callable[[float], None]) -> Callable[[float], None]:
        """A sleep that closes an interval every ten minutes: of what is hours ago, no source may know the carbon."""
        slept = 0.0

        def rest(seconds: float) -> None:
            nonlocal slept
            sleep(seconds)
            slept += seconds
            if slept >= _LONGEST_SECONDS:
                slept = 0.0
                self.mark()

        return rest

    def _found(self) -> Usage | None:
        try:
            usage = None if self._meter is None else self._meter.take()
            if usage is None or usage.possible:
                return usage
            log.warning("what this machine used is not known: a figure that is NaN, negative or beyond any machine")
        except EnvironmentFault as fault:
            self._fault = fault
        except Exception as error:  # whatever a driver does: what was released is written down
            log.warning("what this machine used is not known: %s: %s", type(error).__name__, error)
        return None

    def check(self) -> None:
        """Raises:
        EnvironmentFault: of the last take.
        """
        if self._fault is not None:
            raise self._fault


def released(
    plan: Plan,
    summed: Summed,
    mean: Mean,
    checkpoint: str,
    fleet: Metered,
    *,
    seconds: float,
    virtual: float | None,
    server: Usage | None,
    waited: float,
) -> RoundReleased:
    """The entry of a round: aggregates over the survivors, and what they cost."""
    return RoundReleased(
        round=plan.round,
        attempt=plan.attempt,
        survivors=summed.survivors,
        refused=summed.refused,
        lost=summed.lost,
        weight=mean.weight,
        metrics=_metrics(plan, mean),
        held_out=mean.held_out,
        saturated=mean.saturated,
        checkpoint=checkpoint,
        bytes_sent=fleet.sent,
        bytes_received=fleet.received,
        seconds=seconds,
        virtual=virtual,
        traffic=fleet.traffic,
        server=server,
        costs=told_sums(plan, mean),
        waited=waited,
    )


def _metrics(plan: Plan, mean: Mean) -> dict[str, float] | None:
    """Mean of each metric over all held-out examples; None where none leave the devices."""
    if not plan.metrics or mean.held_out == 0:
        return None
    values = np.asarray(mean.totals, dtype=np.float64) / mean.held_out
    return {metric.name: float(value) for metric, value in zip(plan.metrics, values, strict=True)}


def in_a_row(entries: Sequence[Entry]) -> int:
    """Attempts that were abandoned since the last round was released; one that a crash cut off is none of them."""
    since = takewhile(lambda entry: isinstance(entry, AttemptAbandoned | AttemptOpened), reversed(entries))
    return sum(isinstance(entry, AttemptAbandoned) for entry in since)
