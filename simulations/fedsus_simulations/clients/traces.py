"""How simulated devices behave: who is there, who falls out, how long each takes. Virtual time.

All of it is drawn from the scenario's seed by client and attempt: whoever asks, whenever, finds the same. A client
falls out of training alone, and never once its update is masked: the same clients survive with masks and without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from fedsus_simulations.clients.availability import Availability
from fedsus_simulations.clients.lines import Lines
from fedsus_simulations.scenario.draws import divided, uniforms
from fedsus_simulations.scenario.traces import EVERYBODY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus_simulations.scenario.traces import TracesConfig


@dataclass(slots=True)
class VirtualClock:
    """Seconds of a simulation since its run's start."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


Bytes: TypeAlias = "int | NDArray[np.int64]"
"""Of all clients alike, or of each, (m,)."""


class Traces(Protocol):
    """Behaviour by position in the population; the same whenever it is asked."""

    def available(self, now: float) -> NDArray[np.int64] | None:
        """Positions that can be asked at a virtual time, rising; None: everybody."""
        ...

    def reached(self, now: float, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of these clients is there at a virtual time, (m,) bool."""
        ...

    def training(
        self, positions: NDArray[np.int64], attempt: int, examples: NDArray[np.int64], down: Bytes, up: int
    ) -> NDArray[np.float64]:
        """Seconds until each client's answer to a request for training, (m,); infinity where none comes.

        Args:
            attempt: of the plan.
            examples: that each trains on, times the local epochs.
            down, up: bytes of a request and of an answer.
        """
        ...

    def light(self, positions: NDArray[np.int64], down: Bytes) -> NDArray[np.float64]:
        """Seconds until each client's answer in a phase without training, (m,); its answer is small."""
        ...


class Instant:
    """Everybody is there, nobody falls out, nothing takes time."""

    def available(self, now: float) -> NDArray[np.int64] | None:
        """Everybody."""
        del now
        return None

    def reached(self, now: float, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """All of them."""
        del now
        return np.ones(len(positions), dtype=np.bool_)

    def training(
        self, positions: NDArray[np.int64], attempt: int, examples: NDArray[np.int64], down: Bytes, up: int
    ) -> NDArray[np.float64]:
        """At once."""
        del attempt, examples, down, up
        return np.zeros(len(positions))

    def light(self, positions: NDArray[np.int64], down: Bytes) -> NDArray[np.float64]:
        """At once."""
        del down
        return np.zeros(len(positions))


class SeededTraces:
    """The behaviour that a scenario describes.

    Args:
        clients: registered.
    """

    def __init__(self, asked: TracesConfig, seed: int, clients: int) -> None:
        self._asked, self._seed = asked, seed
        self._availability = Availability(seed, clients, asked.availability, asked.hour, asked.time_zones)
        self._classes = asked.classes or (EVERYBODY,)
        self._kinds = divided(seed, [one.share for one in self._classes[:-1]], clients, "device class")
        self._available: tuple[NDArray[np.bool_], NDArray[np.int64]] | None = None

    def available(self, now: float) -> NDArray[np.int64] | None:
        """As `Traces`."""
        there = self._availability.there(now)
        if there is None:
            return None
        if self._available is None or self._available[0] is not there:
            self._available = there, np.flatnonzero(there)
        return self._available[1]

    def reached(self, now: float, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """As `Traces`."""
        there = self._availability.there(now)
        return np.ones(len(positions), dtype=np.bool_) if there is None else there[positions]

    def training(
        self, positions: NDArray[np.int64], attempt: int, examples: NDArray[np.int64], down: Bytes, up: int
    ) -> NDArray[np.float64]:
        """As `Traces`; the whole answer of a straggler is slow, its lines too."""
        asked, lines = self._asked, self._lines(positions)
        seconds = 2 * lines.latency + down / lines.down + up / lines.up
        seconds += examples / (lines.training * self._speeds(positions))
        if asked.stragglers:
            slow = uniforms(self._seed, positions, "straggler", attempt) < asked.stragglers
            seconds[slow] *= asked.slowdown
        if asked.dropout:
            seconds[uniforms(self._seed, positions, "dropout", attempt) < asked.dropout] = np.inf
        return seconds

    def light(self, positions: NDArray[np.int64], down: Bytes) -> NDArray[np.float64]:
        """As `Traces`."""
        lines = self._lines(positions)
        return 2 * lines.latency + down / lines.down

    def kinds(self, positions: NDArray[np.int64]) -> list[str]:
        """The name of each client's class."""
        return [self._classes[kind].name for kind in self._kinds[positions]]

    def _lines(self, positions: NDArray[np.int64]) -> Lines:
        return Lines.of(self._classes, self._kinds[positions])

    def _speeds(self, positions: NDArray[np.int64]) -> NDArray[np.float64] | float:
        """Log-normal of median 1, by the method of Box and Muller (1958)."""
        if not self._asked.spread:
            return 1.0
        radius = np.sqrt(-2.0 * np.log1p(-uniforms(self._seed, positions, "speed", "radius")))
        angle = 2.0 * np.pi * uniforms(self._seed, positions, "speed", "angle")
        speeds: NDArray[np.float64] = np.exp(self._asked.spread * radius * np.cos(angle))
        return speeds


def traces_of(asked: TracesConfig | None, seed: int, clients: int) -> Traces:
    """The behaviour of so many registered clients."""
    return Instant() if asked is None else SeededTraces(asked, seed, clients)
