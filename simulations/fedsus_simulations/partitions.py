"""From a data set to a population: the data's own clients, or rows divided among numbered ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedsus.errors import ConfigError
from fedsus.tasks.task import DataSource
from fedsus_simulations.population import Divided, Given, Rows
from fedsus_simulations.seeding import generator

if TYPE_CHECKING:
    from pathlib import Path

    from fedsus.tasks.task import Task
    from fedsus_simulations.population import Population
    from fedsus_simulations.scenario import Scenario


def population_of(scenario: Scenario, task: Task, root: Path) -> Population:
    """The clients of a scenario, with their data.

    Args:
        root: folder in which data sets lie by name.

    Raises:
        ConfigError: the task has no clients of its own, or fewer rows than clients.
        DataError: the data do not fit the task.
    """
    asked = scenario.population
    source = DataSource((root / asked.data).resolve(), dict(asked.options))
    if asked.clients is None:
        from fedsus.tasks.heart import HOSPITALS, shipped

        return Given({name: task.load(DataSource(shipped(name))) for name in HOSPITALS})
    whole = task.load(source)
    if asked.partition != "iid":
        raise ConfigError(f"population.partition = '{asked.partition}': not there yet")
    order = generator(scenario.seed, "partition").permutation(whole.size)
    none = Rows(np.zeros(0, dtype=np.int64), np.zeros(asked.clients + 1, dtype=np.int64))
    return Divided(whole, Rows.of(np.array_split(order, asked.clients)), none)
