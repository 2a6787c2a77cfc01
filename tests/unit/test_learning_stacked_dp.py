"""The stacked DP-SGD trainer draws and trains as the loop trainer does, for many clients at once, or refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stacked_private import (
    MODELS,
    TOLERANCE,
    Images,
    Recorded,
    compare,
    settings,
    shards,
    task_of,
)
from torch import Tensor, nn
from torch.nn import functional

from fedsus import plan
from fedsus.errors import Cancelled, ConfigError
from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.learning.stacked_dp import NotStackable, StackedDpSgdTrainer, best_stack
from fedsus.learning.stacking import clipping, poisson
from fedsus.privacy.accounting import dp_sgd_event
from fedsus.privacy.noise import SeededNoise
from fedsus.tasks.task import Batch, Forward


@pytest.mark.parametrize("noise", [0.5, 1e-9])
@pytest.mark.parametrize("name", [*MODELS, "text"])
def test_every_model(name: str, noise: float) -> None:
    """Without noise to speak of, too: it would hide an error of a few hundredths."""
    task = task_of(name)
    data = [shard for shard in shards(task) if noise > 1e-3 or shard.size > 1]
    assert compare(task, settings(noise=noise), data) < TOLERANCE


TRAININGS: dict[str, dict[str, Any]] = {
    "momentum": {"optimizer": plan.Optimizer(momentum=0.9, nesterov=True, weight_decay=0.1)},
    "proximal and clip": {"proximal": 0.7, "gradient_clip": 0.5},
    "adam": {"optimizer": plan.Optimizer(name="adam", learning_rate=0.01)},
    "schedule": {"schedule": plan.Schedule(name="exponential", factor=0.5)},
}


@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS)
def test_every_kind_of_local_step(training: dict[str, Any]) -> None:
    assert compare(task_of("mlp"), settings(**training)) < TOLERANCE


@pytest.mark.parametrize(("name", "chunk"), [("mlp", 1), ("cnn", 1), ("cnn", 5_000), ("text", 5_000)])
def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch, name: str, chunk: int) -> None:
    monkeypatch.setattr("fedsus.learning.stacked_dp._CHUNK", chunk)
    monkeypatch.setattr(clipping, "_CACHED", chunk)
    monkeypatch.setattr(poisson, "_FEW", 2)
    task = task_of(name)
    assert compare(task, settings(rate=0.6, steps=2), shards(task, (9, 0, 13))) < TOLERANCE


def test_threads_share_the_clients_and_keep_their_draws() -> None:
    threads = torch.get_num_threads()
    try:
        assert compare(task_of("mlp"), settings(), threads=2) < TOLERANCE
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_examples_that_are_not_finite_count_as_zero_for_their_client_alone(bad: float) -> None:
    task = task_of("cnn")
    data = shards(task)
    for client, rows in ((0, slice(0, 1)), (2, slice(1, None, 2)), (3, slice(None))):
        data[client].train[0][rows, 1, 2, 2] = bad
    assert compare(task, settings(rate=0.8), data) < TOLERANCE


@pytest.mark.parametrize("client", [0, 4])
def test_a_client_of_broken_examples_alone_does_not_decide_how_the_others_are_trained(client: int) -> None:
    """The probe would see nothing in them."""
    task = task_of("mlp")
    data = shards(task)
    data[client].train[0][:] = float("nan")
    assert compare(task, settings(), data) < TOLERANCE


def test_batches_that_are_all_empty() -> None:
    task = task_of("mlp")
    assert compare(task, settings(rate=1e-9)) < TOLERANCE
    assert compare(task, settings(), shards(task, (0, 0))) < TOLERANCE
    nobody = StackedDpSgdTrainer(task, Compute("cpu")).train_stack(
        flatten(task.model(1)), [], settings(), [], lambda: False
    )
    assert nobody.deltas.shape == (0, len(flatten(task.model(1))))


class Mixing(Images):
    """The loss of an example depends on the examples beside it."""

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        logits = model(batch[0])
        return functional.cross_entropy(logits - logits.mean(0).detach() * 0.5, batch[1], reduction="none")


class Shift(nn.Module):
    """A parameter of its own, outside of torch's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        shifted: Tensor = x + self.by
        return shifted


class Folded(nn.Module):
    """A linear layer on rows that are no examples."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(36, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.outer(self.inner(x.reshape(-1, 36)).reshape(len(x), 8))
        return logits


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (Mixing(MODELS["mlp"]), "depends? on the examples"),
        (Images(lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 3), Shift())), r"'2' \(Shift\) has trainable"),
        (
            Images(lambda: nn.Sequential(nn.Embedding(9, 3, padding_idx=0), nn.Flatten())),
            r"'0' \(Embedding\) has a padding",
        ),
        (Images(Folded), "its Linear layer sees 12 rows of 6 examples"),
        (Images(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, 3))), "Dropout"),
    ],
)
def test_what_cannot_be_stacked_is_refused_before_any_noise_is_drawn(task: Images, reason: str) -> None:
    noises = [Recorded(i) for i in range(5)]
    with pytest.raises(NotStackable, match=f"task '{type(task).__name__}'.*{reason}.*; use the loop trainer"):
        StackedDpSgdTrainer(task, Compute("cpu")).train_stack(
            flatten(task.model(1)), shards(task), settings(), noises, lambda: False
        )
    assert not any(noise.drawn for noise in noises)


def test_settings_that_are_not_for_it_are_refused() -> None:
    task = task_of("mlp")
    trainer, model = StackedDpSgdTrainer(task, Compute("cpu")), flatten(task.model(1))
    none = TrainSettings(plan.Training(), plan.NoPrivacy(), 1, 1)
    with pytest.raises(ConfigError, match=r"privacy\.unit = 'none': DP-SGD needs unit = 'example'"):
        trainer.train_stack(model, [], none, [], lambda: False)
    with pytest.raises(ConfigError, match=r"training\.precision = 'bfloat16': DP-SGD needs 'float32'"):
        trainer.train_stack(model, [], settings(precision="bfloat16"), [], lambda: False)
    with pytest.raises(ConfigError, match="GroupNorm"):
        StackedDpSgdTrainer(Images(lambda: nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))), Compute("cpu"))


def test_stops_before_a_step_of_all_clients() -> None:
    task = task_of("mlp")
    trainer, model, data = StackedDpSgdTrainer(task, Compute("cpu")), flatten(task.model(1)), shards(task)
    asked = iter([False, False, True])
    with pytest.raises(Cancelled):
        trainer.train_stack(model, data, settings(), [SeededNoise(i) for i in range(5)], lambda: next(asked))
    assert next(asked, None) is None
    again = trainer.train_stack(model, data, settings(), [SeededNoise(i) for i in range(5)], lambda: False)
    fresh = StackedDpSgdTrainer(task, Compute("cpu"))
    first = fresh.train_stack(model, data, settings(), [SeededNoise(i) for i in range(5)], lambda: False)
    assert np.array_equal(again.deltas, first.deltas), "what was trained before leaves nothing behind"
    assert again.event == dp_sgd_event(0.5, 0.3, 4)


def test_a_diverged_update_becomes_the_zero_vector_and_the_others_stay() -> None:
    class Broken(SeededNoise):
        def normal(self, size: int) -> NDArray[np.float64]:
            return np.full(size, 1e300)

    task = task_of("mlp")
    noises = [SeededNoise(0), Broken(1), SeededNoise(2)]
    found = StackedDpSgdTrainer(task, Compute("cpu")).train_stack(
        flatten(task.model(1)), shards(task, (5, 5, 5)), settings(), noises, lambda: False
    )
    assert found.deltas.any(axis=1).tolist() == [True, False, True]
    assert np.isfinite(found.deltas).all()


def test_a_block_is_as_large_as_memory_allows() -> None:
    assert [best_stack(dimension) for dimension in (10, 50_890, 1_000_000, 10**9)] == [64, 64, 4, 1]
