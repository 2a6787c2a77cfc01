"""A task for tests: its training takes as long as a file, the gate, is there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from fedsus.plan import Strict
from fedsus.tasks.task import Batch, DataSource, Forward, Shard

PARAMETERS = 4


class _Settings(Strict):
    pass


class Gated:
    """A batch takes a second while the gate, the source's path, exists; ``<gate>.seen`` says that one began."""

    Settings: ClassVar[type[BaseModel]] = _Settings
    bounds: ClassVar[dict[str, tuple[float, float]]] = {"loss": (0.0, 10.0)}

    def __init__(self, settings: BaseModel) -> None:
        del settings
        self._gate: Path | None = None

    def model(self, seed: int) -> nn.Module:
        del seed
        linear = nn.Linear(PARAMETERS - 1, 1)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        return linear

    def load(self, source: DataSource) -> Shard:
        self._gate = source.path
        one = (torch.ones(1, PARAMETERS - 1), torch.ones(1))
        return Shard(one, one)

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        if self._gate is not None and self._gate.exists():
            self._gate.with_name(f"{self._gate.name}.seen").touch()
            time.sleep(1.0)  # the work of this task
        return (model(batch[0])[:, 0] - batch[1]) ** 2

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return self.loss(model, batch)[:, None]
