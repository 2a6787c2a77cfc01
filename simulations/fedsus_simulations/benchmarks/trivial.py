"""A task that trains nothing: one example, 100,000 parameters, gradients of zero."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from fedsus.plan import Strict
from fedsus.tasks.task import Batch, DataSource, Forward, Shard

PARAMETERS = 100_000


class _Nothing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(PARAMETERS))

    def forward(self, inputs: Tensor) -> Tensor:
        """Zeros, (B,), through which gradients still flow."""
        return 0.0 * inputs * self.weight.sum()


class _Settings(Strict):
    pass


class Trivial:
    """See `fedsus.tasks.task.Task`. What is measured is everything but the training."""

    Settings: ClassVar[type[BaseModel]] = _Settings
    bounds: ClassVar[dict[str, tuple[float, float]]] = {"loss": (0.0, 1.0)}

    def __init__(self, settings: BaseModel) -> None:
        del settings

    def model(self, seed: int) -> nn.Module:
        """A model of zeros, whatever the seed."""
        del seed
        return _Nothing()

    def load(self, source: DataSource) -> Shard:
        """One example; the source is not read."""
        del source
        one = (torch.ones(1), torch.zeros(1))
        return Shard(one, one)

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        """Zeros, (B,)."""
        return model(batch[0])

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        """Zeros, (B, 1)."""
        return model(batch[0]).detach()[:, None]
