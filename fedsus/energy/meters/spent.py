"""Joules of a part of the machine over an interval, and their sums over parts and intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from fedsus.costs import PHASES, Method, Phase, Usage, worst

if TYPE_CHECKING:
    from fedsus.energy.meters.phases import Work


@dataclass(slots=True, kw_only=True)
class Spent:
    """As `fedsus.costs.Usage`, of one part or of several. Never changed; not frozen, for one is made at each take.

    Attributes:
        joules: by phase, above idle.
        low, high: range of their sum.
        idle: joules of the idle baseline.
        method: the worst of all parts.
        sources, boundaries: each once, in the order in which they came.
        lost: why counters were not used where they should have been, each once, with the numbers of the first time.
    """

    joules: Mapping[Phase, float] = field(default_factory=dict)
    low: float = 0.0
    high: float = 0.0
    idle: float = 0.0
    method: Method = "counter"
    sources: tuple[str, ...] = ()
    boundaries: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

    def __add__(self, other: Spent) -> Spent:
        both = {phase: self.joules.get(phase, 0.0) + other.joules.get(phase, 0.0) for phase in PHASES}
        return Spent(
            joules={phase: joules for phase, joules in both.items() if joules},
            low=self.low + other.low,
            high=self.high + other.high,
            idle=self.idle + other.idle,
            method=worst(self.method, other.method),
            sources=tuple(dict.fromkeys(self.sources + other.sources)),
            boundaries=tuple(dict.fromkeys(self.boundaries + other.boundaries)),
            lost=_each_reason(self.lost + other.lost) if self.lost and other.lost else self.lost or other.lost,
        )

    def usage(self, seconds: float) -> Usage:
        """As the usage of ``seconds``."""
        total = sum(self.joules.values())
        return Usage(
            seconds=seconds,
            joules=dict(self.joules),
            # Sums of floats in another order may differ in the last digit; a range always holds its value.
            low=min(self.low, total),
            high=max(self.high, total),
            idle=self.idle,
            method=self.method,
            source="; ".join(self.sources),
            boundary="; ".join(self.boundaries),
        )


class Part(Protocol):
    """A part of the machine whose joules are known somehow: the processor, a GPU."""

    def spend(self, work: Work) -> Spent:
        """Joules since it was asked last, over which this process did ``work``."""
        ...


def _each_reason(lost: tuple[str, ...]) -> tuple[str, ...]:
    """The first of each: a counter that fails at every reading has other numbers each time."""
    found: dict[str, str] = {}
    for one in lost:
        found.setdefault(one.partition(": ")[0], one)
    return tuple(found.values())


def divided(joules: float, work: Work) -> dict[Phase, float]:
    """``joules`` over the phases as their processor time; "wait" where there was none."""
    if not joules:
        return {}
    if work.total <= 0:
        return {"wait": joules}
    return {phase: joules * seconds / work.total for phase, seconds in work.cpu.items()}
