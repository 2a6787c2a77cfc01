"""Lines of a cohort's devices: how fast they train, and how fast bytes reach them and come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedsus_simulations.scenario.traces import DeviceClass


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
