"""A small task for tests of the stacked trainer, its shards and settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional

from fedsus import plan
from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.learning.stacked import StackedTrainer
from fedsus.tasks.task import Batch, DataSource, Forward, Shard
from fedsus.types import LocalUpdates


class Points:
    """Two numbers in, two classes out."""

    Settings = BaseModel
    bounds = {"loss": (0.0, 20.0)}  # noqa: RUF012

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self._make = make

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self._make()

    def load(self, source: DataSource) -> Shard:
        raise NotImplementedError

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return self.loss(model, batch)[:, None]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2))


def shards(*sizes: int) -> list[Shard]:
    generator = torch.Generator().manual_seed(1)

    def batch(n: int) -> Batch:
        return torch.randn(n, 2, generator=generator), torch.randint(0, 2, (n,), generator=generator)

    return [Shard(batch(n), batch(n + 1)) for n in sizes]


def settings(**training: Any) -> TrainSettings:
    return TrainSettings(plan.Training(**{"batch_size": 4, **training}), plan.NoPrivacy(), 1, 10)


def train(
    make: Callable[[], nn.Module] | StackedTrainer = mlp, data: list[Shard] | None = None, **training: Any
) -> LocalUpdates:
    task = Points(mlp if isinstance(make, StackedTrainer) else make)
    trainer = make if isinstance(make, StackedTrainer) else StackedTrainer(task, Compute("cpu"))
    data = shards(9, 5, 4) if data is None else data
    return trainer.train_stack(flatten(task.model(1)), data, settings(**training), range(len(data)), lambda: False)
