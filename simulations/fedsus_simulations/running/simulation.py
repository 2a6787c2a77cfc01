"""A simulated run in a folder: opened from a scenario, run to its end, resumed where it stands."""

from __future__ import annotations

import logging
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from fedsus.errors import ConfigError
from fedsus.journal import NAME, Journal, RoundReleased, get
from fedsus.journal.disk import fault
from fedsus.reporting import read
from fedsus.rounds.planning.specification import open_run, specification_of
from fedsus.rounds.server_half.server import RunLoop, pause_after
from fedsus.tasks import metrics
from fedsus_simulations.clients.attempts import AttemptFile
from fedsus_simulations.clients.fleet import fleet_of
from fedsus_simulations.clients.partitions import population_of
from fedsus_simulations.running.evaluation import Central
from fedsus_simulations.scenario.seeding import Drawn, number, server_noise
from fedsus_simulations.workers.choosing import workers_for
from fedsus_simulations.workers.training import BlockTrainer, stack_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fedsus.config import RunConfig
    from fedsus.rounds.server_half.server import Watch
    from fedsus.tasks.task import Task
    from fedsus.types import Vector
    from fedsus_simulations.clients.blocks import Workers
    from fedsus_simulations.clients.fleet import SimulatedFleet
    from fedsus_simulations.clients.population import Population
    from fedsus_simulations.running.evaluation import Metrics
    from fedsus_simulations.scenario.config import Scenario


@dataclass(slots=True)
class Loader:
    """Loads a scenario's task and clients; the last ones are kept, for another scenario with the same.

    Args:
        root: folder in which data sets lie by name.
        reference: the task's class as ``module:Class``, where the scenario names one of the user's own.
    """

    root: Path
    reference: str | None = None
    _key: tuple[Any, ...] = field(default=(), init=False)
    _found: tuple[Task, Population] | None = field(default=None, init=False)

    def named(self, scenario: Scenario) -> str:
        """The task's name or class."""
        return self.reference or scenario.task.name

    def load(self, scenario: Scenario) -> tuple[Task, Population]:
        """Task and clients.

        Raises:
            ConfigError: the scenario does not fit the task or the data.
            DataError: the data are not there, or broken.
        """
        from fedsus.tasks import registry

        plan = scenario.plan
        measured = bool(plan.metrics) and plan.privacy.unit == "none"  # refused where nobody could measure
        key = (scenario.task, scenario.population, scenario.seed, measured)
        if self._found is None or self._key != key:
            task = registry.build(registry.resolve(self.named(scenario)), scenario.task.settings)
            self._key, self._found = key, (task, population_of(scenario, task, self.root))
        return self._found


@dataclass(slots=True)
class Simulation:
    """What a scenario needs to run: task, clients, workers, fleet.

    Attributes:
        config: what the round loop is given.
        evaluated: round -> metrics of the model after it on the data's test part, of the run under way.
    """

    scenario: Scenario
    task: Task
    population: Population
    workers: Workers
    config: RunConfig
    fleet: SimulatedFleet
    evaluated: dict[int, Metrics] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        scenario: Scenario,
        root: Path,
        reference: str | None = None,
        *,
        loader: Loader | None = None,
        ray: str | None = None,
    ) -> Self:
        """Load the data, start the workers.

        Args:
            root, reference: as `Loader` has them.
            loader: keeps what it loaded from one simulation to the next; None: a fresh one.
            ray: as `fedsus_simulations.workers.choosing.workers_for` has it.

        Raises:
            ConfigError: the scenario does not fit the task, the model or the data.
            DataError: the data are not there, or broken.
        """
        from fedsus.learning.settings import Compute

        loader = loader or Loader(root, reference)
        task, population = loader.load(scenario)
        config = scenario.run_config(len(population.names))
        _check_metrics(scenario, task)
        trainer = BlockTrainer(task, population, Compute("cpu"), scenario.seed, scenario.simulation.trainer)
        workers = workers_for(scenario, trainer, root, loader.named(scenario), ray)
        try:
            fleet = fleet_of(scenario, config, population, workers, stack_of(scenario, task), loader.named(scenario))
        except BaseException:
            workers.close()  # processes that nobody else knows
            raise
        return cls(scenario, task, population, workers, config, fleet)

    def start_model(self) -> Vector:
        """The initial model of the scenario's seed, (d,) float32."""
        from fedsus.learning.parameters import flatten

        return flatten(self.task.model(number(self.scenario.seed, "model") % 2**31))

    def open(self, folder: Path, run: str, start: Vector | None = None) -> None:
        """Open the run, or take up the one in the folder.

        A journal that a crash left empty is begun again, and an attempt that it cut off is forgotten: in a simulation
        nobody was asked. In a deployment it counts as spent, and the run goes on with another draw.

        Raises:
            EnvironmentFault: another process runs it, or the disk is full.
            CorruptionError: the journal was changed.
        """
        if (folder / NAME).exists():
            with Journal.open(folder, time.time) as journal:
                if journal.state.opened is not None:
                    if journal.state.attempt is not None:
                        _without_last_line(folder / NAME)
                    return
                (folder / NAME).unlink()
        start = self.start_model() if start is None else start
        open_run(folder, run, self.config, start, time.time, self.fleet.roster)

    def run(self, folder: Path, run: str, watch: Watch | None = None, start: Vector | None = None) -> Vector:
        """Run from the start, or from where the journal in ``folder`` stands; the final model, (d,) float32.

        Models are evaluated on the data's test part on the way, outside of the rounds' seconds.

        Args:
            watch: told of each round, after its evaluation.
            start: initial model; None makes it from the scenario's seed.

        Raises:
            RunFailed: no attempts are left.
            ConfigError: the folder holds a run of another scenario.
            CorruptionError: the journal or its checkpoint was changed.
        """
        self.open(folder, run, start)
        central = self.central(folder)

        def told(released: RoundReleased, model: Vector) -> None:
            central(released.round, model)
            if watch is not None:
                watch(released, model)

        with quiet():
            loop = RunLoop(
                folder,
                self.fleet,
                clock=time.time,
                sleep=self.fleet.clock.advance,
                draw=Drawn(self.scenario.seed),
                virtual=self.fleet.clock,
                watch=told,
                noise=server_noise(self.scenario.seed),
            )
            self._resume(folder, loop, central)
            with AttemptFile(folder) as attempts:
                self.fleet.note = attempts.append
                return loop.run()

    def central(self, folder: Path) -> Central:
        """The central evaluation of a run in ``folder``."""
        asked, rounds = self.scenario.simulation, self.config.plan.rounds
        self.evaluated.clear()
        return Central(
            self.task, self.population.central, folder, asked.evaluate_every, rounds, asked.threads, self.evaluated
        )

    def close(self) -> None:
        """Stop the workers."""
        self.workers.close()

    def _resume(self, folder: Path, loop: RunLoop, central: Central) -> None:
        """Take up virtual time and central evaluation; the run's folder is locked by now."""
        progress = loop.progress
        if progress.opened is not None:
            opened = specification_of(progress.opened)
            if (opened.config, opened.roster) != (self.config, self.fleet.roster):
                raise ConfigError(f"{folder}: its journal is of another scenario; start a new run")
        times = [getattr(entry, "virtual", None) for entry in read(folder)]
        self.fleet.clock.now = max((time for time in times if time is not None), default=0.0)
        self.fleet.clock.advance(pause_after(loop.abandoned))  # no entry has it
        central.recover()
        round = min(progress.next_round - 1, self.config.plan.rounds)
        central.check(round)
        if progress.checkpoint is not None and central.due(round):
            central(round, get(folder, progress.checkpoint)["model"])


def _check_metrics(scenario: Scenario, task: Task) -> None:
    """Refuse at once what every client would refuse, attempt after attempt."""
    if not metrics.are_of(scenario.plan.metrics, task.bounds):
        raise ConfigError(metrics.for_operator(scenario.task.name, task.bounds))


def _without_last_line(path: Path) -> None:
    data = path.read_bytes()
    try:
        with path.open("r+b") as file:
            file.truncate(data.rfind(b"\n", 0, len(data) - 1) + 1)
            os.fsync(file.fileno())
    except OSError as error:
        raise fault(path, error) from error


class _Errors(logging.Filter):
    """Lets errors through alone."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR


@contextmanager
def quiet() -> Iterator[None]:
    """A client outside a round's cohort refuses the next one's session, which rides on this one's messages: no news.

    With a filter of its own: of two runs in threads, the one that ends last would put back the other's level.
    """
    logger, errors = logging.getLogger("fedsus.device"), _Errors()
    logger.addFilter(errors)
    try:
        yield
    finally:
        logger.removeFilter(errors)
