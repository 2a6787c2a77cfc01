"""``[carbon]`` of agent.toml and run.toml: the carbon intensity of this machine's grid, and what else is counted."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from fedsus.strict import Positive, Strict

Country = Annotated[str, Field(min_length=1, max_length=60)]
Column = Annotated[str, Field(min_length=1, max_length=100)]
Place = Annotated[str, Field(max_length=200)]
Rate = Annotated[float, Field(gt=0, le=3000)]
Fraction = Annotated[float, Field(ge=0, le=1)]
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]*)?")
_SOURCES: Final = ("country", "grams_per_kwh", "series", "http")
Unit = Literal["g/kWh", "kg/kWh", "kg/MWh", "lb/MWh"]


class SeriesSettings(Strict):
    """``[carbon.series]``: a time series in CSV (``.csv``, ``.csv.gz``) or Parquet files.

    Attributes:
        files: a file, a folder or a pattern with ``*``; beside the TOML file if not absolute. Files may overlap where
            they are equal.
        time: column of the moment from which a value holds, with its zone ("2021-03-28T00:30:00+01:00").
        value, unit: column of the intensity, and its unit.
        low, high: columns of its range, if there are any; else ``spread`` makes one.
        forecast: columns with this and 1, 2, ... after it hold what was forecast for so many steps later.
        beyond: what stands for a forecast where there is none (any more): "yesterday", the same hours of the last
            day, marked as assumed; "days", their mean over the last ``days`` days, of which each counts 0.7 of the one
            after it; or "nothing".
        days: as many of them as are there.
        calendar: time zone of the grid ("America/Los_Angeles"): only days of the same kind count then, Monday to Friday
            or the weekend.
        zone: of the grid; refused where a column ``zone_column`` says another.
        gaps: "refuse", or fill gaps of up to ``longest_gap`` seconds with the previous value or with a line, marked as
            assumed.
    """

    files: Annotated[str, Field(min_length=1, max_length=1000)]
    time: Column = "time"
    value: Column
    unit: Unit
    low: Column | None = None
    high: Column | None = None
    forecast: Column | None = None
    beyond: Literal["nothing", "yesterday", "days"] = "yesterday"
    days: Annotated[int, Field(ge=2, le=28)] | None = None
    calendar: Column | None = None
    zone: Column | None = None
    zone_column: Column = "zone"
    gaps: Literal["refuse", "previous", "linear"] = "refuse"
    longest_gap: Annotated[float, Field(gt=0, le=7 * 86_400)] = 3600.0

    @property
    def days_looked_at(self) -> int:
        """Days whose hours stand for a forecast; 0 for none."""
        return self.days or (self.beyond == "yesterday")

    @model_validator(mode="after")
    def _both(self) -> SeriesSettings:
        if (self.low is None) != (self.high is None):
            raise ValueError("'low' and 'high' belong together: give both columns, or neither")
        if (self.days is None) == (self.beyond == "days"):
            raise ValueError("'days' and beyond = \"days\" belong together: give both, or neither")
        if self.calendar is not None and self.days is None:
            raise ValueError("'calendar' needs beyond = \"days\": it says which days are alike")
        return self


class FieldsSettings(Strict):
    """``[carbon.http.fields]``: where an answer has what; names with dots lead inwards.

    Attributes:
        values: the list of values, or a single one; "" is the answer itself.
        forecast: the list of values that are forecast; where it is that of ``values``, what is to come is.
        time, value, low, high: within each.
        zone, unit, kind: of the answer, compared where they are there; "" and they are not looked at.
    """

    values: Place = "values"
    forecast: Place = "forecast"
    time: Place = "time"
    value: Place = "value"
    low: Place = "low"
    high: Place = "high"
    zone: Place = "zone"
    unit: Place = "unit"
    kind: Place = "kind"


class HttpSettings(Strict):
    """``[carbon.http]``: a source that is asked over HTTP; its answers are kept in memory alone.

    Attributes:
        url: https, unless the host is this machine's loopback or ``insecure`` says so.
        zone: of the grid; refused where the answer says another.
        unit: of the values; refused where the answer says another.
        fields: where the answer has what.
        token_file: file with a token, readable by its owner alone; its text never stands in the TOML file.
        header: of the request that carries it; for "Authorization", as a bearer token.
        ca: PEM file of the authorities that may have signed the source's certificate; without it the system's count.
        timeout: seconds that a whole answer may take; a device that waits tells nobody meanwhile that it is there.
        largest: bytes of an answer at most.
        refresh: seconds between two questions at least.
        oldest: seconds for which a value holds at most.
        insecure: allow plain HTTP to other machines: who is on the way may change the figures and read the token.
    """

    url: Annotated[str, Field(max_length=2000)]
    zone: Column | None = None
    unit: Unit = "g/kWh"
    fields: FieldsSettings = FieldsSettings()
    token_file: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,60}$")] = "Authorization"
    ca: Annotated[str, Field(min_length=1, max_length=1000)] | None = None
    timeout: Annotated[float, Field(gt=0, le=15)] = 5.0
    largest: Annotated[int, Field(ge=1000, le=100_000_000)] = 1_000_000
    refresh: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    oldest: Annotated[float, Field(ge=1, le=7 * 86_400)] = 7200.0
    insecure: bool = False

    @field_validator("url")
    @classmethod
    def _an_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            # Beside a host in brackets anything may stand, which another reader may take for the host.
            host = parts.hostname if _HOST.fullmatch(parts.netloc.rpartition("@")[2]) and parts.port != 0 else None
        except ValueError:
            host = None
        if not host or parts.scheme not in ("https", "http") or not value.isascii() or not value.isprintable():
            raise ValueError("an address such as 'https://HOST/PATH' is expected")
        if parts.username is not None or parts.password is not None:
            raise ValueError("no user or password may stand in the address: put a token into 'token_file'")
        return value

    @model_validator(mode="after")
    def _secured(self) -> HttpSettings:
        parts = urlsplit(self.url)
        if parts.scheme == "http" and not self.insecure and not _loopback(parts.hostname or ""):
            raise ValueError(
                "plain http to another machine: use https, or set 'insecure = true' if whoever is on the way may lie"
            )
        if parts.scheme == "http" and self.ca is not None:
            raise ValueError("'ca' needs https: plain http has no certificate to check")
        return self


class FallbackSettings(Strict):
    """``[carbon.fallback]``: what stands in where the source has no figure: one of the two."""

    country: Country | None = None
    grams_per_kwh: Rate | None = None

    @model_validator(mode="after")
    def _one(self) -> FallbackSettings:
        if (self.country is None) == (self.grams_per_kwh is None):
            raise ValueError("give either 'country' or 'grams_per_kwh'")
        return self


class EmbodiedSettings(Strict):
    """``[carbon.embodied]``: carbon of this machine's manufacture, of which work bears its share of the lifetime.

    Attributes:
        machine: what it is like, for published figures; or give ``kg``.
        kg: kg CO2e of manufacture and transport, from the maker's report.
        years: expected lifetime.
        share: of the machine that the work takes (SCI's resource share).
        spread: fraction by which ``kg`` may be off to either side.
    """

    machine: Literal["phone", "laptop", "desktop", "server"] | None = None
    kg: Positive | None = None
    years: Annotated[float, Field(gt=0, le=50)] | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    spread: Fraction = 0.3

    @model_validator(mode="after")
    def _known(self) -> EmbodiedSettings:
        if (self.machine is None) == (self.kg is None):
            raise ValueError("give either 'machine' or 'kg'")
        if self.kg is not None and self.years is None:
            raise ValueError("'kg' needs 'years', the expected lifetime")
        return self


class NetworkSettings(Strict):
    """``[carbon.network]``: electricity of the networks between this machine and the other end, by bytes.

    Attributes:
        kwh_per_gb: kWh for 1e9 bytes, either way; when not given, from a published trend.
        low, high: its range; both with ``kwh_per_gb``.
    """

    kwh_per_gb: Annotated[float, Field(gt=0, le=100)] | None = None
    low: Annotated[float, Field(ge=0, le=100)] | None = None
    high: Annotated[float, Field(ge=0, le=100)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> NetworkSettings:
        given = [each for each in (self.low, self.kwh_per_gb, self.high) if each is not None]
        if len(given) not in (0, 3) or given != sorted(given):
            raise ValueError("give 'kwh_per_gb', 'low' and 'high' together, low <= kwh_per_gb <= high, or none of them")
        return self


class CarbonSettings(Strict):
    """``[carbon]``: one source of intensity at most; none, and grams are not computed.

    Attributes:
        country: three letters (ISO 3166-1 alpha-3): the yearly average of a country's grid.
        grams_per_kwh: a number that the owner states.
        series: a time series from files.
        http: a source over HTTP.
        kind: whether ``grams_per_kwh``, ``series`` or ``http`` is an average or a marginal intensity.
        spread: fraction by which these three may be off to either side; no source says it of itself.
        fallback: what stands in where ``series`` or ``http`` has no figure.
        missing: where there is no fallback: "assume" goes on with the world's average and a wide range, marked;
            "refuse" ends it.
        embodied: manufacture, counted on a line of its own; not counted when not given.
        network: electricity of transmission, likewise.
    """

    country: Country | None = None
    grams_per_kwh: Rate | None = None
    series: SeriesSettings | None = None
    http: HttpSettings | None = None
    kind: Literal["average", "marginal"] = "average"
    spread: Fraction = 0.2
    fallback: FallbackSettings | None = None
    missing: Literal["assume", "refuse"] = "assume"
    embodied: EmbodiedSettings | None = None
    network: NetworkSettings | None = None

    @property
    def source(self) -> str | None:
        """Name of the source of intensity; None where none is named."""
        return next((name for name in _SOURCES if getattr(self, name) is not None), None)

    @model_validator(mode="after")
    def _one_source(self) -> CarbonSettings:
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"'{given[0]}' and '{given[1]}': one source of intensity at most; leave one out")
        if given == ["country"] and self.kind == "marginal":
            raise ValueError("'country' is a yearly average: kind = 'marginal' needs series, http or grams_per_kwh")
        if self.fallback is not None and given not in (["series"], ["http"]):
            raise ValueError("'fallback' needs 'series' or 'http': nothing else can fail")
        return self


def _loopback(host: str) -> bool:
    """Whether ``host`` is this machine, said so that no resolver can change it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
