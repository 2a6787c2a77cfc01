"""What an answer of a source over HTTP says, read as if it might lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from fedsus.energy.grid.fetching import Answer
from fedsus.energy.grid.intensity import Kind
from fedsus.energy.grid.series_files import instant, intensity, moment
from fedsus.errors import ConfigError, EnvironmentFault
from fedsus.settings.carbon import HttpSettings

AHEAD: Final = 300.0
"""Seconds by which a value's time may lie in the future: clocks differ."""
FARTHEST: Final = 14 * 86_400.0
"""Seconds that a forecast may reach ahead."""
MOST: Final = 20_000
"""Values in one answer."""


@dataclass(frozen=True, slots=True)
class Point:
    """A value from ``time`` on, g/kWh; the range is None where the source gives none."""

    time: float
    value: float
    low: float | None
    high: float | None


def understood(answer: Answer, settings: HttpSettings, kind: Kind, now: float) -> tuple[list[Point], list[Point]]:
    """Values and forecasts, each in the order of time.

    Raises:
        EnvironmentFault: one line that says what is wrong with the answer.
    """
    found = _json(answer, settings)
    if isinstance(found, dict):
        _agrees(found, settings, kind)
    fields = settings.fields
    same = fields.forecast == fields.values
    listed = [_point(each, settings, kind) for each in _list(_at(found, fields.values), fields.values)]
    ahead: list[Point] = []
    if same:
        listed, ahead = ([p for p in listed if p.time <= now + AHEAD], [p for p in listed if p.time > now + AHEAD])
    elif fields.forecast and (given := _at(found, fields.forecast)) is not None:
        ahead = [_point(each, settings, "marginal") for each in _list(given, fields.forecast)]
    if not listed:
        _refuse("holds no value")
    values, forecasts = _ordered(listed), _ordered(ahead)
    newest = values[-1].time
    if newest > now + AHEAD:
        _refuse(f"holds a value of {moment(newest)}, which is still to come; forecasts belong into '{fields.forecast}'")
    if newest < now - settings.oldest:
        _refuse(f"is stale: its newest value is of {moment(newest)}, and oldest = {settings.oldest:g} s")
    if forecasts and forecasts[-1].time > now + FARTHEST:
        _refuse(f"forecasts {moment(forecasts[-1].time)}, over {FARTHEST / 86_400:g} days ahead")
    return values, forecasts


def _json(answer: Answer, settings: HttpSettings) -> Any:
    if 300 <= answer.status < 400:
        _refuse(
            f"redirects to {_short(_place(answer.location))}, which is not followed; if you trust it, set url to it"
        )
    if answer.status != 200:
        hint = "; is the token right?" if answer.status in (401, 403) else ""
        _refuse(f"has status {answer.status} instead of 200{hint}")
    if len(answer.body) > settings.largest:
        _refuse(f"is longer than largest = {settings.largest} bytes")
    try:
        return json.loads(answer.body.decode("utf-8-sig"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        html = "html" in answer.content.lower() or answer.body.lstrip()[:1] == b"<"
        _refuse("is HTML, not JSON" if html else "is no JSON")


def _place(address: str) -> str:
    """An address without its query, which may hold the key that was asked with."""
    return address.partition("?")[0].partition("#")[0]


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _agrees(found: dict[str, Any], settings: HttpSettings, kind: Kind) -> None:
    """Whether the answer is of the zone, unit and kind that were asked for, where it says of which it is."""
    fields = settings.fields
    for name, place, wanted in (
        ("zone", fields.zone, settings.zone),
        ("unit", fields.unit, settings.unit),
        ("kind", fields.kind, kind),
    ):
        said = _at(found, place) if place else None
        if wanted is not None and said is not None and said != wanted:
            _refuse(f"says {name} {_short(said)}, where '{wanted}' is expected")


def _at(found: Any, place: str) -> Any:
    """What stands at a dotted place; None where there is nothing."""
    for name in place.split(".") if place else ():
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _list(found: Any, place: str) -> list[Any]:
    if found is None:
        _refuse(f"has no '{place}'")
    listed = found if isinstance(found, list) else [found]
    if len(listed) > MOST:
        _refuse(f"holds {len(listed)} values; {MOST} are read at most")
    return listed


def _point(found: Any, settings: HttpSettings, kind: Kind) -> Point:
    if not isinstance(found, Mapping):
        _refuse(f"holds {_short(found)} where a value with its time is expected")
    fields = settings.fields

    def number(place: str, of: Kind) -> float | None:
        given = _at(found, place) if place else None
        return None if given is None else intensity(given, settings.unit, of, f"its '{place}'")

    try:
        time, value = instant(_at(found, fields.time), f"its '{fields.time}'"), number(fields.value, kind)
        low, high = number(fields.low, "marginal"), number(fields.high, "marginal")
    except ConfigError as error:
        _refuse(f"is refused: {error}")
    if value is None:
        _refuse(f"has a value of {moment(time)} without '{fields.value}'")
    if (low is None) != (high is None) or not (low or 0.0) <= value <= (value if high is None else high):
        _refuse(f"has a value of {moment(time)} outside its own range")
    return Point(time, value, low, high)


def _ordered(points: list[Point]) -> list[Point]:
    """By time; a moment that is there twice with two values is a lie."""
    by_time: dict[float, Point] = {}
    for point in points:
        if by_time.setdefault(point.time, point) != point:
            _refuse(f"has two values of {moment(point.time)}")
    return [by_time[time] for time in sorted(by_time)]


def _refuse(what: str) -> NoReturn:
    raise EnvironmentFault(f"the answer {what}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
