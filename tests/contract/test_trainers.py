"""What every trainer must do, whatever it protects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedsus import plan
from fedsus.errors import Cancelled, ConfigError
from fedsus.learning import Trainer, trainer_for
from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.privacy.accounting import dp_sgd_event
from fedsus.privacy.noise import SeededNoise
from fedsus.tasks.task import Batch, DataSource, Forward, Shard


class Separable:
    """Two classes that a line separates."""

    Settings = BaseModel
    bounds = {"loss": (0.0, 10.0), "accuracy": (0.0, 1.0)}  # noqa: RUF012

    def __init__(self, dropout: float = 0.0) -> None:
        self.dropout, self.built = dropout, 0

    def model(self, seed: int) -> nn.Module:
        self.built += 1
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(self.dropout), nn.Linear(8, 1))

    def load(self, source: DataSource) -> Shard:
        raise NotImplementedError

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return binary_cross_entropy_with_logits(model(batch[0])[:, 0], batch[1], reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        logits = model(batch[0])[:, 0]
        loss = binary_cross_entropy_with_logits(logits, batch[1], reduction="none")
        return torch.stack([loss, ((logits > 0) == (batch[1] > 0.5)).float()], dim=1)


PRIVATE = plan.ExamplePrivacy(
    epsilon=8.0, delta=1e-5, clip=1.0, sampling_rate=0.2, steps=8, denominator=24.0, noise_multiplier=0.5
)
UNITS: dict[str, plan.NoPrivacy | plan.ExamplePrivacy] = {"none": plan.NoPrivacy(), "example": PRIVATE}
NAMES = ("sgd", "adam", "adamw", "rmsprop", "adagrad", "nadam", "radam")


def never() -> bool:
    return False


def shard(seed: int = 0, size: int = 120) -> Shard:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size + 40, 4, generator=generator)
    targets = (inputs[:, 0] + inputs[:, 1] > 0).float()
    return Shard((inputs[:size], targets[:size]), (inputs[size:], targets[size:]))


@pytest.fixture(params=["none", "example"])
def unit(request: pytest.FixtureRequest) -> Iterator[str]:
    state = torch.get_rng_state()
    yield request.param
    assert torch.equal(state, torch.get_rng_state()), "a trainer left its mark on torch's global generator"


@pytest.fixture
def make(unit: str) -> Callable[..., Trainer]:
    def build(task: Any = None, seed: int = 3) -> Trainer:
        return trainer_for(task or Separable(), UNITS[unit], Compute("cpu"), SeededNoise(seed))  # type: ignore[arg-type]

    return build


def settings(unit: str, round: int = 1, rounds: int = 10, **training: Any) -> TrainSettings:
    return TrainSettings(plan.Training(**training), UNITS[unit], round, rounds)


def accuracy(task: Separable, model: np.ndarray[Any, Any], batch: Batch) -> float:
    from fedsus.learning.evaluation import owner_report

    return owner_report(task, model, batch)["accuracy"]


def test_learns(unit: str, make: Callable[..., Trainer]) -> None:
    task = Separable()
    trainer, data, model = make(task), shard(), flatten(task.model(1))
    before = accuracy(task, model, data.held_out)
    for number in range(1, 16):
        (update,) = trainer.train(model, [data], settings(unit, number, 15), [number], never)
        model = model + update.delta
    assert accuracy(task, model, data.held_out) > max(before, 0.85)


def test_updates_come_in_order_one_for_each_shard(unit: str, make: Callable[..., Trainer]) -> None:
    model = flatten(Separable().model(1))
    received = model.copy()
    updates = list(make().train(model, [shard(0), shard(1, 60), shard(2)], settings(unit), [1, 2, 3], never))
    assert len(updates) == 3
    np.testing.assert_array_equal(model, received)
    for update in updates:
        assert update.delta.shape == model.shape
        assert update.delta.dtype == np.float32
        assert np.isfinite(update.delta).all()
        assert update.delta.any()
    assert not np.array_equal(updates[0].delta, updates[2].delta)
    updates[0].delta[:] = 0
    assert updates[1].delta.any(), "updates must not share memory"


def test_what_an_update_tells(unit: str, make: Callable[..., Trainer]) -> None:
    task, data = Separable(), shard()
    model = flatten(task.model(1))
    (update,) = make().train(model, [data], settings(unit), [1], never)
    if unit == "none":
        assert update.weight == 120.0
        assert update.held_out == 40
        assert update.event is None
        assert update.totals[1] == pytest.approx(40 * accuracy(task, model, data.held_out))
    else:
        assert (update.weight, update.held_out, update.totals.shape) == (1.0, 0, (0,))
        assert update.event == dp_sgd_event(0.5, 0.2, 8)


def test_repeats_bit_for_bit(unit: str, make: Callable[..., Trainer]) -> None:
    """Also with dropout, which draws from torch's global generator, and whatever was trained before."""
    task = Separable(dropout=0.3)
    model = flatten(task.model(1))
    first, second = make(task), make(task)
    state = torch.get_rng_state()
    if unit == "none":
        list(second.train(model, [shard(5)], settings(unit, optimizer=plan.Optimizer(momentum=0.9)), [9], never))
        torch.rand(3)
    deltas = [next(t.train(model, [shard()], settings(unit), [7], never)).delta for t in (first, second)]
    torch.set_rng_state(state)
    np.testing.assert_array_equal(deltas[0], deltas[1])


def test_the_module_is_built_once(unit: str, make: Callable[..., Trainer]) -> None:
    task = Separable()
    trainer, model = make(task), flatten(task.model(1))
    built = task.built
    for number in range(3):
        list(trainer.train(model, [shard()], settings(unit), [number], never))
    assert task.built == built


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer(unit: str, make: Callable[..., Trainer], name: Any) -> None:
    training = {"optimizer": plan.Optimizer(name=name, learning_rate=0.01, weight_decay=0.01)}
    model = flatten(Separable().model(1))
    (update,) = make().train(model, [shard()], settings(unit, **training), [1], never)
    assert update.delta.any()


def test_stops_at_once_and_between_batches(unit: str, make: Callable[..., Trainer]) -> None:
    trainer, model = make(), flatten(Separable().model(1))
    with pytest.raises(Cancelled):
        list(trainer.train(model, [shard()], settings(unit), [1], lambda: True))
    asked = iter([False, False, True])
    with pytest.raises(Cancelled):
        list(trainer.train(model, [shard()], settings(unit), [1], lambda: next(asked)))
    assert next(asked, None) is None
    assert len(list(trainer.train(model, [shard()], settings(unit), [1], never))) == 1


def test_a_learning_rate_of_zero_changes_nothing(unit: str, make: Callable[..., Trainer]) -> None:
    """The schedule of the round is the one used: a cosine ends at zero."""
    schedule = {"schedule": plan.Schedule(name="cosine")}
    model = flatten(Separable().model(1))
    (last,) = make().train(model, [shard()], settings(unit, 10, 10, **schedule), [1], never)
    assert not last.delta.any()


def test_the_proximal_term_holds_back(unit: str, make: Callable[..., Trainer]) -> None:
    model = flatten(Separable().model(1))
    free, held = (
        next(make().train(model, [shard()], settings(unit, local_epochs=3, proximal=mu), [1], never)).delta
        for mu in (0.0, 5.0)
    )
    assert np.linalg.norm(held) < 0.8 * np.linalg.norm(free)


def test_gradient_clipping_bounds_each_step(unit: str, make: Callable[..., Trainer]) -> None:
    model = flatten(Separable().model(1))
    chosen = settings(unit, batch_size=15, gradient_clip=1e-3)
    (update,) = make().train(model, [shard()], chosen, [1], never)
    assert 0 < np.linalg.norm(update.delta) <= 8 * 0.1 * 1e-3 * (1 + 1e-4)


def test_an_empty_shard_is_answered(unit: str, make: Callable[..., Trainer]) -> None:
    model, full = flatten(Separable().model(1)), shard()
    empty = Shard(tuple(t[:0] for t in full.train), full.held_out)
    (update,) = make().train(model, [empty], settings(unit), [1], never)
    assert update.weight == (0.0 if unit == "none" else 1.0)
    assert update.delta.any() == (unit == "example"), "noise alone under differential privacy"


def test_settings_for_the_other_trainer_are_refused(unit: str, make: Callable[..., Trainer]) -> None:
    other = "example" if unit == "none" else "none"
    with pytest.raises(ConfigError, match=r"privacy\.unit"):
        list(make().train(flatten(Separable().model(1)), [shard()], settings(other), [1], never))


def test_a_model_of_another_size_is_refused(make: Callable[..., Trainer], unit: str) -> None:
    with pytest.raises(ConfigError, match="49 trainable parameters"):
        list(make().train(np.zeros(50, np.float32), [shard()], settings(unit), [1], never))


def test_running_buffers_are_refused(make: Callable[..., Trainer]) -> None:
    class Normed(Separable):
        def model(self, seed: int) -> nn.Module:
            with torch.random.fork_rng():
                return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    with pytest.raises(ConfigError, match=r"'Normed'.*'1' \(BatchNorm1d\).*GroupNorm"):
        make(Normed())


def test_the_privacy_part_decides_who_trains() -> None:
    for unit, name in (("none", "LoopTrainer"), ("example", "DpSgdTrainer")):
        trainer = trainer_for(Separable(), settings(unit).privacy, Compute("cpu"), SeededNoise(1))  # type: ignore[arg-type]
        assert type(trainer).__name__ == name
