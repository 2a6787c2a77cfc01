"""What work costs beside privacy: the words that plans, meters, journals and receipts share.

Energy in joules, carbon in grams of CO2 equivalent, time in seconds. No figure stands without its method, its range
and its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Protocol, TypeAlias, get_args

from pydantic import ConfigDict, Field

from fedsus.strict import Positive, Strict

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Phase: TypeAlias = Literal["load", "train", "encode", "crypto", "communicate", "wait", "evaluate"]
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)

Method: TypeAlias = Literal["counter", "modelled", "assumed"]
"""How a figure was found: read from the hardware's own counter; computed from measured time and load by a documented
model; taken from a declared number. A sum is as good as its worst part."""
METHODS: Final[tuple[Method, ...]] = get_args(Method)

MOST_AMOUNT: Final = 1e18
"""Beyond it nothing is written down or believed: sums of what is stay finite."""

Amount = Annotated[float, Field(ge=0, le=MOST_AMOUNT)]
_STRICT: Final = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


MOST: Final = 1e12
"""Joules (278 MWh), grams or seconds of one interval, beyond which a figure is a fault."""

MOST_SOURCES: Final = 12


def sources(*texts: str) -> str:
    """Sources as one, each part of them once, and not more than `MOST_SOURCES`: some name the hour of a fault."""
    parts = list(dict.fromkeys(part for text in texts for part in text.split("; ")))
    return "; ".join(parts if len(parts) <= MOST_SOURCES else [*parts[: MOST_SOURCES - 1], "and others"])


def worst(*methods: Method) -> Method:
    """The least certain of the methods; "counter" of none."""
    return METHODS[max((METHODS.index(method) for method in methods), default=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grams:
    """Carbon of an interval's joules.

    Attributes:
        value: g CO2e.
        low, high: its range: the joules' and the intensity's.
        method: the worst of the joules' and the intensity's.
        kind: whether the intensity is an average of the grid's plants or a marginal one. Location-based always.
        source: where the intensity is from.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    value: Amount
    low: Amount
    high: Amount
    method: Method
    kind: Literal["average", "marginal"]
    source: str

    def __add__(self, other: Grams) -> Grams:
        """Both together.

        Raises:
            ValueError: one is an average and the other marginal: there is no such sum.
        """
        if self.kind != other.kind:
            raise ValueError(f"{self.kind} and {other.kind} grams have no sum")
        return Grams(
            value=self.value + other.value,
            low=self.low + other.low,
            high=self.high + other.high,
            method=worst(self.method, other.method),
            kind=self.kind,
            source=sources(self.source, other.source),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Energy of one machine's work over an interval. Never negative; what is not known is not 0 but absent.

    Attributes:
        seconds: length of the interval.
        joules: by phase, above the idle baseline; phases without any are left out.
        low, high: range of their sum.
        idle: joules of the idle baseline over the interval, not in ``joules``: the machine would have used them anyway.
        method: the worst of all parts.
        source: what was read or modelled, for a person: "RAPL package-0", "2 of 8 cores at 65 W".
        boundary: what is inside the figure: "this process", "the whole package".
        grams: carbon of ``joules``; None where no intensity is known.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    seconds: Amount
    joules: dict[Phase, Amount] = field(default_factory=dict)
    low: Amount
    high: Amount
    idle: Amount
    method: Method
    source: str
    boundary: str
    grams: Grams | None = None

    @property
    def total(self) -> float:
        """Joules of all phases."""
        return sum(self.joules.values())

    @property
    def possible(self) -> bool:
        """Whether no number is NaN, negative or more than any machine can use."""
        grams = () if self.grams is None else (self.grams.value, self.grams.low, self.grams.high)
        numbers = (self.seconds, *self.joules.values(), self.low, self.high, self.idle, *grams)
        return all(0 <= number <= MOST for number in numbers)


class Meter(Protocol):
    """Measures this machine's work by phase. Made once a process; may be used by several threads."""

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """Count what happens inside as ``name``; inside another phase, as ``name`` alone."""
        ...

    def take(self) -> Usage | None:
        """What was used since the last take, or since the meter was made; None where nothing is measured ("off").

        Raises:
            EnvironmentFault: a counter stopped, and the settings say that this ends the work.
        """
        ...


class Costs(Strict):
    """What each device adds about its costs to the sum of a round (``Plan.costs``): public ranges, one block.

    Devices report what they used since their last report that was summed; beyond a bound a figure is clamped.

    Attributes:
        joules: most of one report.
        grams: likewise, g CO2e.
    """

    joules: Positive
    grams: Positive

    def ranges(self, private: bool) -> Mapping[str, tuple[float, float]]:
        """Names of the block's coordinates in their order, each with its range.

            joules, grams                 sums
            spread                        half of the range of the joules
            devices, counted, priced      who reports; who by a counter; who knows a carbon intensity
            joules_<phase>                by phase

        Under differential privacy each coordinate needs noise, so that joules and grams alone are sent.
        """
        if private:
            return {"joules": (0.0, self.joules), "grams": (0.0, self.grams)}
        ones = dict.fromkeys(("devices", "counted", "priced"), (0.0, 1.0))
        phases = dict.fromkeys((f"joules_{phase}" for phase in PHASES), (0.0, self.joules))
        return {"joules": (0.0, self.joules), "grams": (0.0, self.grams), "spread": (0.0, self.joules)} | ones | phases
