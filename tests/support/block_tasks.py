"""A small task for blocks of clients: images of nothing in particular, and what can go wrong while they are trained."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional

from fedsus.plan import Strict
from fedsus.tasks.task import Batch, DataSource, Forward, Shard

ROWS, INPUTS, CLASSES = 120, 12, 3
BAD = 99.0
"""First input of an example whose loss is not finite."""


class BlockSettings(Strict):
    """What goes wrong.

    Attributes:
        orders: file that says what happens to a process that trains: "once": the first that reads it is killed;
            "always": each. Nothing where it is not there.
        bad: rows whose loss is not finite; row r belongs to whom the partition says.
        stackable: whether the model can be.
        dropout: of the hidden layer; not stackable either.
    """

    orders: str = ""
    bad: int = 0
    stackable: bool = True
    dropout: float = 0.0


class Scaled(nn.Module):
    """A layer of one's own, with a parameter: no other model can share the call."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Blocks:
    """Twelve inputs, three classes."""

    Settings: ClassVar[type[BaseModel]] = BlockSettings
    bounds: ClassVar[dict[str, tuple[float, float]]] = {"loss": (0.0, 20.0)}

    def __init__(self, settings: BlockSettings) -> None:
        self.settings = settings

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            last = [] if self.settings.stackable else [Scaled()]
            hidden = [nn.Linear(INPUTS, 8), nn.ReLU(), nn.Dropout(self.settings.dropout)]
            return nn.Sequential(*hidden, nn.Linear(8, CLASSES), *last)

    def load(self, source: DataSource) -> Shard:
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(ROWS, INPUTS, generator=generator)
        y = torch.randint(CLASSES, (ROWS,), generator=generator)
        x[: self.settings.bad, 0] = BAD
        if "rows" in source.options:
            rows = torch.tensor([int(row) for row in source.options["rows"].split()])
            x, y = x[rows], y[rows]
        return Shard((x, y), (x[:0], y[:0]))

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        self._die()
        losses = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return losses * torch.where(batch[0][:, 0] == BAD, float("inf"), 1.0)

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return self.loss(model, batch)[:, None].detach()

    def _die(self) -> None:
        if not self.settings.orders:
            return
        orders = Path(self.settings.orders)
        try:
            said = orders.read_text(encoding="utf-8")
            if said == "once":
                orders.unlink()
        except FileNotFoundError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
