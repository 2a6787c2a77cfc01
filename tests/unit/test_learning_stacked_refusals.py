"""What the stacked trainer refuses, and what its probe finds out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from points import Points, mlp, settings, shards, train
from torch import Tensor, nn
from torch.nn import functional

from fedsus import plan
from fedsus.errors import ConfigError
from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.learning.stacked import NotStackable, StackedTrainer
from fedsus.tasks.task import Batch, Forward


class Around(nn.Module):
    """A linear layer and whatever is done with its output."""

    def __init__(self, then: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.then = nn.Linear(2, 2), then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self, self.inner(x))


class Own(nn.Module):
    """A parameter outside any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale = nn.Linear(2, 2), nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale


class Mine(nn.Linear):
    """A layer of torch's, changed."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    return module


def hidden() -> nn.Module:
    """A list keeps the plain layer, where no replacement reaches."""
    module = Around(lambda self, x: self.kept[0](x))  # type: ignore[index, operator, union-attr]
    module.other = nn.Linear(2, 2)
    module.kept = [module.other]  # type: ignore[assignment]
    return module


def hooked() -> nn.Module:
    module = nn.Linear(2, 2)
    module.register_forward_hook(lambda _module, _inputs, output: output * 2)
    return module


def uncopied() -> nn.Module:
    """As torch's older weight_norm: a tensor that is computed from parameters."""
    module = Around(lambda _, x: x)
    module.norm = module.inner.weight.norm()  # type: ignore[assignment]
    return module


NEVER: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a parameter of its own": (Own, r"'model' \(Own\) has trainable parameters of its own"),
    "a changed layer": (lambda: nn.Sequential(Mine(2, 2)), r"'0' \(Mine\) has trainable parameters of its own"),
    "tied parameters": (tied, r"'1\.weight' is the same parameter as '0\.weight'"),
    "dropout": (lambda: nn.Sequential(mlp(), nn.Dropout(0.1)), r"'1' \(Dropout\) drops at random"),
    "what is no copy": (uncopied, "it cannot be copied: RuntimeError: Only Tensors"),
    "hooks": (hooked, r"'model' \(Linear\) has hooks"),
    "other padding": (
        lambda: nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"),
        r"'model' \(Conv1d\) pads by 'circular'",
    ),
    "unequal padding": (lambda: nn.Conv1d(2, 2, 4, padding="same"), r"'model' \(Conv1d\) pads one side by more"),
    "renormalised words": (lambda: nn.Embedding(3, 2, max_norm=1.0), r"'model' \(Embedding\) uses max_norm"),
    "bilinear": (lambda: nn.Bilinear(2, 2, 2), r"'model' \(Bilinear\) has trainable parameters of its own"),
}


@pytest.mark.parametrize(("make", "reason"), NEVER.values(), ids=NEVER)
def test_refused_when_made(make: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(
        NotStackable, match=rf"^task 'Points': the model cannot be stacked: {reason}.*use the loop trainer$"
    ):
        StackedTrainer(Points(make), Compute("cpu"))


PROBED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "mixes examples": (lambda: Around(lambda _, x: x - x.mean(0)), "depends on the examples of others"),
    "mixes a little": (lambda: Around(lambda _, x: x + 0.01 * x.flip(0)), "depends on the examples of others"),
    "mixes gradients alone": (
        lambda: Around(lambda _, x: x + (x.mean(0) - x.mean(0).detach())),
        "gradients for one client depend on the examples of others",
    ),
    "random": (lambda: Around(lambda self, x: functional.dropout(x, 0.5, self.training)), "draws at random"),
    "reads a weight": (lambda: Around(lambda self, x: x @ self.inner.weight), "fails on the examples of two clients"),
    "a hidden layer": (hidden, "depends on the examples of others"),
    "a fixed batch": (lambda: Around(lambda _, x: x.view(3, 2)), "fails on the examples|has shape"),
}


@pytest.mark.parametrize(("make", "reason"), PROBED.values(), ids=PROBED)
def test_refused_by_the_probe(make: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(NotStackable, match=reason) as caught:
        train(make)
    assert "\n" not in str(caught.value)
    with pytest.raises(NotStackable, match=reason):
        train(make)


@pytest.mark.parametrize(
    "then", [lambda _, x: x, lambda _, x: x.reshape(len(x), -1), lambda _, x: x[torch.arange(len(x))]]
)
def test_the_probe_lets_pass(then: Callable[[nn.Module, Tensor], Tensor]) -> None:
    assert train(lambda: Around(then)).deltas.any()


def test_a_layer_that_is_wrong_for_one_client_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe is what stands between a mistake in a layer and wrong results."""
    from fedsus.learning.stacking.layers import Linear

    right = Linear.add_gradient

    def wrong(self: Linear, saved: Any, grad: Tensor, *rest: Any) -> None:
        right(self, saved, grad.flip(0), *rest)

    monkeypatch.setattr(Linear, "add_gradient", wrong)
    with pytest.raises(NotStackable, match="gradients for one client"):
        train()


def test_running_buffers_are_refused_as_by_the_loop_trainer() -> None:
    with pytest.raises(ConfigError, match="running buffer 'running_mean'"):
        StackedTrainer(Points(lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))), Compute("cpu"))


def test_a_loss_that_is_one_number_is_refused() -> None:
    class Mean(Points):
        def loss(self, model: Forward, batch: Batch) -> Tensor:
            return super().loss(model, batch).mean()

    trainer = StackedTrainer(Mean(mlp), Compute("cpu"))
    with pytest.raises(NotStackable, match=r"loss has shape \(\)"):
        train(trainer)


def test_settings_that_are_not_for_it() -> None:
    with pytest.raises(NotStackable, match=r"training\.precision = 'bfloat16'.*use the loop trainer"):
        train(precision="bfloat16")
    with pytest.raises(ConfigError, match=r"optimizer\.momentum = 0\.9: 'adam' has none"):
        train(optimizer=plan.Optimizer(name="adam", momentum=0.9))
    with pytest.raises(ConfigError, match=r"optimizer\.nesterov = true: needs name = 'sgd'"):
        train(optimizer=plan.Optimizer(nesterov=True))
    with pytest.raises(ConfigError, match="a shard has no training examples"):
        train(data=shards(3, 0))
    private = plan.ExamplePrivacy(
        epsilon=8.0, delta=1e-5, clip=1.0, sampling_rate=0.2, steps=8, denominator=24.0, noise_multiplier=0.5
    )
    trainer = StackedTrainer(Points(mlp), Compute("cpu"))
    with pytest.raises(ConfigError, match="adds no noise"):
        trainer.train_stack(
            flatten(mlp()), shards(3), TrainSettings(plan.Training(), private, 1, 1), [1], lambda: False
        )
    with pytest.raises(ValueError, match="1 shards and 2 seeds"):
        trainer.train_stack(flatten(mlp()), shards(3), settings(), [1, 2], lambda: False)
