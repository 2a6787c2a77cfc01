"""Models and losses that look alike on a few examples of two clients, and are not in training: refused all the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from points import Points, mlp, settings, shards, train
from torch import Tensor, nn
from torch.nn import functional

from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute
from fedsus.learning.stacked import NotStackable, StackedTrainer
from fedsus.tasks.task import Batch, Forward, Shard


class Before(nn.Module):
    """Something that is done before a linear layer."""

    def __init__(self, then: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.then, self.count, self.last = nn.Linear(2, 2), then, 0, torch.zeros(2)
        self.register_buffer("seen", torch.zeros(2))
        self.generator = torch.Generator()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.then(self, x))


def counted(self: Any, x: Tensor) -> Tensor:
    self.count += 1
    return x if self.count < 100 else 2 * x


def slowly(self: Any, x: Tensor) -> Tensor:
    self.seen += 1e-6
    return x + self.seen


def replaced(self: Any, x: Tensor) -> Tensor:
    self.last = 1e-6 + self.last
    return x + self.last


def own_noise(self: Any, x: Tensor) -> Tensor:
    return x + 1e-6 * torch.randn(x.shape, generator=self.generator)


MODELS: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "branches on a value": (lambda _, x: 2 * x if x.max() > 1e6 else x, r"reads values of tensors \(bool\)"),
    "asks for a number": (lambda _, x: x * max(1, int(x.abs().sum() / 1e6)), r"reads values of tensors \(int\)"),
    "looks for a value": (lambda _, x: 2 * x if 7.25 in x else x, r"reads values of tensors \(contains\)"),
    "compares tensors": (lambda _, x: 2 * x if torch.equal(x[0], x[-1]) else x, r"reads values of tensors \(equal\)"),
    "chooses by all values": (lambda _, x: torch.where(x.amax() > 100, 2 * x, x), "depends on the examples"),
    "mixes hardly": (lambda _, x: x + 1e-6 * x.mean(0), "depends on the examples"),
    "mixes many": (lambda _, x: x + 1e-2 * x.mean(0) if len(x) > 6 else x, "depends on the examples"),
    "another with many": (lambda _, x: 2 * x if len(x) > 6 else x, "or on their number"),
    "seldom drops": (lambda _, x: functional.dropout(x, 1e-3), "draws at random"),
    "seldom, by Python": (lambda _, x: 2 * x if random.random() < 1e-9 else x, "draws at random"),
    "seldom, by NumPy": (lambda _, x: 2 * x if np.random.rand() < 1e-9 else x, "draws at random"),  # noqa: NPY002
    "a generator of its own": (own_noise, r"'model' \(generator\) changes with each loss"),
    "counts": (counted, r"'model' \(count\) changes with each loss"),
    "changes a buffer": (slowly, r"'model' \(_buffers\) changes with each loss"),
    "keeps a tensor": (replaced, r"'model' \(last\) changes with each loss"),
}


@pytest.mark.parametrize(("then", "reason"), MODELS.values(), ids=MODELS)
def test_a_model_that_is_another_in_training_is_refused(then: Any, reason: str) -> None:
    with pytest.raises(NotStackable, match=rf"^task 'Points': the model cannot be stacked: .*{reason}.*loop trainer$"):
        train(lambda: Before(then))


def test_what_is_made_once_and_kept_is_no_memory() -> None:
    def table(self: Any, x: Tensor) -> Tensor:
        if "table" not in vars(self):
            self.table = torch.ones(2)
        return x * self.table

    assert train(lambda: Before(table)).deltas.any()


class Losses(Points):
    """The loss, changed."""

    def __init__(self, change: Callable[[Any, Tensor, Forward, Batch], Tensor], alone: bool = False) -> None:
        super().__init__(mlp)
        self._change, self._alone, self.count = change, alone, 0

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        found = super().loss(model, batch)
        return found if self._alone else self._change(self, found, model, batch)

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        found = super().loss(model, batch)
        return (self._change(self, found, model, batch) if self._alone else found)[:, None]


def penalised(_: Any, found: Tensor, model: Any, batch: Batch) -> Tensor:
    return found + 1e-6 * torch.stack([p.square().sum() for p in model.parameters()]).sum()


def balanced(_: Any, found: Tensor, model: Any, batch: Batch) -> Tensor:
    """By the classes of the batch: no difference while each client has one of its own."""
    return found / torch.bincount(batch[1], minlength=2)[batch[1]]


def warming(self: Any, found: Tensor, model: Any, batch: Batch) -> Tensor:
    self.count += 1
    return found * min(1.0, self.count * 1e9)


LOSSES: dict[str, tuple[Any, str]] = {
    "penalty": (penalised, "asks for all parameters"),
    "balanced": (balanced, "depends on the examples"),
    "warming": (warming, r"task 'Losses' \(count\) changes with each loss"),
}


@pytest.mark.parametrize(("change", "reason"), LOSSES.values(), ids=LOSSES)
def test_a_loss_that_is_another_in_training_is_refused(change: Any, reason: str) -> None:
    data = [Shard((s.train[0], torch.full_like(s.train[1], i)), s.held_out) for i, s in enumerate(shards(9, 9))]
    task = Losses(change)
    with pytest.raises(NotStackable, match=reason):
        StackedTrainer(task, Compute("cpu")).train_stack(flatten(mlp()), data, settings(), [1, 2], lambda: False)


@pytest.mark.parametrize(
    "change", [lambda _, found, *__: found.mean().expand(len(found)), lambda _, found, *__: found * len(found)]
)
def test_a_measure_of_a_whole_batch_is_refused(change: Any) -> None:
    """Its sum is right for one client, and not for many together."""
    trainer = StackedTrainer(Losses(change, alone=True), Compute("cpu"))
    with pytest.raises(NotStackable, match="its measure for one client depends on the examples of others"):
        trainer.train_stack(flatten(mlp()), shards(9, 5), settings(), [1, 2], lambda: False)
    without = trainer.train_stack(flatten(mlp()), shards(9, 5), settings(), [1, 2], lambda: False, measure=False)
    assert without.deltas.any()


def test_hooks_of_parameters_and_other_forward_passes_are_refused() -> None:
    def hooked() -> nn.Module:
        module = nn.Linear(2, 2)
        module.weight.register_hook(lambda grad: grad.clamp(-1e3, 1e3))
        return module

    def patched() -> nn.Module:
        module = nn.Sequential(nn.Linear(2, 2))
        module[0].forward = lambda x: functional.linear(x, module[0].weight).clamp(max=1e3)  # type: ignore[arg-type, method-assign]
        return module

    with pytest.raises(NotStackable, match="parameter 'weight' has hooks"):
        StackedTrainer(Points(hooked), Compute("cpu"))
    with pytest.raises(NotStackable, match=r"'0' \(Linear\) has hooks, a forward pass"):
        StackedTrainer(Points(patched), Compute("cpu"))


def test_examples_that_are_not_finite_show_nothing() -> None:
    """What is refused is refused though the first rows are broken."""
    data = shards(9, 9)
    for shard in data:
        shard.train[0][::4] = float("nan")
    with pytest.raises(NotStackable, match="depends on the examples"):
        train(lambda: Before(lambda _, x: x + 0.01 * x.nan_to_num().mean(0)), data)


def test_a_word_below_zero_is_refused_as_by_the_loop_trainer() -> None:
    """Torch counts it from the end where it is an index: the last word, or that of another client."""

    class Words(Points):
        def loss(self, model: Forward, batch: Batch) -> Tensor:
            return model(batch[0]).mean((1, 2))

    data = [Shard((torch.arange(40).view(20, 2) % 3,), (torch.zeros(1, 2, dtype=torch.long),)) for _ in range(2)]
    data[1].train[0][7] = -1
    trainer = StackedTrainer(Words(lambda: nn.Embedding(3, 2)), Compute("cpu"))
    with pytest.raises(RuntimeError, match="out of range"):
        trainer.train_stack(np.zeros(6, dtype=np.float32), data, settings(), [1, 2], lambda: False)
