"""A simulated run in a folder: opened from a scenario, run to its end, resumed where it stands."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from fedsus.errors import ConfigError
from fedsus.rounds.server import RunLoop
from fedsus.rounds.specification import open_run
from fedsus_simulations.fleet import SimulatedFleet
from fedsus_simulations.masked import MaskedClients
from fedsus_simulations.memory import Members, granting
from fedsus_simulations.partitions import population_of
from fedsus_simulations.seeding import Drawn, number
from fedsus_simulations.traces import Instant, VirtualClock
from fedsus_simulations.training import BlockTrainer, stack_of
from fedsus_simulations.workers import workers_for

if TYPE_CHECKING:
    from pathlib import Path

    from fedsus.config import RunConfig
    from fedsus.rounds.server import Watch
    from fedsus.tasks.task import Task
    from fedsus.types import Vector
    from fedsus_simulations.population import Population
    from fedsus_simulations.scenario import Scenario
    from fedsus_simulations.workers import Workers


@dataclass(slots=True)
class Simulation:
    """What a scenario needs to run: task, clients, workers, fleet.

    Attributes:
        config: what the round loop is given.
    """

    scenario: Scenario
    task: Task
    population: Population
    workers: Workers
    config: RunConfig
    fleet: SimulatedFleet
    members: Members | None
    clock: VirtualClock

    @classmethod
    def of(cls, scenario: Scenario, root: Path, reference: str | None = None) -> Self:
        """Load the data, start the workers.

        Args:
            root: folder in which data sets lie by name.
            reference: the task's class as ``module:Class``, where the scenario names one of the user's own.

        Raises:
            ConfigError: the scenario does not fit the task, the model or the data.
            DataError: the data are not there, or broken.
        """
        from fedsus.learning.settings import Compute
        from fedsus.tasks import registry

        reference = reference or scenario.task.name
        task = registry.build(registry.resolve(reference), scenario.task.settings)
        population = population_of(scenario, task, root)
        config = scenario.run_config(len(population.names))
        policy, clock, asked = granting(config), VirtualClock(), scenario.simulation
        trainer = BlockTrainer(task, population, Compute("cpu"), scenario.seed, asked.trainer)
        workers = workers_for(scenario, trainer, root, reference)
        # A client outside a round's cohort refuses the next one's session, which rides on this one's messages.
        logging.getLogger("fedsus.device").setLevel(logging.ERROR)
        secure = config.plan.exchange == "secure_sum"
        members = Members.of(population.names) if secure else None
        fleet = SimulatedFleet(
            population,
            workers,
            policy,
            {config.task.name: reference},
            Instant(),
            clock,
            stack_of(scenario, task),
            None if members is None else MaskedClients(members, policy, time.time),
        )
        return cls(scenario, task, population, workers, config, fleet, members, clock)

    def start_model(self) -> Vector:
        """The initial model of the scenario's seed, (d,) float32."""
        from fedsus.learning.parameters import flatten

        return flatten(self.task.model(number(self.scenario.seed, "model") % 2**31))

    def run(self, folder: Path, run: str, watch: Watch | None = None) -> Vector:
        """Run from the start, or from where the journal in ``folder`` stands; the final model, (d,) float32.

        Raises:
            RunFailed: no attempts are left.
            CorruptionError: the journal or its checkpoint was changed.
        """
        if not folder.exists():
            roster = None if self.members is None else self.members.roster
            open_run(folder, run, self.config, self.start_model(), time.time, roster)
        elif self.members is not None:
            raise ConfigError(f"{folder}: a run with real masks cannot be resumed yet")
        loop = RunLoop(
            folder,
            self.fleet,
            clock=time.time,
            sleep=self.clock.advance,
            draw=Drawn(self.scenario.seed),
            virtual=self.clock,
            watch=watch,
        )
        return loop.run()

    def close(self) -> None:
        """Stop the workers."""
        self.workers.close()
