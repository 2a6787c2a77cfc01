"""The stacked trainer: when it stops, what is the same each time, what it tells."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from points import Points, mlp, settings, shards, train
from torch import Tensor, nn

from fedsus import plan
from fedsus.errors import Cancelled, ConfigError
from fedsus.learning.loop import LoopTrainer
from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute
from fedsus.learning.stacked import StackedTrainer, best_stack
from fedsus.tasks.task import Batch, Forward, Shard
from fedsus.types import LocalUpdates


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


def test_a_model_of_another_size_is_refused() -> None:
    trainer = StackedTrainer(Points(mlp), Compute("cpu"))
    with pytest.raises(ConfigError, match=r"27 trainable parameters, the vector has shape \(3,\)"):
        trainer.train_stack(np.zeros(3, dtype=np.float32), shards(3), settings(), [1], lambda: False)


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


def test_two_threads_train_as_one() -> None:
    """A trainer for each, made before; both probe, and both leave torch's global generator as it was."""
    model, blocks = flatten(Points(mlp).model(1)), [shards(9, 5, 4), shards(3, 8, 1)]
    trainers = [StackedTrainer(Points(mlp), Compute("cpu")) for _ in range(4)]

    def work(trainer: StackedTrainer, block: list[Shard]) -> list[LocalUpdates]:
        chosen = settings(local_epochs=3)
        return [trainer.train_stack(model, block, chosen, range(len(block)), lambda: False) for _ in range(3)]

    alone = [work(trainer, block) for trainer, block in zip(trainers, blocks, strict=False)]
    state = torch.get_rng_state()
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(work, trainers[2:], blocks))
    assert torch.equal(state, torch.get_rng_state())
    for ours, others in zip(alone, together, strict=True):
        for one, other in zip(ours, others, strict=True):
            np.testing.assert_array_equal(one.deltas, other.deltas)


@pytest.mark.parametrize("dimension", [1, 1000, 50_890, 2_000_000_000])
def test_best_stack(dimension: int) -> None:
    assert 1 <= best_stack(dimension) <= 256
    assert best_stack(dimension) >= best_stack(2 * dimension)
