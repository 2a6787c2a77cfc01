"""Scenarios of `block_tasks`, and what their blocks give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute
from fedsus.rounds.messages import Request
from fedsus.rounds.planning.specification import specified
from fedsus.tasks import registry
from fedsus_simulations.clients.blocks import Workers, blocks_of
from fedsus_simulations.clients.partitions import population_of
from fedsus_simulations.running.simulation import Simulation
from fedsus_simulations.scenario.config import Scenario
from fedsus_simulations.workers.choosing import workers_for
from fedsus_simulations.workers.training import BlockTrainer

REFERENCE = "block_tasks:Blocks"
CLIENTS, COHORT, STACK = 20, 14, 4
POSITIONS = [3, 0, 19, 7, 8, 1, 12, 5, 18, 2, 11, 10, 6, 15]
BLOCKS = blocks_of(POSITIONS, STACK)


def scenario(folder: Path, simulation: dict[str, Any], settings: dict[str, Any] | None = None, **plan: Any) -> Scenario:
    """A cohort of 14 of 20 clients with six examples each."""
    return Scenario.model_validate(
        {
            "name": "blocks",
            "seed": 5,
            "task": {"name": "blocks", "settings": settings or {}},
            "plan": {
                "rounds": 2,
                "exchange": "clear_sum",
                "cohort": {"size": COHORT, "minimum": 2},
                "training": {"batch_size": 4, "local_epochs": 2},
                **plan,
            },
            "population": {"data": str(folder), "partition": "iid", "clients": CLIENTS},
            "simulation": {"masks": "none", "trainer": "loop", "stack": STACK, **simulation},
        }
    )


def request(asked: Scenario, round: int = 1) -> Request:
    """The plan of a round, for the model of a seed."""
    config = asked.run_config(CLIENTS)
    model = flatten(task_of(asked).model(3))
    plan = specified("blocks", config, len(model)).plan(round, round, model)
    return Request(plan, b"", model)


def task_of(asked: Scenario) -> Any:
    return registry.build(registry.resolve(REFERENCE), asked.task.settings)


def trainer_of(asked: Scenario, root: Path) -> BlockTrainer:
    task = task_of(asked)
    population = population_of(asked, task, root)
    return BlockTrainer(task, population, Compute("cpu"), asked.seed, asked.simulation.trainer)


def workers_of(asked: Scenario, root: Path, ray: str | None = None) -> Workers:
    return workers_for(asked, trainer_of(asked, root), root, REFERENCE, ray)


def released(asked: Scenario, root: Path, folder: Path, workers: Workers | None = None) -> bytes:
    """The model of a whole run, its blocks trained by other workers of the same scenario where some are given."""
    simulation = Simulation.of(asked, root, REFERENCE)
    if workers is not None:
        simulation.fleet.workers = workers
    return simulation.run(folder, "blocks").tobytes()


def summed(workers: Workers, asked: Request) -> tuple[NDArray[np.uint32], set[int]]:
    """The sum of all blocks, and who refused; each block came once."""
    total, refused, blocks = np.zeros(0, dtype=np.uint32), set[int](), list[int]()
    for added in workers.totals(asked, BLOCKS):
        total = added.total + total if total.size else added.total
        refused |= added.refused
        blocks += added.blocks
    assert sorted(blocks) == list(range(len(BLOCKS)))
    return total, refused


def stacked(workers: Workers, asked: Request) -> tuple[NDArray[np.uint32], set[int]]:
    """The integers of all clients in their order, and who refused."""
    made = list(workers.rings(asked, BLOCKS))
    assert len(made) == len(BLOCKS)
    return np.concatenate([each.rings for each in made]), set().union(*(each.refused for each in made))
