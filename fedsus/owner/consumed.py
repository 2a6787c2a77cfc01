"""Sums of what a device used: what its own record, its day's budget and its reports to a round are made of."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import ConfigDict

from fedsus.costs import Amount, Grams, Method, Phase, Usage, worst

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Kind = Literal["average", "marginal"]
_STRICT: Final = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumed:
    """Several intervals' `fedsus.costs.Usage` together; without arguments nothing at all.

    Attributes:
        seconds: length of what was measured.
        joules: by phase, above idle.
        low, high: range of their sum.
        idle: joules of the idle baseline.
        method: the worst of all.
        sources, boundaries: of all, each once.
        grams: carbon by kind of intensity: average and marginal grams are no one sum.
        unpriced: joules of intervals whose intensity is not known; ``grams`` are without them.
        unmeasured: seconds in which the meter failed; ``joules`` are without them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    seconds: Amount = 0.0
    joules: dict[Phase, Amount] = field(default_factory=dict)
    low: Amount = 0.0
    high: Amount = 0.0
    idle: Amount = 0.0
    method: Method = "counter"
    sources: list[str] = field(default_factory=list)
    boundaries: list[str] = field(default_factory=list)
    grams: dict[Kind, Grams] = field(default_factory=dict)
    unpriced: Amount = 0.0
    unmeasured: Amount = 0.0

    @classmethod
    def of(cls, usage: Usage) -> Consumed:
        """One interval."""
        return cls(
            seconds=usage.seconds,
            joules=dict(usage.joules),
            low=usage.low,
            high=usage.high,
            idle=usage.idle,
            method=usage.method,
            sources=[usage.source],
            boundaries=[usage.boundary],
            grams={} if usage.grams is None else {usage.grams.kind: usage.grams},
            unpriced=usage.total if usage.grams is None else 0.0,
        )

    @property
    def total(self) -> float:
        """Joules of all phases."""
        return sum(self.joules.values())

    @property
    def carbon(self) -> float:
        """Grams of all kinds, of what is priced."""
        return sum(one.value for one in self.grams.values())

    @property
    def measured(self) -> bool:
        """Whether a meter measured any of it."""
        return bool(self.sources)

    @property
    def priced(self) -> bool:
        """Whether the carbon of all of it is known."""
        return bool(self.grams) and not self.unpriced

    def __add__(self, other: Consumed) -> Consumed:
        if self is NOTHING:
            return other
        return Consumed(
            seconds=self.seconds + other.seconds,
            joules=_added(self.joules, other.joules),
            low=self.low + other.low,
            high=self.high + other.high,
            idle=self.idle + other.idle,
            method=worst(self.method, other.method),
            sources=_each_once(self.sources, other.sources),
            boundaries=_each_once(self.boundaries, other.boundaries),
            grams=self.grams | {k: self.grams[k] + one if k in self.grams else one for k, one in other.grams.items()},
            unpriced=self.unpriced + other.unpriced,
            unmeasured=self.unmeasured + other.unmeasured,
        )

    def written(self) -> dict[str, Any]:
        """As plain data, for a line of JSON."""
        return asdict(self)


NOTHING: Final = Consumed()


def read(plain: Any) -> Consumed:
    """What `Consumed.written` wrote.

    Raises:
        ValueError: it is something else.
    """
    return _adapter().validate_json(json.dumps(plain))  # strictly, objects are objects in JSON alone


def _each_once(ours: list[str], theirs: list[str]) -> list[str]:
    return ours if ours == theirs else list(dict.fromkeys([*ours, *theirs]))


def _added(ours: dict[Phase, float], theirs: dict[Phase, float]) -> dict[Phase, float]:
    return ours | {phase: ours.get(phase, 0.0) + joules for phase, joules in theirs.items()}


@cache
def _adapter() -> TypeAdapter[Consumed]:
    from pydantic import TypeAdapter

    return TypeAdapter(Consumed)
