"""Curves of the simulator and of the plain loop, in pairs of one seed, and what makes them equal within seed noise."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from plain_reference import Data, Recipe, curve
from scipy import stats
from torch import Tensor, nn

from fedsus.config import validate
from fedsus.learning.parameters import load_into
from fedsus.plan import Strict
from fedsus.tasks.task import DataSource, Shard
from fedsus_simulations.running.simulation import Simulation
from fedsus_simulations.scenario.config import Scenario

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from pydantic import BaseModel

    from fedsus.tasks.task import Batch, Forward
    from fedsus.types import Vector

INPUTS, KINDS = 20, 10


class Blobs:
    """Ten overlapping clouds of points in 20 dimensions, made up; a small network tells most of them apart."""

    Settings: ClassVar[type[BaseModel]] = Strict
    bounds: Mapping[str, tuple[float, float]] = {"accuracy": (0.0, 1.0)}

    def __init__(self, settings: Strict) -> None:
        del settings

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(INPUTS, 16), nn.ReLU(), nn.Linear(16, KINDS))

    def load(self, source: DataSource) -> Shard:
        del source
        random = np.random.default_rng(11)
        centres = random.normal(0, 0.75, (KINDS, INPUTS))

        def some(rows: int) -> Batch:
            targets = random.integers(0, KINDS, rows)
            points = centres[targets] + random.normal(0, 1, (rows, INPUTS))
            return torch.from_numpy(points.astype(np.float32)), torch.from_numpy(targets)

        return Shard(some(2000), some(1000))

    def groups(self, source: DataSource) -> Mapping[str, Shard]:
        """Ten clients with 100 rows each, and thirty with 5."""
        train = self.load(source).train
        ends = np.cumsum([0, *[100] * 10, *[5] * 30]).tolist()
        none = tuple(tensor[:0] for tensor in train)
        return {
            f"client-{number:02}": Shard(tuple(tensor[start:end] for tensor in train), none)
            for number, (start, end) in enumerate(pairwise(ends))
        }

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return (model(batch[0]).argmax(dim=1) == batch[1]).float()[:, None]


def scenario(task: dict[str, Any], population: dict[str, Any], recipe: Recipe, seed: int) -> Scenario:
    """The scenario that asks for what a recipe does."""
    data = {
        "task": task,
        "seed": seed,
        "plan": {
            "rounds": recipe.rounds,
            "exchange": "clear_sum",
            "cohort": {"size": recipe.cohort, "minimum": recipe.cohort},
            "training": {
                "batch_size": recipe.batch,
                "local_epochs": recipe.epochs,
                "optimizer": {"learning_rate": recipe.rate},
                "proximal": recipe.proximal,
            },
            "strategy": {"name": recipe.server, "learning_rate": recipe.server_rate},
        },
        "population": population,
        "simulation": {"masks": "none"},
    }
    return validate(data, Scenario, "scenario.toml")


def simulated(asked: Scenario, root: Path, folder: Path, reference: str | None = None) -> list[float]:
    """Accuracy after each round of the simulator, on the task's own test part."""
    simulation = Simulation.of(asked, root, reference)
    module, test, found = simulation.task.model(0), tested(simulation, root), []

    def watch(released: object, model: Vector) -> None:
        del released
        load_into(module, model)
        with torch.no_grad():
            found.append(float((module(test[0]).argmax(dim=1) == test[1]).double().mean()))

    simulation.run(folder, "pair", watch)
    simulation.close()
    return found


def plain(asked: Scenario, recipe: Recipe, root: Path, reference: str | None = None) -> list[float]:
    """The same of the plain loop, from the same initial model over the same clients; it does what ``recipe`` says."""
    simulation = Simulation.of(asked, root, reference)
    population, module = simulation.population, simulation.task.model(0)
    load_into(module, simulation.start_model())
    clients = [inputs(population.shard(position).train) for position in range(len(population.names))]
    simulation.close()
    return curve(module, clients, tested(simulation, root), recipe, asked.seed)


def tested(simulation: Simulation, root: Path) -> Data:
    """The central test part; of clients that hold nothing out, the one of their task."""
    central = simulation.population.central
    return inputs(simulation.task.load(DataSource(root)).held_out if central is None else central)


def inputs(batch: Batch) -> Data:
    """What a network takes: images in bytes become (n, 1, 28, 28) float32."""
    first = batch[0]
    return (first.float() / 255.0).unsqueeze(1) if first.dtype == torch.uint8 else first, batch[1]


@dataclass(frozen=True)
class Verdict:
    """Are two sets of curves equal, up to what another seed does?

    The statistic is a curve's mean accuracy over its rounds: how fast it learns and where it ends. Equal: the whole
    99% interval of the mean difference of pairs (Student's t) lies within the noise of a seed, twice the standard
    deviation of the plain loop's statistic over seeds (an equivalence test: a few noisy pairs do not pass).
    """

    difference: float
    interval: tuple[float, float]
    noise: float

    @property
    def equal(self) -> bool:
        return -self.noise < self.interval[0] and self.interval[1] < self.noise

    @property
    def apart(self) -> bool:
        """Whether chance does not explain the difference: the interval leaves out zero."""
        return self.interval[0] > 0 or self.interval[1] < 0

    @classmethod
    def of(cls, simulated: Sequence[Sequence[float]], plain: Sequence[Sequence[float]]) -> Verdict:
        """Of curves of the same seeds."""
        ours, theirs = (np.array([np.mean(one) for one in side]) for side in (simulated, plain))
        gaps: NDArray[np.float64] = ours - theirs
        half = float(stats.t.ppf(0.995, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps)))
        middle = float(gaps.mean())
        return cls(middle, (middle - half, middle + half), 2 * float(theirs.std(ddof=1)))
