"""The processor by its counters: the share of this process in what its packages drew above idle."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.energy.meters.counters import Counter, Follower, Lost, beginning
from fedsus.energy.meters.model import Range
from fedsus.energy.meters.spent import Spent, divided

if TYPE_CHECKING:
    from fedsus.energy.meters.model import Model
    from fedsus.energy.meters.phases import Work

BOUNDARY: Final = "processor packages and their memory above idle, by this process's share of the processor time"

_EXACT: Final = 0.05
"""RAPL's own error, as a part (Khan et al.: RAPL in Action, ACM TOMPECS 3(2), 2018)."""

_SHARE: Final = Range(value=1.0, low=0.7, high=1.5)
"""What a processor second of this process may draw, as parts of one of another process, while both run."""

_ALONE: Final = 0.99
_QUIET: Final = 0.05
"""Load below which the machine is idle."""

_IDLE_SECONDS: Final = 1.0


def busy_seconds(file: Path = Path("/proc/stat")) -> float | None:
    """Processor seconds of all processes since the machine started; None where it does not say.

    See proc_stat(5): user (guests are in it), nice, system, irq, softirq.
    """
    try:
        fields = beginning(file).split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq = (int(word) for word in fields[1:8])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class Packages:
    """See `fedsus.energy.meters.spent.Part`. Where a counter fails, the interval is the model's, and says so.

    The idle watts are the least that were seen over a second or more in which the machine did nothing; until then,
    what the model says, with a range from nothing to twice of it.
    """

    def __init__(
        self, counters: list[Counter], model: Model, cores: int, busy: Callable[[], float | None] = busy_seconds
    ) -> None:
        self._followers = [Follower(counter) for counter in counters]
        self._model, self._cores, self._busy = model, cores, busy
        self._before = busy()
        self._idle: float | None = None

    def spend(self, work: Work) -> Spent:
        """As `Part.spend`."""
        now = self._busy()
        used = None if now is None or self._before is None else max(now - self._before, work.total)
        self._before = now
        # All are read, whatever one of them says: the next interval begins here for each.
        found = {follower.counter.name: follower.since(work.seconds) for follower in self._followers}
        for name, joules in found.items():
            if isinstance(joules, Lost):
                return self._modelled(work, f"{name} {joules.why}", joules.detail)
        return self._counted(sum(joules for joules in found.values() if not isinstance(joules, Lost)), used, work)

    def _modelled(self, work: Work, why: str, detail: str) -> Spent:
        lost = f"{why}: {detail}" if detail else why
        return replace(self._model.spend(work), sources=(f"{self._model.source}, for {why}",), lost=(lost,))

    def _counted(self, joules: float, used: float | None, work: Work) -> Spent:
        idle = self._idle_watts(joules, used, work.seconds)
        above = max(joules - idle.value * work.seconds, 0.0)
        least = max(joules - idle.high * work.seconds, 0.0) * (1 - _EXACT)
        most = max(joules - idle.low * work.seconds, 0.0) * (1 + _EXACT)
        share = 1.0 if not used else min(work.total / used, 1.0)
        wide = share < _ALONE or used is None
        mine = above * share
        return Spent(
            joules=divided(mine, work),
            low=least * share * (_SHARE.low if wide else 1.0),
            high=min(most, most * share * (_SHARE.high if wide else 1.0)),
            idle=joules - above,
            sources=tuple(follower.counter.name for follower in self._followers),
            boundaries=(BOUNDARY if used is not None else "processor packages and their memory above idle",),
        )

    def _idle_watts(self, joules: float, used: float | None, seconds: float) -> Range:
        quiet = used is not None and used < _QUIET * self._cores * seconds
        if seconds >= _IDLE_SECONDS and quiet:
            self._idle = min(joules / seconds, self._idle or float("inf"))
        if self._idle is not None:
            return Range(value=self._idle, low=self._idle * (1 - _EXACT), high=self._idle * (1 + _EXACT))
        assumed = self._model.idle
        return Range(value=assumed, low=0.0, high=2 * assumed)
