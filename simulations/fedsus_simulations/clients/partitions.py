"""From a data set to a population: the data's own clients, or rows divided among numbered ones."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from fedsus.errors import ConfigError
from fedsus.tasks.groups import joined
from fedsus.tasks.task import DataSource, Grouped
from fedsus_simulations.clients import datasets, dividing
from fedsus_simulations.clients.population import Divided, Given, Rows, Sampled
from fedsus_simulations.scenario.seeding import generator

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from fedsus.tasks.task import Shard, Task
    from fedsus_simulations.clients.population import Population
    from fedsus_simulations.scenario.config import PopulationConfig, Scenario

log = logging.getLogger("fedsus.simulation")


def population_of(scenario: Scenario, task: Task, root: Path) -> Population:
    """The clients of a scenario, with their data: the same from the same scenario, wherever it is asked.

    Args:
        root: folder in which data sets lie by name.

    Raises:
        ConfigError: the partition does not fit the task or the data; names the field, and the way out.
        DataError: the data are not there, or do not fit the task.
    """
    asked = scenario.population
    if asked.partition == "files":
        return Given.of({name: _file(name, file, asked, task, root) for name, file in asked.files.items()})
    source = DataSource(datasets.find(asked.data, root), dict(asked.options))
    if asked.partition == "groups":
        return _groups(asked, task, scenario.task.name, source)
    if asked.data in datasets.SHIPPED and isinstance(task, Grouped) and source.path == datasets.shipped(asked.data):
        whole = joined(task.groups(source).values())  # its files are its groups
    else:
        whole = task.load(source)
    population = _sampled(scenario, whole) if asked.partition == "sampled" else _divided(scenario, whole)
    if scenario.plan.metrics and scenario.plan.privacy.unit == "none":
        _measurable(asked, population)
    return population


def classes(shard: Shard) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    """The class of each training example as 0 to K - 1, (n,), and the K labels; None where targets are no classes.

    Targets are the second tensor of a batch, one whole number for each example.
    """
    if len(shard.train) < 2 or shard.train[1].ndim != 1:
        return None
    targets = shard.train[1].numpy().astype(np.float64)
    if not (np.isfinite(targets) & (targets == np.rint(targets))).all():
        return None
    labels, codes = np.unique(targets, return_inverse=True)
    return codes.astype(np.int64), labels


def _file(name: str, file: str, asked: PopulationConfig, task: Task, root: Path) -> Shard:
    path = (root / file).resolve()
    if not path.exists():
        raise ConfigError(f"population.files.{name}: {path}: no such file or folder")
    return task.load(DataSource(path, dict(asked.options)))


def _groups(asked: PopulationConfig, task: Task, name: str, source: DataSource) -> Given:
    if not isinstance(task, Grouped):
        raise ConfigError(
            f"population.partition = \"groups\": task '{name}' does not say whose its data are; "
            'choose "iid", "dirichlet", "dirichlet-by-class" or "sampled", with population.clients'
        )
    found = task.groups(source)
    enough = {client: shard for client, shard in found.items() if shard.size >= asked.least}
    if not enough:
        most = max(shard.size for shard in found.values())
        raise ConfigError(
            f"population.least = {asked.least}: no client of {source.path} has so many training examples; "
            f"the largest has {most}"
        )
    if len(enough) < len(found):
        few = len(found) - len(enough)
        log.warning("population.least = %d leaves out %d of %d clients", asked.least, few, len(found))
    return Given.of(enough)


def _divided(scenario: Scenario, whole: Shard) -> Divided:
    asked = scenario.population
    clients, alpha, share = asked.clients or 0, asked.alpha or 0.0, asked.held_out
    rng = generator(scenario.seed, "partition")
    _enough(asked, whole)
    rows: Rows | None
    if asked.partition == "iid":
        rows = dividing.iid(whole.size, clients, rng)
    elif asked.partition == "dirichlet":
        rows = dividing.dirichlet(_labels(asked, whole), clients, alpha, rng)
    else:
        rows = dividing.dirichlet_by_class(_labels(asked, whole), clients, alpha, asked.least, share, rng)
    if rows is None:
        raise ConfigError(
            f"population.alpha = {alpha:g}: in {dividing.REDRAWS} draws some of {clients} clients always had fewer "
            f"than population.least = {asked.least} training examples; raise alpha, ask for fewer clients, or choose "
            'partition = "dirichlet", where all have equally many'
        )
    return Divided.of(whole, *dividing.held_out(rows, share, generator(scenario.seed, "held out")))


def _sampled(scenario: Scenario, whole: Shard) -> Sampled:
    asked = scenario.population
    clients, examples = asked.clients or 0, asked.examples or 0
    if examples > whole.size:
        raise ConfigError(f"population.examples = {examples}: the data have {whole.size} training examples; lower it")
    train = int(dividing.kept(np.array(examples), asked.held_out))
    if train < asked.least:
        raise ConfigError(
            f"population.examples = {examples}: {train} to train on, below population.least = {asked.least}; raise it"
        )
    return Sampled(whole, clients, train, examples - train, scenario.seed)


def _enough(asked: PopulationConfig, whole: Shard) -> None:
    """Refuse equal shares that are too small; a division by class counts its own."""
    clients = asked.clients or 0
    smallest = int(dividing.kept(np.array(whole.size // clients), asked.held_out))
    if smallest >= asked.least:
        return
    most = next((n for n in range(min(clients, whole.size), 0, -1) if _smallest(whole.size // n, asked)), None)
    way_out = f"ask for at most {most}" if most else "lower it"
    raise ConfigError(
        f"population.clients = {clients}: {whole.size} training examples give a client {smallest} to train on, below "
        f'population.least = {asked.least}; {way_out}, or choose partition = "sampled", where clients share examples'
    )


def _smallest(rows: int, asked: PopulationConfig) -> bool:
    return int(dividing.kept(np.array(rows), asked.held_out)) >= asked.least


def _labels(asked: PopulationConfig, whole: Shard) -> NDArray[np.int64]:
    found = classes(whole)
    if found is None or len(found[1]) < 2:
        why = "are no classes" if found is None else "have one class"
        raise ConfigError(
            f'population.partition = "{asked.partition}": the targets of "{asked.data}" {why}, by which examples could '
            'be divided; choose "iid" or "groups"'
        )
    return found[0]


def _measurable(asked: PopulationConfig, population: Divided | Sampled) -> None:
    held_out = population.held_out if isinstance(population, Sampled) else len(population.held_out.rows)
    if held_out:
        return
    raise ConfigError(
        f"plan.metrics: population.held_out = {asked.held_out:g} leaves clients nothing to measure on; raise it, or "
        "leave out plan.metrics: simulation.evaluate_every tests on the data's own test part"
    )
