"""What a receipt's numbers are made of: no figure without unit, range, method and source; what is unknown says why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from pydantic import Field, model_validator

from fedsus.costs import Method
from fedsus.strict import Strict

if TYPE_CHECKING:
    from collections.abc import Iterable

How: TypeAlias = Method | Literal["counted", "computed", "summed"]
"""How a figure was found: as `fedsus.costs.Method`; or "counted", exactly, by the server; "computed" from other figures
of the journal by a stated formula; "summed" over the devices by the exchange, which shows no device's own."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]
"""As far as every reader of JSON counts in ones."""
Text = Annotated[str, Field(min_length=1, max_length=4000)]


class Figure(Strict):
    """A number that somebody may rely on.

    Attributes:
        value: in ``unit``.
        low, high: its range; both are the value where it is exact.
        unit: "J", "g CO2e", "B", "s", "g CO2e/round", ...
        method: how it was found; of a sum, the least certain of its parts.
        source: what was read, modelled, assumed or computed, for a person.
    """

    value: Number
    low: Number
    high: Number
    unit: Annotated[str, Field(min_length=1, max_length=40)]
    method: How
    source: Text

    @model_validator(mode="after")
    def _ordered(self) -> Figure:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"{self.value} {self.unit} is not between {self.low} and {self.high}")
        return self


class Absent(Strict):
    """A figure that is not known, and why, in one line."""

    absent: Text


Quantity: TypeAlias = Figure | Absent


MOST_SOURCES: Final = 8
"""Named one by one; the others are counted."""


def joined(sources: Iterable[str]) -> str:
    """Several sources as one text, each once and none too long."""
    found = list(dict.fromkeys(one[:300] or "not stated" for one in sources))
    more = f"; and {len(found) - MOST_SOURCES} more" if len(found) > MOST_SOURCES else ""
    return "; ".join(found[:MOST_SOURCES]) + more


def exact(value: float, unit: str, source: str, method: How = "counted") -> Figure:
    """A figure without a range."""
    return Figure(value=value, low=value, high=value, unit=unit, method=method, source=source)
