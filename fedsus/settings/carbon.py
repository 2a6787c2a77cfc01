"""``[carbon]`` of agent.toml and run.toml: the carbon intensity of this machine's grid, and what else is counted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedsus.strict import Positive, Strict


class CarbonSettings(Strict):
    """``[carbon]``: one source of intensity at most; none, and grams are not computed.

    Attributes:
        country: three letters (ISO 3166-1): the yearly average of a country's grid.
        series: CSV or Parquet file of a time series.
        url: of a source over HTTP.
        grams_per_kwh: a number that the owner states.
        kind: whether ``series``, ``url`` or ``grams_per_kwh`` is an average or a marginal intensity.
    """

    country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = None
    series: str | None = None
    url: str | None = None
    grams_per_kwh: Positive | None = None
    kind: Literal["average", "marginal"] = "average"
