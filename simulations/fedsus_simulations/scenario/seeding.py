"""All that is random in a simulation, from one seed: whoever asks, wherever and in whatever order.

Each draw is named (what it is for, which client, which round), so that workers, resumed runs and other orders of
asking see the same. For simulations alone: a deployment's randomness is its devices' own, and is never repeated.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fedsus.privacy.noise import SeededNoise
from fedsus.rounds.device_half.seeds import seeded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedsus.plan import Plan
    from fedsus.rounds.server_half.server import NoiseSource
    from fedsus.types import Member


def number(seed: int, *names: object) -> int:
    """A number of 63 bits for a named purpose."""
    text = "/".join(map(str, (seed, *names))).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(seed: int, *names: object) -> np.random.Generator:
    """A generator of numpy's for a named purpose."""
    return np.random.Generator(np.random.Philox(key=number(seed, *names)))


@dataclass(frozen=True, slots=True)
class Drawn:
    """Chooses cohorts; implements `fedsus.rounds.server_half.secure.Draw`.

    An attempt draws the same from the same members.
    """

    seed: int

    def __call__(self, members: Sequence[Member], size: int, attempt: int) -> Sequence[Member]:
        return random.Random(number(self.seed, "cohort", attempt)).sample(members, size)


def server_noise(seed: int) -> NoiseSource:
    """The server's noise, anew for each round: a run that is resumed draws the same."""
    return lambda plan: SeededNoise(number(seed, "server noise", plan.round))


@dataclass(slots=True)
class SeededClient:
    """One client's order of training, and its noise, which starts anew with each round's order.

    It is both a `fedsus.rounds.device_half.seeds.SeedSource` and a `fedsus.types.Noise`. An abandoned attempt is
    repeated alike.
    """

    seed: int
    client: str
    _round: tuple[int, ...] = field(default=(), init=False)
    _noise: SeededNoise | None = field(default=None, init=False)

    def __call__(self, plan: Plan) -> int:
        self._round, self._noise = (plan.round,), None
        return seeded(self.seed, self.client)(plan)

    def normal(self, size: int) -> NDArray[np.float64]:
        """As `fedsus.types.Noise`."""
        return self._drawn().normal(size)

    def uniform(self, size: int) -> NDArray[np.float64]:
        """As `fedsus.types.Noise`."""
        return self._drawn().uniform(size)

    def words(self, size: int) -> NDArray[np.uint64]:
        """As `fedsus.types.Noise`."""
        return self._drawn().words(size)

    def _drawn(self) -> SeededNoise:
        """Made when first drawn from: 25 us each would be a third of a round without noise of many small clients."""
        if self._noise is None:
            self._noise = SeededNoise(number(self.seed, "noise", self.client, *self._round))
        return self._noise
