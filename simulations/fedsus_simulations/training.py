"""Blocks of a cohort: the clients that are trained at once, and what becomes of their updates. One a worker."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from fedsus.encoding.mechanism import FixedPoint
from fedsus.errors import ConfigError
from fedsus.types import LocalUpdates
from fedsus_simulations.seeding import SeededClient

if TYPE_CHECKING:
    from fedsus.learning.stacked import StackedTrainer
    from numpy.typing import NDArray

    from fedsus.learning import Trainer
    from fedsus.learning.settings import Compute, TrainSettings
    from fedsus.plan import Plan
    from fedsus.rounds.messages import Request
    from fedsus.tasks.task import Shard, Task
    from fedsus.types import Ring, Stop
    from fedsus_simulations.population import Population

log = logging.getLogger("fedsus.simulation")

Choice = Literal["auto", "stacked", "loop"]
DEFAULT_STACK: Final = 32


def never() -> bool:
    """Nobody stops a simulated client; the whole run is stopped."""
    return False


@dataclass(slots=True)
class BlockTrainer:
    """Trains blocks of clients, whatever was trained before: their integers depend on seed, plan, model and block.

    Args:
        task: what is learned.
        population: whose data.
        compute: processor and threads.
        seed: of the simulation.
        choice: "stacked" or "loop"; "auto" takes the loop trainer where the model cannot be stacked, and says so once.
    """

    task: Task
    population: Population
    compute: Compute
    seed: int
    choice: Choice = "auto"
    stop: Stop = never
    _stacked: StackedTrainer | None = field(default=None, init=False)
    _loops: dict[str, Trainer] = field(default_factory=dict, init=False)
    _clients: dict[int, SeededClient] = field(default_factory=dict, init=False)
    _refused: bool = field(default=False, init=False)

    def total(self, request: Request, positions: Sequence[int]) -> Ring:
        """The sum of a block's integers mod 2**bits, (size,) uint32."""
        mechanism = FixedPoint(request.plan)
        total = np.zeros(mechanism.size, dtype=np.uint32)
        mechanism.add_to(total, self.updates(request, positions))
        return total

    def rings(self, request: Request, positions: Sequence[int]) -> NDArray[np.uint32]:
        """The integers of each client of a block, (m, size) uint32."""
        mechanism = FixedPoint(request.plan)
        return mechanism.encode_all(self.updates(request, positions), self._client(positions[0]))

    def updates(self, request: Request, positions: Sequence[int]) -> LocalUpdates:
        """What a block's clients propose, in the order of ``positions``.

        Raises:
            ConfigError: training diverged, or the settings do not fit the trainer.
        """
        plan = request.plan
        shards = [self.population.shard(position) for position in positions]
        if plan.purpose == "evaluate":
            return self._evaluated(request, shards)
        clients = [self._client(position) for position in positions]
        seeds = [client(plan) for client in clients]
        stacked = self._stack(plan)
        if stacked is not None:
            return stacked.train_stack(
                request.model, shards, _settings(plan), seeds, self.stop, measure=bool(plan.metrics)
            )
        return self._one_by_one(request, shards, clients, seeds)

    def _one_by_one(
        self, request: Request, shards: Sequence[Shard], clients: Sequence[SeededClient], seeds: Sequence[int]
    ) -> LocalUpdates:
        from fedsus.learning import trainer_for

        plan, found = request.plan, []
        for shard, client, seed in zip(shards, clients, seeds, strict=True):
            key = plan.privacy.unit
            trainer = self._loops.get(key) if key == "none" else None
            if trainer is None:
                trainer = self._loops[key] = trainer_for(self.task, plan.privacy, self.compute, client)
            (update,) = trainer.train(request.model, [shard], _settings(plan), [seed], self.stop)
            found.append(update)
        measured = len(plan.metrics)
        return LocalUpdates(
            np.stack([update.delta for update in found]),
            np.array([update.weight for update in found]),
            np.stack([update.totals[:measured] for update in found]),
            np.array([update.held_out if measured else 0 for update in found], dtype=np.int64),
            found[0].event,
        )

    def _evaluated(self, request: Request, shards: Sequence[Shard]) -> LocalUpdates:
        from fedsus.learning import evaluation
        from fedsus.learning.parameters import load_into

        module = self.task.model(0)
        load_into(module, request.model)
        sums = [evaluation.totals(self.task, module, shard.held_out) for shard in shards]
        held_out = np.array([len(shard.held_out[0]) for shard in shards], dtype=np.int64)
        return LocalUpdates(np.zeros((len(shards), 0), np.float32), np.zeros(len(shards)), np.stack(sums), held_out)

    def _stack(self, plan: Plan) -> StackedTrainer | None:
        """The stacked trainer, if this model can be stacked and nobody chose the loop."""
        if self.choice == "loop" or self._refused:
            return None
        from fedsus.learning.stacked import NotStackable, StackedTrainer

        try:
            if plan.private:
                raise NotStackable("with differential privacy clients are trained one by one")
            if self._stacked is None:
                self._stacked = StackedTrainer(self.task, self.compute)
        except NotStackable as error:
            if self.choice == "stacked":
                raise ConfigError(f'simulation.trainer = "stacked": {error}; use "auto" or "loop"') from None
            self._refused = True
            log.warning("the loop trainer trains one client after the other: %s", error)
        return self._stacked

    def _client(self, position: int) -> SeededClient:
        return self._clients.setdefault(position, SeededClient(self.seed, self.population.names[position]))


def _settings(plan: Plan) -> TrainSettings:
    from fedsus.learning import settings

    return settings.TrainSettings(plan.training, plan.privacy, plan.round, plan.rounds)
