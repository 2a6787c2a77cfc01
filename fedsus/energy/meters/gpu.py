"""A GPU by its counter: what it drew above idle while this process used it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from fedsus.energy.meters.counters import Counter, Follower, Lost
from fedsus.energy.meters.model import Range
from fedsus.energy.meters.spent import Spent, divided

if TYPE_CHECKING:
    from fedsus.energy.meters.phases import Work

_ERROR: Final = 0.05
"""The counter's own error, as a part: Nvidia gives 5 W either way for power readings, which is of this order."""

IDLE: Final = Range(value=0.113, low=0.03, high=0.25)
"""Idle watts as parts of the limit, where they were not seen: 46 of 407 W, 35 of 306 W, 8 of 71 W (Cloud Carbon
Footprint, Methodology, appendix III)."""


class Accelerator(Counter, Protocol):
    """A counter of a whole GPU; see `fedsus.energy.meters.nvml.Gpu`."""

    @property
    def limit(self) -> float: ...
    @property
    def idle(self) -> float | None: ...
    def others(self) -> int: ...


def in_use() -> bool:
    """Whether this process has begun to use a GPU. Torch is asked only where it is loaded: nothing else uses one."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


class GpuPart:
    """See `fedsus.energy.meters.spent.Part`. Where the counter fails, the last watts that it told are assumed."""

    def __init__(self, gpu: Accelerator, used: Callable[[], bool] = in_use) -> None:
        self._gpu, self._follower, self._used = gpu, Follower(gpu), used
        idle = gpu.idle
        self._idle = IDLE.times(gpu.limit) if idle is None else Range(value=idle, low=0.9 * idle, high=1.1 * idle)
        self._above = (gpu.limit - self._idle.value) / 2

    def spend(self, work: Work) -> Spent:
        """As `Part.spend`."""
        joules = self._follower.since(work.seconds)
        if not self._used():
            return Spent()
        if isinstance(joules, Lost):
            return self._assumed(joules, work)
        idle = min(self._idle.value * work.seconds, joules)
        above, others = joules - idle, self._gpu.others()
        if work.seconds > 0:
            self._above = above / work.seconds
        least = max(joules * (1 - _ERROR) - self._idle.high * work.seconds, 0.0)
        most = max(joules * (1 + _ERROR) - self._idle.low * work.seconds, 0.0)
        with_others = ", other processes on it included" if others else ""
        return Spent(
            joules=divided(above, work),
            low=least / (1 + others),
            high=most,
            idle=idle,
            sources=(self._gpu.name,),
            boundaries=(f"the whole of {self._gpu.name} above idle{with_others}",),
        )

    def _assumed(self, reason: Lost, work: Work) -> Spent:
        why = f"{self._gpu.name} {reason.why}"
        return Spent(
            joules=divided(self._above * work.seconds, work),
            high=self._gpu.limit * work.seconds,
            idle=self._idle.value * work.seconds,
            method="assumed",
            sources=(f"watts as before, for {why}",),
            boundaries=(f"the whole of {self._gpu.name} above idle",),
            lost=(f"{why}: {reason.detail}" if reason.detail else why,),
        )
