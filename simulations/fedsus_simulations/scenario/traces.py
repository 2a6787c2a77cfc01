"""``[traces]`` of a scenario: how its devices behave. Kinds of devices, and the hours at which they are there."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, model_validator

from fedsus.plan import Name, NonNegative, Positive, Strict

_OFF = 1e-6
_MOST_CLASSES = 32
DAY: Final = 24

CURVES: Final[dict[str, tuple[float, ...]]] = {
    "always": (1.0,) * DAY,
    "night": (0.8,) * 6 + (0.4, 0.2) + (0.1,) * 12 + (0.2, 0.3, 0.5, 0.7),
    "office": (0.05,) * 7 + (0.3, 0.8) + (0.95,) * 8 + (0.6, 0.2) + (0.05,) * 5,
}
"""Shares of clients that are there from 0:00, 1:00, ... on their own clocks.

"night": phones that are idle, charging and on a free network, mostly at night, as Bonawitz et al. (MLSys 2019) describe
theirs; "office": machines that are switched on for work. The numbers are made up to have these shapes.
"""


def _checked(asked: Any) -> tuple[float, ...]:
    """The shares of a curve's name or of 24 numbers."""
    if isinstance(asked, str) and asked in CURVES:
        return CURVES[asked]
    fits = isinstance(asked, list | tuple) and len(asked) == DAY
    if not fits or not all(type(one) in (int, float) and 0 <= one <= 1 for one in asked):
        raise ValueError(f"expected one of {', '.join(map(repr, CURVES))}, or {DAY} numbers from 0 to 1, one an hour")
    return tuple(map(float, asked))


Curve = Annotated[tuple[float, ...], BeforeValidator(_checked)]
"""A named curve, or 24 shares."""

Share = Annotated[float, Field(gt=0, le=1)]
Latency = Annotated[float, Field(ge=0, le=600)]

DEFAULTS: Final[dict[str, dict[str, float]]] = {
    "phone": {"examples_per_second": 100.0, "down_mbps": 40.0, "up_mbps": 10.0, "latency": 0.028},
    "edge-cpu": {"examples_per_second": 400.0, "down_mbps": 80.0, "up_mbps": 35.0, "latency": 0.009},
    "gpu": {"examples_per_second": 20_000.0, "down_mbps": 1000.0, "up_mbps": 1000.0, "latency": 0.005},
}
"""Numbers of the classes that need none in the scenario.

Lines of phone and edge-cpu: the world's medians of mobile and of fixed lines, rounded, as the Speedtest Global Index
had them for the first quarter of 2023 (41.5 down, 10.4 up, 28 ms; 79 down, 34.9 up, 9 ms). A gpu stands in a data
centre or hospital: a gigabit line is assumed. Examples a second are assumptions for networks of about a million
parameters and differ with each model by orders of magnitude: measure one, and write it down.
"""


class DeviceClass(Strict):
    """``[[traces.classes]]``: a kind of device.

    Attributes:
        share: of the clients; all shares add up to 1.
        examples_per_second: that it trains on.
        down_mbps, up_mbps: 10**6 bits a second from the server, and to it.
        latency: seconds of one way.
    """

    name: Name
    share: Share = 1.0
    examples_per_second: Positive
    down_mbps: Positive
    up_mbps: Positive
    latency: Latency

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, given: object) -> object:
        """A class of `DEFAULTS` needs its name alone."""
        if isinstance(given, dict) and isinstance(given.get("name"), str):
            return DEFAULTS.get(given["name"], {}) | given
        return given


EVERYBODY: Final = DeviceClass.model_validate({"name": "edge-cpu"})
"""What all clients are where the scenario names no classes."""


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class TracesConfig(Strict):
    """``[traces]``: how devices behave. Without it everybody is there, and nothing takes time.

    The phases that masks need take no virtual time where masks are left out. With masks, a round's cohort is drawn as
    the round before begins, as in a deployment; so near an hour at which others become available it may be another.

    Attributes:
        dropout: chance that a client falls out while it trains; the server waits for it until the plan's deadline.
        spread: of the clients' speeds, which differ for the whole run: standard deviation of their logarithm.
        stragglers: chance that an answer takes ``slowdown`` times as long.
        availability: "always", "night", "office", or 24 shares of clients that are there from 0:00, 1:00, ...
        time_zones: that the clients live in, an hour apart, equally many in each.
        hour: of the day at which the run starts.
        classes: kinds of devices; all are of the class "edge-cpu" where none is named.
    """

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    spread: Annotated[float, Field(ge=0, le=3)] = 0.0
    stragglers: Annotated[float, Field(ge=0, le=1)] = 0.0
    slowdown: Annotated[float, Field(ge=1, le=1000)] = 5.0
    availability: Curve = CURVES["always"]
    time_zones: Annotated[int, Field(ge=1, le=24)] = 1
    hour: Annotated[NonNegative, Field(lt=24)] = 0.0
    classes: Annotated[tuple[DeviceClass, ...], BeforeValidator(_as_tuple), Field(max_length=_MOST_CLASSES)] = ()

    @model_validator(mode="after")
    def _whole(self) -> TracesConfig:
        total = sum(one.share for one in self.classes)
        if self.classes and abs(total - 1.0) > _OFF:
            raise ValueError(f"the shares of classes add up to {total:g}; they must to 1")
        if len({one.name for one in self.classes}) < len(self.classes):
            raise ValueError("classes: each name once")
        return self
