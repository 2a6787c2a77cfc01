"""Models and shards to compare the stacked DP-SGD trainer with the one that trains client by client."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional

from fedsus import plan
from fedsus.learning.dp_sgd import DpSgdTrainer
from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.learning.stacked_dp import StackedDpSgdTrainer
from fedsus.privacy.noise import SeededNoise
from fedsus.tasks.task import Batch, DataSource, Forward, Shard

TOLERANCE = 1e-5
"""Largest deviation of a delta, as a part of its largest coordinate."""

SIZES = (9, 0, 40, 1, 17)
CLIP = 0.5


class Branches(nn.Module):
    """One layer used twice, one linear layer used twice, and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.mix, self.last, self.unused = nn.Linear(36, 36), nn.Linear(36, 3), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        x = x + torch.tanh(self.again(x + torch.tanh(self.again(x))))
        x = functional.avg_pool2d(x, 2, 2).flatten(1)
        logits: Tensor = self.last(torch.tanh(self.mix(torch.tanh(self.mix(x)))))
        return logits


class Reader(nn.Module):
    """Next token: embedding, normalisation and linear layers on (B, T, ...)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(6, 5), nn.LayerNorm(5)
        self.hidden, self.out = nn.Linear(5, 7), nn.Linear(7, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.tanh(self.hidden(self.norm(self.words(x)))))
        return logits


def halves() -> nn.Module:
    """A frozen layer, a frozen bias beside a trainable weight, and the other way round."""
    module = nn.Sequential(
        *(nn.Flatten(), nn.Linear(72, 9), nn.Tanh(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh()),
        nn.Linear(8, 3),
    )
    module[1].requires_grad_(False)
    module[3].bias.requires_grad_(False)
    module[5].weight.requires_grad_(False)
    return module


MODELS: dict[str, Any] = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 3)),
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.Tanh(), nn.Linear(8, 3)),
    "cnn": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, 5, stride=2, padding=2), nn.GroupNorm(2, 4), nn.Tanh()),
        *(nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), nn.GroupNorm(3, 6), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(24, 3)),
    ),
    "pooled": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, (3, 2)), nn.Tanh(), nn.AvgPool2d(2, 1)),
        *(nn.Conv2d(4, 6, 2, stride=(1, 2), padding=(0, 1)), nn.LayerNorm((6, 2, 3)), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(36, 3)),
    ),
    "grouped": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=2, dilation=2, groups=2), nn.Tanh()),
        *(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Flatten(), nn.Linear(64, 3)),
    ),
    "signal": lambda: nn.Sequential(
        *(nn.Flatten(2), nn.Conv1d(2, 4, 5, stride=3, padding=1), nn.Tanh(), nn.Conv1d(4, 5, 2)),
        *(nn.Flatten(), nn.Linear(55, 3)),
    ),
    "branches": Branches,
    "halves": halves,
}


class Images:
    """Three classes of (2, 6, 6) images."""

    Settings = BaseModel
    bounds = {"loss": (0.0, 20.0)}  # noqa: RUF012

    def __init__(self, make: Any) -> None:
        self._make = make

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module: nn.Module = self._make()
            return module

    def load(self, source: DataSource) -> Shard:
        raise NotImplementedError

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return self.loss(model, batch)[:, None]

    def examples(self, count: int, generator: torch.Generator) -> Batch:
        inputs = torch.randn(count, 2, 6, 6, generator=generator)
        inputs *= torch.rand(count, generator=generator)[:, None, None, None]  # some are clipped, some are not
        return inputs, torch.randint(0, 3, (count,), generator=generator)


class Text(Images):
    """Sequences of 5 tokens; the loss of an example is the mean over its tokens."""

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        logits = model(batch[0][:, :-1])
        return functional.cross_entropy(logits.transpose(1, 2), batch[0][:, 1:], reduction="none").mean(1)

    def examples(self, count: int, generator: torch.Generator) -> Batch:
        return (torch.randint(0, 6, (count, 6), generator=generator),)


def task_of(name: str) -> Images:
    return Text(Reader) if name == "text" else Images(MODELS[name])


def shards(task: Images, sizes: tuple[int, ...] = SIZES) -> list[Shard]:
    generator = torch.Generator().manual_seed(3)
    return [Shard(task.examples(n, generator), task.examples(0, generator)) for n in sizes]


def settings(
    rate: float = 0.3, steps: int = 4, noise: float = 0.5, clip: float = CLIP, **training: Any
) -> TrainSettings:
    privacy = plan.ExamplePrivacy(
        epsilon=8.0, delta=1e-5, clip=clip, sampling_rate=rate, steps=steps, denominator=3.0, noise_multiplier=noise
    )
    return TrainSettings(plan.Training(**training), privacy, 2, 10)


class Recorded(SeededNoise):
    """Tells what was drawn, in order."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.drawn: list[tuple[str, int]] = []

    def normal(self, size: int) -> NDArray[np.float64]:
        self.drawn.append(("normal", size))
        return super().normal(size)

    def uniform(self, size: int) -> NDArray[np.float64]:
        self.drawn.append(("uniform", size))
        return super().uniform(size)

    def words(self, size: int) -> NDArray[np.uint64]:
        self.drawn.append(("words", size))
        return super().words(size)


def compare(task: Images, chosen: TrainSettings, data: list[Shard] | None = None, threads: int = 1) -> float:
    """The largest deviation from the loop trainer; draws, weights and events are compared here."""
    data = shards(task) if data is None else data
    model = flatten(task.model(1))
    noises, others = ([Recorded(seed) for seed in range(len(data))] for _ in range(2))
    expected = []
    for shard, noise in zip(data, others, strict=True):
        loop = DpSgdTrainer(task, Compute("cpu", 1), noise)
        expected += loop.train(model, [shard], chosen, [0], lambda: False)
    state = torch.get_rng_state()
    before = model.copy()
    found = StackedDpSgdTrainer(task, Compute("cpu", threads)).train_stack(model, data, chosen, noises, lambda: False)
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(model, before)
    assert [noise.drawn for noise in noises] == [noise.drawn for noise in others]
    assert found.deltas.dtype == np.float32
    assert found.weights.tolist() == [update.weight for update in expected]
    assert found.totals.shape == (len(data), 0) and not found.held_out.any()
    assert found.event == expected[0].event
    deltas = np.array([update.delta for update in expected])
    assert all(row.any() for row in deltas)
    return float((np.abs(found.deltas - deltas).max(1) / np.abs(deltas).max(1)).max())
