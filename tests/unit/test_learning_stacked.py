"""The stacked trainer: what it refuses, when it stops, what is the same each time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional

from fedsus import plan
from fedsus.errors import Cancelled, ConfigError
from fedsus.learning.loop import LoopTrainer
from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.learning.stacked import NotStackable, StackedTrainer, best_stack
from fedsus.learning.stacking.batches import by_steps, schedule
from fedsus.tasks.task import Batch, DataSource, Forward, Shard
from fedsus.types import LocalUpdates


class Points:
    """Two numbers in, two classes out."""

    Settings = BaseModel
    bounds = {"loss": (0.0, 20.0)}  # noqa: RUF012

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self._make = make

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self._make()

    def load(self, source: DataSource) -> Shard:
        raise NotImplementedError

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return self.loss(model, batch)[:, None]


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


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2))


def shards(*sizes: int) -> list[Shard]:
    generator = torch.Generator().manual_seed(1)

    def batch(n: int) -> Batch:
        return torch.randn(n, 2, generator=generator), torch.randint(0, 2, (n,), generator=generator)

    return [Shard(batch(n), batch(n + 1)) for n in sizes]


def settings(**training: Any) -> TrainSettings:
    return TrainSettings(plan.Training(**{"batch_size": 4, **training}), plan.NoPrivacy(), 1, 10)


def train(
    make: Callable[[], nn.Module] | StackedTrainer = mlp, data: list[Shard] | None = None, **training: Any
) -> LocalUpdates:
    task = Points(mlp if isinstance(make, StackedTrainer) else make)
    trainer = make if isinstance(make, StackedTrainer) else StackedTrainer(task, Compute("cpu"))
    data = shards(9, 5, 4) if data is None else data
    return trainer.train_stack(flatten(task.model(1)), data, settings(**training), range(len(data)), lambda: False)


NEVER: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a parameter of its own": (Own, r"'model' \(Own\) has trainable parameters of its own"),
    "a changed layer": (lambda: nn.Sequential(Mine(2, 2)), r"'0' \(Mine\) has trainable parameters of its own"),
    "tied parameters": (tied, r"'1\.weight' is the same parameter as '0\.weight'"),
    "dropout": (lambda: nn.Sequential(mlp(), nn.Dropout(0.1)), r"'1' \(Dropout\) drops at random"),
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
    "random": (lambda: Around(lambda self, x: functional.dropout(x, 0.5, self.training)), "or on chance"),
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


@pytest.mark.parametrize("asked", [0, 2])
def test_stops(asked: int) -> None:
    answers = iter([False] * asked + [True] * 9)
    trainer, model = StackedTrainer(Points(mlp), Compute("cpu")), flatten(Points(mlp).model(1))
    with pytest.raises(Cancelled, match="stopped before it was complete"):
        trainer.train_stack(model, shards(9, 5), settings(), [1, 2], lambda: next(answers))
    again = trainer.train_stack(model, shards(9, 5), settings(), [1, 2], lambda: False)
    fresh = StackedTrainer(Points(mlp), Compute("cpu")).train_stack(
        model, shards(9, 5), settings(), [1, 2], lambda: False
    )
    np.testing.assert_array_equal(again.deltas, fresh.deltas)


def test_asks_once_for_each_batch_of_the_longest_client() -> None:
    asked: list[None] = []

    def stop() -> bool:
        asked.append(None)
        return False

    trainer = StackedTrainer(Points(mlp), Compute("cpu"))
    trainer.train_stack(flatten(mlp()), shards(9, 4, 1), settings(local_epochs=2), [1, 2, 3], stop)
    assert len(asked) == 6


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_repeats_bit_for_bit(optimizer: Any) -> None:
    """Whatever the trainer did before, and without a mark on torch's global generator."""
    chosen = {"optimizer": plan.Optimizer(name=optimizer), "local_epochs": 2}
    trainer, state = StackedTrainer(Points(mlp), Compute("cpu")), torch.get_rng_state()
    first = train(trainer, **chosen)
    train(trainer, shards(2, 30), optimizer=plan.Optimizer(momentum=0.9))
    np.testing.assert_array_equal(train(trainer, **chosen).deltas, first.deltas)
    np.testing.assert_array_equal(train(mlp, **chosen).deltas, first.deltas)
    assert torch.equal(state, torch.get_rng_state())


def test_an_earlier_block_is_not_overwritten() -> None:
    trainer = StackedTrainer(Points(mlp), Compute("cpu"))
    first = train(trainer)
    kept = copy.deepcopy(first.deltas)
    train(trainer, local_epochs=3)
    np.testing.assert_array_equal(first.deltas, kept)


def test_one_update_after_the_other() -> None:
    trainer, model, data = StackedTrainer(Points(mlp), Compute("cpu")), flatten(Points(mlp).model(1)), shards(9, 5, 4)
    received = model.copy()
    updates = list(trainer.train(model, data, settings(), [0, 1, 2], lambda: False))
    np.testing.assert_array_equal(np.array([u.delta for u in updates]), train().deltas)
    assert [(u.weight, u.held_out, u.event) for u in updates] == [(9.0, 10, None), (5.0, 6, None), (4.0, 5, None)]
    np.testing.assert_array_equal(model, received)


def test_without_metrics_and_without_clients() -> None:
    trainer, model = StackedTrainer(Points(mlp), Compute("cpu")), flatten(mlp())
    found = trainer.train_stack(model, shards(3, 2), settings(), [1, 2], lambda: False, measure=False)
    assert (found.totals.shape, found.held_out.tolist()) == ((2, 0), [0, 0])
    none = trainer.train_stack(model, [], settings(), [], lambda: False)
    assert (len(none), none.deltas.shape, none.totals.shape) == (0, (0, model.size), (0, 1))


def test_a_client_without_held_out_examples_has_zero_totals() -> None:
    data = shards(4, 3)
    data[0] = Shard(data[0].train, tuple(t[:0] for t in data[0].held_out))
    found = train(data=data)
    assert found.held_out.tolist() == [0, 4]
    assert found.totals[0, 0] == 0 < found.totals[1, 0]


def test_divergence_is_said_as_by_the_loop_trainer() -> None:
    chosen = {"local_epochs": 20, "optimizer": plan.Optimizer(learning_rate=1e9, momentum=0.9, weight_decay=1.0)}
    with pytest.raises(ConfigError) as ours:
        train(**chosen)
    with pytest.raises(ConfigError) as loop:
        list(
            LoopTrainer(Points(mlp), Compute("cpu")).train(
                flatten(mlp()), shards(9), settings(**chosen), [1], lambda: False
            )
        )
    assert str(ours.value) == str(loop.value)


def test_large_but_finite_is_no_divergence() -> None:
    """The sum of all changes overflows, no change does."""

    class Rising(Points):
        def loss(self, model: Forward, batch: Batch) -> Tensor:
            return -model(batch[0]).sum(1)

    data = [Shard((1e28 + s.train[0].abs(), s.train[1]), s.held_out) for s in shards(*[4] * 40)]
    trainer = StackedTrainer(Rising(lambda: nn.Linear(2, 2)), Compute("cpu"))
    model = np.zeros(6, dtype=np.float32)
    chosen = settings(optimizer=plan.Optimizer(learning_rate=1e9))
    deltas = trainer.train_stack(model, data, chosen, range(40), lambda: False).deltas
    assert np.isfinite(deltas).all()
    assert torch.from_numpy(deltas).sum().isinf()


def test_batches_are_those_of_the_loop_trainer() -> None:
    sizes, seeds = [9, 3, 1], [5, 6, 7]
    assert by_steps([3, 9, 1], 4) == [1, 0, 2]
    found: list[list[list[int]]] = [[], [], []]
    for step in schedule(sizes, seeds, 2, 4):
        index, weights = step.index.view(step.live, -1), step.weights.view(step.live, -1)
        for client in range(step.live):
            real = weights[client] > 0
            assert weights[client].sum().item() == pytest.approx(1.0)
            assert len(set(weights[client][real].tolist())) == 1
            found[client].append(index[client][real].tolist())
    for client, (size, seed, first) in enumerate(zip(sizes, seeds, [0, 9, 12], strict=True)):
        shuffle = torch.Generator().manual_seed(seed)
        orders = [torch.randperm(size, generator=shuffle) + first for _ in range(2)]
        assert found[client] == [part.tolist() for order in orders for part in torch.split(order, 4)]


@pytest.mark.parametrize("dimension", [1, 1000, 50_890, 2_000_000_000])
def test_best_stack(dimension: int) -> None:
    assert 1 <= best_stack(dimension) <= 256
    assert best_stack(dimension) >= best_stack(2 * dimension)
