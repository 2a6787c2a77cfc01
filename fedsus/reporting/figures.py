"""What a receipt's numbers are made of: no figure without unit, range, method and source; what is unknown says why."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from fedsus.costs import Method
from fedsus.strict import Strict

How: TypeAlias = Method | Literal["counted", "computed", "summed"]
"""How a figure was found: as `fedsus.costs.Method`; or "counted", exactly, by the server; "computed" from other figures
of the journal by a stated formula; "summed" over the devices by the exchange, which shows no device's own."""

Number = Annotated[float, Field(allow_inf_nan=False)]
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


def exact(value: float, unit: str, source: str, method: How = "counted") -> Figure:
    """A figure without a range."""
    return Figure(value=value, low=value, high=value, unit=unit, method=method, source=source)
