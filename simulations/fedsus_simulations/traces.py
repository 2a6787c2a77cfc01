"""How simulated devices behave: who is there, who falls out, how long each takes. Virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(slots=True)
class VirtualClock:
    """Seconds of a simulation since its run's start."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class Traces(Protocol):
    """Behaviour by position in the population; the same whenever it is asked."""

    def available(self, now: float) -> NDArray[np.int64] | None:
        """Positions that can be asked at a virtual time, rising; None: everybody."""
        ...

    def training(
        self, positions: Sequence[int], attempt: int, examples: NDArray[np.int64], down: int, up: int
    ) -> NDArray[np.float64]:
        """Seconds until each client's answer to a request for training; infinity where none comes.

        Args:
            attempt: of the plan.
            examples: that each trains on, times the local epochs.
            down, up: bytes of a request and of an answer.
        """
        ...

    def light(self, positions: Sequence[int], down: int, up: int) -> NDArray[np.float64]:
        """Seconds until each client's answer in a phase without training."""
        ...


class Instant:
    """Everybody is there, nobody falls out, nothing takes time."""

    def available(self, now: float) -> NDArray[np.int64] | None:
        """Everybody."""
        del now

    def training(
        self, positions: Sequence[int], attempt: int, examples: NDArray[np.int64], down: int, up: int
    ) -> NDArray[np.float64]:
        """At once."""
        del attempt, examples, down, up
        return np.zeros(len(positions))

    def light(self, positions: Sequence[int], down: int, up: int) -> NDArray[np.float64]:
        """At once."""
        del down, up
        return np.zeros(len(positions))
