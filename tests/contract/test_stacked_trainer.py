"""The stacked trainer does what the loop trainer does, for every layer, optimizer and shape of shards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional

from fedsus import plan
from fedsus.learning.loop import LoopTrainer
from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.learning.stacked import StackedTrainer
from fedsus.tasks.task import Batch, DataSource, Forward, Shard
from fedsus.types import Vector

TOLERANCE = 1e-5
"""Largest deviation of a delta, as a part of its largest coordinate."""

SIZES = (7, 1, 12, 3, 8)
"""Of shards, with batches of 4: less than one batch, one example, whole batches, short last batches."""


class Residual(nn.Module):
    """A functional forward with `view`, one layer used twice, and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.last, self.unused = nn.Linear(4 * 3 * 3, 3), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        x = x + torch.tanh(self.again(x))
        x = x + torch.tanh(self.again(x))
        return self.last(functional.max_pool2d(x, 2, 2).view(x.size(0), -1))


class Reader(nn.Module):
    """Next token: embedding, normalisation, linear layers on (B, T, ...); logits (B, T, words)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(6, 5, padding_idx=0), nn.LayerNorm(5)
        self.hidden, self.out = nn.Linear(5, 7), nn.Linear(7, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.hidden(self.norm(self.words(x)))))


class Remembering(nn.Module):
    """Next token by a recurrent layer; the first position also sees the last state of all layers."""

    def __init__(self, kind: type[nn.RNNBase], layers: int, bias: bool = True) -> None:
        super().__init__()
        self.words, self.memory = nn.Embedding(6, 4), kind(4, 5, num_layers=layers, bias=bias, batch_first=True)
        self.out = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        states, last = self.memory(self.words(x))
        end = last[0] if isinstance(last, tuple) else last
        return self.out(states + end.sum(0).unsqueeze(1))


def halves() -> nn.Module:
    """Frozen layers, and a frozen bias beside a trainable weight."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(72, 9), nn.Tanh(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3))
    module[1].requires_grad_(False)
    module[3].bias.requires_grad_(False)
    return module


MODELS: dict[str, Any] = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 3)),
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 3)),
    "in place": lambda: nn.Sequential(
        *(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(inplace=True)),
        nn.Linear(8, 3),
    ),
    "cnn": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, 5, stride=2, padding=2), nn.GroupNorm(2, 4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), nn.GroupNorm(3, 6), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24, 3)),
    ),
    "pooled": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, (3, 2)), nn.ReLU(), nn.MaxPool2d(2, 1)),
        *(nn.Conv2d(4, 6, 2, stride=(1, 2), padding=(0, 1)), nn.LayerNorm((6, 2, 3)), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(36, 3)),
    ),
    "tiled": lambda: nn.Sequential(
        *(
            nn.Conv2d(2, 2, 3, padding="same"),
            nn.Conv2d(2, 4, 1, padding=1),
            nn.Tanh(),
            nn.Conv2d(4, 5, 2, stride=2),
            nn.Tanh(),
        ),
        *(nn.Conv2d(5, 6, 1, stride=(1, 3)), nn.Flatten(), nn.Linear(48, 3)),
    ),
    "grouped": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=2, dilation=2, groups=2), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Flatten(), nn.Linear(64, 3)),
    ),
    "signal": lambda: nn.Sequential(
        *(nn.Flatten(2), nn.Conv1d(2, 4, 5, stride=3, padding=1), nn.Tanh(), nn.Conv1d(4, 5, 2)),
        *(nn.Flatten(), nn.Linear(55, 3)),
    ),
    "residual": Residual,
    "frozen": halves,
}


class Images:
    """Three classes of (2, 6, 6) images, given as bytes."""

    Settings = BaseModel
    bounds = {"loss": (0.0, 20.0), "accuracy": (0.0, 1.0)}  # noqa: RUF012

    def __init__(self, make: Any) -> None:
        self._make = make

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self._make()

    def load(self, source: DataSource) -> Shard:
        raise NotImplementedError

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch[0].float() / 64 - 2), batch[1], reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        logits = model(batch[0].float() / 64 - 2)
        loss = functional.cross_entropy(logits, batch[1], reduction="none")
        return torch.stack([loss, (logits.argmax(1) == batch[1]).float()], dim=1)

    def examples(self, count: int, generator: torch.Generator) -> Batch:
        inputs = torch.randint(0, 256, (count, 2, 6, 6), generator=generator, dtype=torch.uint8)
        return inputs, torch.randint(0, 3, (count,), generator=generator)


class Text(Images):
    """Sequences of 5 tokens; the loss of an example is the mean over its tokens."""

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        logits = model(batch[0][:, :-1])
        return functional.cross_entropy(logits.transpose(1, 2), batch[0][:, 1:], reduction="none").mean(1)

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return self.loss(model, batch)[:, None].expand(-1, 2)

    def examples(self, count: int, generator: torch.Generator) -> Batch:
        return (torch.randint(0, 6, (count, 6), generator=generator),)


READERS: dict[str, Any] = {
    "text": Reader,
    "lstm": lambda: Remembering(nn.LSTM, 1),
    "two lstms": lambda: Remembering(nn.LSTM, 2, bias=False),
    "gru": lambda: Remembering(nn.GRU, 2),
    "rnn": lambda: Remembering(nn.RNN, 1),
}


def task_of(name: str) -> Images:
    return Text(READERS[name]) if name in READERS else Images(MODELS[name])


def shards(task: Images, sizes: tuple[int, ...] = SIZES) -> list[Shard]:
    generator = torch.Generator().manual_seed(3)
    return [Shard(task.examples(n, generator), task.examples(n // 2, generator)) for n in sizes]


def settings(**training: Any) -> TrainSettings:
    return TrainSettings(plan.Training(**{"batch_size": 4, **training}), plan.NoPrivacy(), 2, 10)


def compare(task: Images, chosen: TrainSettings, data: list[Shard] | None = None) -> float:
    """The largest deviation; weights, counts and totals are compared here."""
    data = shards(task) if data is None else data
    model: Vector = flatten(task.model(1))
    seeds = range(5, 5 + len(data))
    expected = list(LoopTrainer(task, Compute("cpu")).train(model, data, chosen, seeds, lambda: False))  # type: ignore[arg-type]
    found = StackedTrainer(task, Compute("cpu")).train_stack(model, data, chosen, seeds, lambda: False)  # type: ignore[arg-type]
    assert found.weights.tolist() == [update.weight for update in expected]
    assert found.held_out.tolist() == [update.held_out for update in expected]
    np.testing.assert_allclose(found.totals, [update.totals for update in expected], rtol=1e-6, atol=1e-6)
    assert found.deltas.dtype == np.float32
    deltas = np.array([update.delta for update in expected])
    assert all(row.any() for row in deltas)
    return float((np.abs(found.deltas - deltas).max(1) / np.abs(deltas).max(1)).max())


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("name", [*MODELS, *READERS])
def test_every_model(name: str, epochs: int) -> None:
    """Text at a larger rate: changes must be large beside the rounding of the values that they are added to."""
    chosen = settings(local_epochs=epochs, optimizer=plan.Optimizer(learning_rate=0.5 if name in READERS else 0.1))
    assert compare(task_of(name), chosen) < TOLERANCE


TRAININGS: dict[str, dict[str, Any]] = {
    "momentum": {"optimizer": plan.Optimizer(momentum=0.9)},
    "nesterov": {"optimizer": plan.Optimizer(momentum=0.9, nesterov=True, weight_decay=0.1)},
    "decay": {"optimizer": plan.Optimizer(weight_decay=0.1)},
    "proximal": {"proximal": 0.7},
    "clip": {"gradient_clip": 0.5},
    "all": {"optimizer": plan.Optimizer(momentum=0.5), "proximal": 0.7, "gradient_clip": 0.5},
    "schedule": {"schedule": plan.Schedule(name="exponential", factor=0.5)},
    "adam and clip": {"optimizer": plan.Optimizer(name="adam", learning_rate=0.01), "gradient_clip": 0.5},
    **{
        name: {"optimizer": plan.Optimizer(name=name, learning_rate=0.01, weight_decay=0.01)}  # type: ignore[arg-type]
        for name in ("adam", "adamw", "rmsprop", "adagrad", "nadam", "radam")
    },
}


@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS)
@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_every_optimizer(name: str, training: dict[str, Any]) -> None:
    assert compare(task_of(name), settings(local_epochs=2, **training)) < TOLERANCE
