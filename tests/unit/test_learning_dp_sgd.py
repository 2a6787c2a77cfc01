"""The sum of clipped gradients against one backward pass an example, and what the trainer refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsus import plan
from fedsus.errors import ConfigError
from fedsus.learning.dp_sgd import DpSgdTrainer
from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.privacy.noise import SeededNoise
from fedsus.tasks.task import Batch, DataSource, Forward, Shard

CLIP = 0.3


class Frozen(nn.Module):
    """A layer that is frozen and one that the loss does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.ReLU(), nn.Flatten())
        self.frozen = nn.Linear(108, 10).requires_grad_(False)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(10, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.frozen(self.body(inputs))))
        return logits


class Digits:
    Settings = BaseModel
    bounds = {"loss": (0.0, 5.0)}  # noqa: RUF012

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Frozen()

    def load(self, source: DataSource) -> Shard:
        raise NotImplementedError

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1], reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return self.loss(model, batch)[:, None]


class Silent:
    """No noise; every uniform draw is 0, so that every example is chosen."""

    def normal(self, size: int) -> NDArray[np.float64]:
        return np.zeros(size)

    def uniform(self, size: int) -> NDArray[np.float64]:
        return np.zeros(size)

    def words(self, size: int) -> NDArray[np.uint64]:
        return np.zeros(size, dtype=np.uint64)


def shard() -> Shard:
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(12, 1, 8, 8, generator=generator), torch.randint(4, (12,), generator=generator)
    inputs[3] *= 0.01
    inputs[5, 0, 2, 2] = float("nan")
    return Shard((inputs, targets), (inputs[:0], targets[:0]))


def settings(**training: str) -> TrainSettings:
    privacy = plan.ExamplePrivacy(
        epsilon=8.0, delta=1e-5, clip=CLIP, sampling_rate=0.5, steps=1, denominator=6.0, noise_multiplier=1.0
    )
    chosen = plan.Training(optimizer=plan.Optimizer(learning_rate=1.0), **training)  # type: ignore[arg-type]
    return TrainSettings(chosen, privacy, 1, 1)


def delta(trainer: DpSgdTrainer, data: Shard) -> NDArray[np.float32]:
    return next(trainer.train(flatten(Digits().model(0)), [data], settings(), [0], lambda: False)).delta


def by_hand(data: Shard) -> NDArray[np.float64]:
    """One backward pass an example; one that is not finite counts as zero."""
    task, module, total = Digits(), Digits().model(0), 0.0
    trainable = [p for p in module.parameters() if p.requires_grad]
    for row in range(len(data.train[0])):
        loss = task.loss(module, tuple(t[row : row + 1] for t in data.train)).sum()
        found = torch.autograd.grad(loss, trainable, allow_unused=True, materialize_grads=True)
        gradient = torch.cat([g.reshape(-1) for g in found]).double().numpy()
        if np.isfinite(gradient).all():
            total = total + gradient * min(1.0, CLIP / np.linalg.norm(gradient))
    return np.asarray(total)


@pytest.mark.parametrize("chunk", [1 << 22, 1])
def test_sum_of_clipped_gradients(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr("fedsus.learning.clipped_sums._CHUNK", chunk)
    found = delta(DpSgdTrainer(Digits(), Compute("cpu"), Silent()), shard())
    expected = -by_hand(shard()) / 6
    assert np.linalg.norm(expected) > 0.05
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


class Cancelling:
    """A linear score whose terms cancel: its sign is the rounding error of their sum, and with it the gradient."""

    Settings = BaseModel
    bounds = {"loss": (0.0, 5.0)}  # noqa: RUF012

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def model(self, seed: int) -> nn.Module:
        del seed
        return nn.Linear(33, 1, bias=False)

    def load(self, source: DataSource) -> Shard:
        raise NotImplementedError

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        self.seen.add(len(batch[0]))
        return torch.nn.functional.softplus(model(batch[0])[:, 0])

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return self.loss(model, batch)[:, None]


def test_one_row_more_does_not_change_the_gradients_of_the_others() -> None:
    """Not even for a model made for it: with batches as they came, one row moved this sum by 1.7 clips."""
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(40, 33, generator=generator)
    task = Cancelling()
    trainer = DpSgdTrainer(task, Compute("cpu", 1), Silent())
    some = rows[:12].double()
    wanted = torch.randn(33, generator=generator).double() * 1e9
    weights = wanted - some.T @ torch.linalg.solve(some @ some.T, some @ wanted)
    trainer._flat.load(weights.float())
    sums = [trainer._sums.sum((rows,), np.arange(count), 1.0) for count in range(41)]
    steps = [np.linalg.norm(after - before) for before, after in itertools.pairwise(sums)]
    assert max(steps) <= 1 + 1e-9
    assert max(steps) > 0.5, "the rows do count"
    assert {16, 32, 48} <= task.seen and not any(count % 16 for count in task.seen)


def test_a_pass_that_failed_leaves_nothing_behind() -> None:
    task = Digits()
    trainer = DpSgdTrainer(task, Compute("cpu"), Silent())
    right = delta(trainer, shard())

    def broken(model: Forward, batch: Batch) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])

    task.loss = broken  # type: ignore[method-assign]
    assert not delta(trainer, shard()).any(), "what fails at examples counts as zero"
    with pytest.raises(ConfigError, match=r"loss has shape \(\) for [0-9]+ examples; it must be one number an example"):
        delta(DpSgdTrainer(task, Compute("cpu"), Silent()), shard())
    del task.loss
    np.testing.assert_array_equal(delta(trainer, shard()), right)


def test_half_precision_is_refused() -> None:
    trainer = DpSgdTrainer(Digits(), Compute("cpu"), SeededNoise(1))
    with pytest.raises(ConfigError, match=r"training\.precision = 'bfloat16': DP-SGD needs 'float32'"):
        next(trainer.train(flatten(Digits().model(0)), [shard()], settings(precision="bfloat16"), [0], lambda: False))


def test_what_mixes_examples_is_refused() -> None:
    class Mixing(Digits):
        def model(self, seed: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, track_running_stats=False))

    with pytest.raises(ConfigError, match=r"task 'Mixing'.*BatchNorm"):
        DpSgdTrainer(Mixing(), Compute("cpu"), SeededNoise(1))
