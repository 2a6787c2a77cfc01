"""Federated averaging as its papers write it, in bare torch: what the simulator's curves are compared with.

Nothing of fedsus is used: models are averaged in float64, clients are trained one after the other. FedAvg is Algorithm
1 of McMahan et al. 2017, the server of FedAdam Algorithm 2 of Reddi et al. 2021, without bias correction.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn

Data: TypeAlias = tuple[Tensor, Tensor]
"""Inputs (n, ...) float32 and classes (n,) int64."""


@dataclass(frozen=True)
class Recipe:
    """What is done; ``weighted``: a client counts by its examples."""

    rounds: int
    cohort: int
    batch: int
    rate: float
    epochs: int = 1
    server: str = "fedavg"
    server_rate: float = 1.0
    weighted: bool = True
    proximal: float = 0.0

    def with_(self, **changes: object) -> Recipe:
        return replace(self, **changes)  # type: ignore[arg-type]


def curve(start: nn.Module, clients: Sequence[Data], test: Data, recipe: Recipe, seed: int) -> list[float]:
    """Accuracy on ``test`` after each round."""
    draw, found = random.Random(seed), []
    torch.manual_seed(seed)
    model = copy.deepcopy(start)
    first = [torch.zeros_like(p, dtype=torch.float64) for p in model.parameters()]
    second = [torch.full_like(p, 1e-6, dtype=torch.float64) for p in model.parameters()]
    for _ in range(recipe.rounds):
        asked = draw.sample(range(len(clients)), recipe.cohort)
        weights = [len(clients[i][1]) if recipe.weighted else 1 for i in asked]
        mean = [torch.zeros_like(p, dtype=torch.float64) for p in model.parameters()]
        for i, weight in zip(asked, weights, strict=True):
            trained = fitted(model, clients[i], recipe)
            for total, new, old in zip(mean, trained.parameters(), model.parameters(), strict=True):
                total.add_(new.detach().double() - old.detach().double(), alpha=weight / sum(weights))
        with torch.no_grad():
            for p, delta, m, v in zip(model.parameters(), mean, first, second, strict=True):
                if recipe.server == "fedadam":
                    m.mul_(0.9).add_(delta, alpha=0.1)
                    v.mul_(0.99).add_(delta * delta, alpha=0.01)
                    delta = m / (v.sqrt() + 1e-3)  # noqa: PLW2901
                p.add_((recipe.server_rate * delta).float())
            found.append(float((model(test[0]).argmax(dim=1) == test[1]).double().mean()))
    return found


def fitted(model: nn.Module, data: Data, recipe: Recipe) -> nn.Module:
    """One client's copy of the model after its local epochs of plain SGD."""
    mine = copy.deepcopy(model)
    optimizer = torch.optim.SGD(mine.parameters(), lr=recipe.rate)
    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(data[1])).split(recipe.batch):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(mine(data[0][batch]), data[1][batch])
            if recipe.proximal:
                pairs = zip(mine.parameters(), model.parameters(), strict=True)
                loss = loss + recipe.proximal / 2 * sum(((a - b.detach()) ** 2).sum() for a, b in pairs)
            loss.backward()
            optimizer.step()
    return mine
