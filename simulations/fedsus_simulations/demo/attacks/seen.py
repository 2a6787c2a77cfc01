"""One round of a run, from its clients' data to what its server learns of them, by the code of a deployment.

A device trains (`fedsus.learning.trainer_for`) and encodes (`fedsus.encoding.mechanisms.mechanism_of`). In clear the
server gets those integers. In a secure sum it gets their sum mod 2**bits: masks cancel to the last bit, so they are not
made here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from fedsus.config import RunConfig
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.learning import trainer_for
from fedsus.learning.parameters import dimension
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.privacy.accounting import epsilon
from fedsus.privacy.adversaries import spent
from fedsus.privacy.noise import SeededNoise
from fedsus.rounds.planning.specification import specified

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsus.tasks.fashion import FashionMnist
    from fedsus.tasks.task import Shard
    from fedsus.types import Ring, Vector

RATE: Final = 0.1
"""Learning rate: it scales an update, and is public."""

DELTA: Final = 1e-5

COLLUDERS: Final = 1
"""Where noise is in shares: one more client, which tells the server its integers. What is left of a sum is noised by
the honest clients' shares alone, which is what epsilon counts."""


@dataclass(frozen=True, slots=True)
class Protection:
    """How a run protects its updates; without ``epsilon`` by nothing but the sum.

    Attributes:
        clients: honest ones in the cohort.
        examples: of one client; one local epoch is one step on all of them.
        unit, placement, epsilon, clip: of a run of one round; all of epsilon is spent on what the attacker sees.
    """

    clients: int
    examples: int
    unit: Literal["none", "example", "client"] = "none"
    placement: Literal["local", "distributed"] | None = None
    epsilon: float | None = None
    clip: float = 1.0

    @property
    def asked(self) -> int:
        """Clients in the cohort."""
        return self.clients + (COLLUDERS if self.placement == "distributed" else 0)

    def config(self, task: FashionMnist) -> RunConfig:
        """Its run.toml."""
        privacy: dict[str, Any] = {"unit": self.unit}
        if self.epsilon is not None:
            privacy |= {"placement": self.placement, "epsilon": self.epsilon, "delta": DELTA, "clip": self.clip}
        if self.unit == "example":
            batch = self.examples if self.placement == "local" else self.examples * self.clients
            privacy |= {"sampling_rate": 1.0, "denominator": float(batch)}
        plan = {
            "rounds": 1,
            "spare_attempts": 0,
            "exchange": "clear_sum",
            "secure_sum": {"colluders": COLLUDERS},
            "cohort": {"size": self.asked, "minimum": self.asked},
            "training": {"batch_size": self.examples, "optimizer": {"name": "sgd", "learning_rate": RATE}},
            "encoding": {"weight_cap": self.examples},
            "privacy": privacy,
        }
        named = {"name": "fashion-mnist", "settings": task.settings.model_dump()}
        return RunConfig.model_validate({"name": "attacked", "task": named, "plan": plan})


class Round:
    """The first round of a run: its devices and its server.

    Attributes:
        plan: what its server asks, with the noise that was calibrated.
        task: what is trained.

    Raises:
        ConfigError: no noise reaches the epsilon.
    """

    def __init__(self, task: FashionMnist, protection: Protection, seed: int) -> None:
        config = protection.config(task)
        self.task, self.protection = task, protection
        self.plan = specified("attacked", config, dimension(task.model(0))).first_plan
        self._noise = SeededNoise(seed)
        self._mechanism = mechanism_of(self.plan)
        self._trainer = trainer_for(task, self.plan.privacy, Compute("cpu", 1), self._noise)
        self._settings = TrainSettings(self.plan.training, self.plan.privacy, 1, 1)

    def integers(self, model: Vector, shard: Shard) -> Ring:
        """What one device makes of its data: (size,) uint32, packed in clear, or masked and packed."""
        (update,) = self._trainer.train(model, [shard], self._settings, [0], lambda: False)
        return self._mechanism.encode(replace(update, totals=np.zeros(0), held_out=0), self._noise)

    def total(self, model: Vector, shards: Sequence[Shard]) -> Ring:
        """The sum of some devices' integers mod 2**bits, (size,) uint32."""
        total = np.zeros(self._mechanism.size, dtype=np.uint32)
        for shard in shards:
            total = self.added(total, self.integers(model, shard))
        return total

    def added(self, total: Ring, ring: Ring) -> Ring:
        """Of two vectors of integers the sum mod 2**bits."""
        return (total + ring) & np.uint32((1 << self._mechanism.bits) - 1)

    def without(self, total: Ring, ring: Ring) -> Ring:
        """Of two vectors of integers the difference mod 2**bits."""
        return (total - ring) & np.uint32((1 << self._mechanism.bits) - 1)

    def update(self, total: Ring, clients: int) -> Vector:
        """The mean update that a sum over so many honest clients stands for, (d,) float32."""
        others = self.protection.asked - self.protection.clients  # whose integers the server knows, and took off
        _, mean = self._mechanism.release({}, total, clients + others, self._noise)
        return mean.delta

    def sees(self, model: Vector, shards: Sequence[Shard]) -> Vector:
        """What the server learns of the sum over some clients, (d,) float32."""
        return self.update(self.total(model, shards), len(shards))

    def epsilon(self, delta: float = DELTA) -> float:
        """What the round spends of one example, against its server."""
        return epsilon(spent(self.plan, 1)["example", "server"], delta)
