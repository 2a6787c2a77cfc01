"""Kinds of devices: how fast they train, and how fast bytes reach them and come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
from pydantic import Field, model_validator

from fedsus.plan import Name, Positive, Strict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

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


@dataclass(frozen=True, slots=True)
class Lines:
    """Speeds of each client of a cohort, (m,) float64 each.

    Attributes:
        training: examples a second.
        down, up: bytes a second.
        latency: seconds of one way.
    """

    training: NDArray[np.float64]
    down: NDArray[np.float64]
    up: NDArray[np.float64]
    latency: NDArray[np.float64]

    @classmethod
    def of(cls, classes: Sequence[DeviceClass], kinds: NDArray[np.int8]) -> Lines:
        """Of devices of these kinds."""

        def column(name: str) -> NDArray[np.float64]:
            values: NDArray[np.float64] = np.array([getattr(one, name) for one in classes], dtype=np.float64)[kinds]
            return values

        return cls(
            column("examples_per_second"), column("down_mbps") * 125_000, column("up_mbps") * 125_000, column("latency")
        )
