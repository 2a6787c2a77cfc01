"""Scenarios and tasks for tests of populations: a few numbers, no files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from fedsus.config import validate
from fedsus.plan import Strict
from fedsus.tasks.task import Shard
from fedsus_simulations.scenario.config import Scenario

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel
    from torch import Tensor

    from fedsus.tasks.task import Batch, DataSource, Forward

PLAN: dict[str, Any] = {"rounds": 2, "exchange": "clear_sum", "cohort": {"size": 2, "minimum": 1}}


def scenario(seed: int = 1, plan: dict[str, Any] | None = None, **population: Any) -> Scenario:
    """A scenario with this ``[population]``."""
    data = {
        "task": {"name": "toy"},
        "plan": PLAN | (plan or {}),
        "seed": seed,
        "population": {"data": "toy"} | population,
    }
    return validate(data, Scenario, "scenario.toml")


class Toy:
    """Linear on one number; row i holds i, and its class is given."""

    Settings: ClassVar[type[BaseModel]] = Strict
    bounds: Mapping[str, tuple[float, float]] = {"accuracy": (0.0, 1.0)}

    def __init__(self, targets: Tensor, held_out: int = 5) -> None:
        self.targets, self.held_out = targets, held_out

    @classmethod
    def classes(cls, rows: int, classes: int = 10) -> Toy:
        """Balanced classes in a random order."""
        return cls(torch.from_numpy(np.random.default_rng(rows).permutation(np.arange(rows) % classes)))

    def model(self, seed: int) -> nn.Module:
        del seed
        return nn.Linear(1, 2)

    def load(self, source: DataSource) -> Shard:
        del source
        rows, out = len(self.targets), self.held_out
        return Shard(
            (torch.arange(rows, dtype=torch.float32)[:, None], self.targets),
            (torch.full((out, 1), -1.0), torch.zeros(out, dtype=self.targets.dtype)),
        )

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return (model(batch[0]).argmax(1) == batch[1]).float()[:, None]


class ToyGroups(Toy):
    """The same rows, in groups of given sizes, with one more of each held out."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__(torch.zeros(sum(sizes.values()), dtype=torch.int64))
        self.sizes = sizes

    def groups(self, source: DataSource) -> Mapping[str, Shard]:
        del source
        return {
            name: Shard(
                (torch.full((size, 1), float(size)), torch.zeros(size, dtype=torch.int64)),
                (torch.full((1, 1), float(-size)), torch.zeros(1, dtype=torch.int64)),
            )
            for name, size in sorted(self.sizes.items())
        }
