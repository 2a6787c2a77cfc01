"""Tasks of an owner whose code fails, each in its own place; one example, two parameters."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from fedsus.plan import Strict
from fedsus.tasks.task import Batch, DataSource, Forward, Shard

SECRET = "row 17: Jane"


class _Settings(Strict):
    pass


class Sound:
    """Trains: the loss is the distance of the output from 1."""

    Settings: ClassVar[type[BaseModel]] = _Settings
    bounds: ClassVar[dict[str, tuple[float, float]]] = {"loss": (0.0, 10.0)}

    def __init__(self, settings: BaseModel) -> None:
        del settings

    def model(self, seed: int) -> nn.Module:
        del seed
        linear = nn.Linear(1, 1)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        return linear

    def load(self, source: DataSource) -> Shard:
        del source
        part = (torch.ones(4, 1), torch.ones(4))
        return Shard(part, part)

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return (model(batch[0])[:, 0] - batch[1]) ** 2

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return self.loss(model, batch)[:, None].detach()


class FailsToStart(Sound):
    def __init__(self, settings: BaseModel) -> None:
        raise OSError(SECRET)


class FailsToBuild(Sound):
    def model(self, seed: int) -> nn.Module:
        raise RuntimeError(SECRET)


class FailsToLoad(Sound):
    def load(self, source: DataSource) -> Shard:
        raise KeyError(SECRET)


class FailsToTrain(Sound):
    def loss(self, model: Forward, batch: Batch) -> Tensor:
        if isinstance(model, nn.Module) and model.training:
            raise ZeroDivisionError(f"{SECRET}\nsecond line")
        return super().loss(model, batch)


class FailsToMeasure(Sound):
    def measure(self, model: Forward, batch: Batch) -> Tensor:
        raise ValueError(SECRET)


class Diverges(Sound):
    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return super().loss(model, batch) * float("nan")


class Normalised(Sound):
    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(super().model(seed), nn.BatchNorm1d(1))
