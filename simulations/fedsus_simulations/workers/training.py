"""Blocks of a cohort: the clients that are trained at once, and what becomes of their updates."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Final, Literal, Self

import numpy as np

from fedsus.encoding.mechanisms import mechanism_of
from fedsus.encoding.substitutes import no_update, noised_by_mechanism
from fedsus.errors import Cancelled, ConfigError
from fedsus.protection import ExampleDistributed, ExamplePrivacy
from fedsus.types import LocalUpdates
from fedsus_simulations.scenario.seeding import SeededClient

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus.learning import Trainer
    from fedsus.learning.settings import Compute, TrainSettings
    from fedsus.learning.stacked import StackedTrainer
    from fedsus.learning.stacked_dp import StackedDpSgdTrainer
    from fedsus.learning.stacked_sums import StackedSumsTrainer
    from fedsus.plan import Plan
    from fedsus.rounds.messages import Request
    from fedsus.tasks.task import Shard, Task
    from fedsus.types import LocalUpdate, Ring, Stop
    from fedsus_simulations.clients.population import Population
    from fedsus_simulations.scenario.config import Scenario

Choice = Literal["auto", "stacked", "loop"]
_WORKERS: Final = 2
"""Blocks of a cohort come in multiples of this where it is large enough, so that two workers have the same to do."""
_WORTHWHILE: Final = 8
"""Clients of a block that is made smaller for the sake of more workers: each block costs milliseconds of its own."""
_GENERATOR: Final = Lock()
"""Held by who may seed torch's one generator: the loop trainer does, and whoever makes or tries a model; a stack that
was tried draws nothing from it."""


def never() -> bool:
    """Nobody stops a simulated client; the whole run is stopped."""
    return False


def stack_of(scenario: Scenario, task: Task) -> int:
    """Clients in a block of this scenario."""
    from fedsus.learning.parameters import dimension

    private = (scenario.plan.privacy.unit, scenario.plan.privacy.where) == ("example", "local")
    return scenario.simulation.stack or stack_for(dimension(task.model(0)), scenario.plan.cohort.size, private)


def stack_for(dimension: int, cohort: int, private: bool) -> int:
    """Clients in a block, for a model of ``dimension`` parameters: as many as are quick, in blocks for several workers.

    It knows nothing of how many workers there are, for another block rounds differently.
    """
    from fedsus.learning import stacked, stacked_dp

    best = stacked_dp.best_stack(dimension) if private else stacked.best_stack(dimension)
    together = max(1, min(_WORKERS, cohort // _WORTHWHILE))
    blocks = -(-cohort // best)
    fewer = blocks // together * together
    if fewer and 2 * -(-cohort // fewer) <= 3 * best:
        return -(-cohort // fewer)
    return -(-cohort // (-(-blocks // together) * together))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a block, besides its integers.

    Attributes:
        refused: position of each client that refused, and why; the others answered.
        note: what the user should hear once; empty for nothing.
    """

    refused: dict[int, str]
    note: str = ""


@dataclass(slots=True)
class _Speaking:
    """The noise of whoever is trained now, for a trainer that is made once."""

    client: SeededClient

    def normal(self, size: int) -> NDArray[np.float64]:
        """As `fedsus.types.Noise`."""
        return self.client.normal(size)

    def uniform(self, size: int) -> NDArray[np.float64]:
        """As `fedsus.types.Noise`."""
        return self.client.uniform(size)

    def words(self, size: int) -> NDArray[np.uint64]:
        """As `fedsus.types.Noise`."""
        return self.client.words(size)


@dataclass(slots=True)
class BlockTrainer:
    """Trains blocks of clients, whatever was trained before: their integers depend on seed, plan, model and block.

    A client whose training fails refuses, as its device would; the others of its block do not notice.
    Not for use from two threads at once: make a `twin` for each.

    Args:
        task: what is learned.
        population: whose data.
        compute: processor and threads.
        seed: of the simulation.
        choice: "stacked" or "loop"; "auto" takes the loop trainer where the model cannot be stacked, and says so.
    """

    task: Task
    population: Population
    compute: Compute
    seed: int
    choice: Choice = "auto"
    stop: Stop = never
    _stacked: StackedTrainer | None = field(default=None, init=False)
    _private: StackedDpSgdTrainer | None = field(default=None, init=False)
    _sums: StackedSumsTrainer | None = field(default=None, init=False)
    _loops: dict[str, tuple[Trainer, _Speaking]] = field(default_factory=dict, init=False)
    _tried: bool = field(default=False, init=False)
    _note: str = field(default="", init=False)

    def twin(self, stop: Stop) -> Self:
        """Another one that trains alike, for another thread."""
        return replace(self, stop=stop)

    def total(self, request: Request, positions: Sequence[int]) -> tuple[Ring, Outcome]:
        """The sum of a block's integers mod 2**bits, (size,) uint32."""
        mechanism = mechanism_of(request.plan)
        total = np.zeros(mechanism.size, dtype=np.uint32)
        updates, clients, outcome = self.updates(request, positions)
        if updates is not None:
            mechanism.add_to(total, updates, clients)
        return total, outcome

    def rings(self, request: Request, positions: Sequence[int]) -> tuple[NDArray[np.uint32], Outcome]:
        """The integers of each client of a block that did not refuse, (m, size) uint32, in order."""
        mechanism = mechanism_of(request.plan)
        updates, clients, outcome = self.updates(request, positions)
        if updates is None:
            return np.zeros((0, mechanism.size), dtype=np.uint32), outcome
        return mechanism.encode_all(updates, clients), outcome

    def updates(
        self, request: Request, positions: Sequence[int]
    ) -> tuple[LocalUpdates | None, list[SeededClient], Outcome]:
        """What a block's clients propose, in the order of ``positions``, the noise of each, and who refuses; None where
        all do.

        Raises:
            ConfigError: the stacked trainer was chosen by name, and cannot train this.
        """
        failed = ""
        if request.plan.purpose == "train" and self.choice != "loop" and not self._note:
            try:
                with nullcontext() if self._tried else _GENERATOR:
                    updates, clients = self._together(request, positions)
                self._tried = True
                return updates, clients, Outcome({})
            except Cancelled:
                raise
            except Exception as error:  # one client's failure must not be its block's: who it is shows one by one
                self._stacked, self._private, self._sums, self._tried = None, None, None, False
                self._give_up(error)
                failed = f"a block was trained one client after the other, because its stack failed: {_line(error)}"
        with _GENERATOR:
            found, clients, refused = self._one_by_one(request, positions)
        return found, clients, Outcome(refused, self._note or ("" if refused else failed))

    def _together(self, request: Request, positions: Sequence[int]) -> tuple[LocalUpdates, list[SeededClient]]:
        from fedsus.learning.stacked import StackedTrainer
        from fedsus.learning.stacked_dp import StackedDpSgdTrainer
        from fedsus.learning.stacked_sums import StackedSumsTrainer

        plan, settings, model = request.plan, _settings(request.plan), request.model
        shards = [self.population.shard(position) for position in positions]
        clients = [self._client(position) for position in positions]
        seeds = [client(plan) for client in clients]
        match plan.privacy:
            case ExamplePrivacy():
                if self._private is None:
                    self._private = StackedDpSgdTrainer(self.task, self.compute)
                return self._private.train_stack(model, shards, settings, clients, self.stop), clients
            case ExampleDistributed():
                from fedsus.learning.stacked_sums import StackedSumsTrainer

                if self._sums is None:
                    self._sums = StackedSumsTrainer(self.task, self.compute)
                return self._sums.train_stack(model, shards, settings, clients, self.stop), clients
        if self._stacked is None:
            self._stacked = StackedTrainer(self.task, self.compute)
        measure = bool(plan.metrics)
        return self._stacked.train_stack(model, shards, settings, seeds, self.stop, measure=measure), clients

    def _one_by_one(
        self, request: Request, positions: Sequence[int]
    ) -> tuple[LocalUpdates | None, list[SeededClient], dict[int, str]]:
        found: list[LocalUpdate] = []
        clients: list[SeededClient] = []
        refused: dict[int, str] = {}
        one = self._trained if request.plan.purpose == "train" else self._evaluated
        for position in positions:
            client = self._client(position)
            try:
                found.append(one(request, self.population.shard(position), client))
            except Cancelled:
                raise
            except Exception as error:  # as a device: the task is the user's code
                if not noised_by_mechanism(request.plan):
                    refused[position] = _line(error)
                    continue
                found.append(no_update(request.plan))
            clients.append(client)
        if not found:
            return None, clients, refused
        measured = len(request.plan.metrics)
        return (
            LocalUpdates(
                np.stack([update.delta for update in found]),
                np.array([update.weight for update in found]),
                np.stack([update.totals[:measured] for update in found]),
                np.array([update.held_out if measured else 0 for update in found], dtype=np.int64),
                found[0].event,
            ),
            clients,
            refused,
        )

    def _trained(self, request: Request, shard: Shard, client: SeededClient) -> LocalUpdate:
        plan = request.plan
        trainer = self._loop(plan, client)
        (update,) = trainer.train(request.model, [shard], _settings(plan), [client(plan)], self.stop)
        return update

    def _loop(self, plan: Plan, client: SeededClient) -> Trainer:
        """The loop trainer for a plan, with the noise of a client."""
        from fedsus.learning import trainer_for

        kind = type(plan.privacy).__name__
        if kind not in self._loops:
            speaking = _Speaking(client)
            self._loops[kind] = (trainer_for(self.task, plan.privacy, self.compute, speaking), speaking)
        trainer, speaking = self._loops[kind]
        speaking.client = client
        return trainer

    def _evaluated(self, request: Request, shard: Shard, client: SeededClient) -> LocalUpdate:
        from fedsus.learning import evaluation
        from fedsus.learning.parameters import load_into
        from fedsus.types import LocalUpdate

        del client
        module = self.task.model(0)
        load_into(module, request.model)
        sums = evaluation.totals(self.task, module, shard.held_out)
        return LocalUpdate(np.zeros(0, dtype=np.float32), 0.0, sums, len(shard.held_out[0]), None)

    def _give_up(self, error: Exception) -> None:
        """If the model cannot be stacked, the loop trainer trains from now on, and the user is told."""
        from fedsus.learning.stacked import NotStackable

        if not isinstance(error, NotStackable):
            return
        if self.choice == "stacked":
            raise ConfigError(f'simulation.trainer = "stacked": {error}; or choose "auto" or "loop"') from None
        self._note = f"clients are trained one after the other: {error}"

    def _client(self, position: int) -> SeededClient:
        return SeededClient(self.seed, self.population.names[position])


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _settings(plan: Plan) -> TrainSettings:
    from fedsus.learning import settings

    return settings.TrainSettings(plan.training, plan.privacy, plan.round, plan.rounds)
