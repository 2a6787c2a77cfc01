"""The loop trainer against a loop written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsus import plan
from fedsus.errors import ConfigError
from fedsus.learning.loop import LoopTrainer
from fedsus.learning.parameters import flatten, load_into
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.tasks.task import Batch, DataSource, Forward, Shard


class Digits:
    Settings = BaseModel
    bounds = {"loss": (0.0, 5.0)}  # noqa: RUF012

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(nn.Conv2d(1, 3, 3), nn.GroupNorm(1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))

    def load(self, source: DataSource) -> Shard:
        raise NotImplementedError

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1], reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return self.loss(model, batch)[:, None]


def shard() -> Shard:
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(30, 1, 8, 8, generator=generator), torch.randint(4, (30,), generator=generator)
    return Shard((inputs[:23], targets[:23]), (inputs[23:], targets[23:]))


def update(seed: int = 5, round: int = 1, **training: Any) -> NDArray[np.float32]:
    chosen = TrainSettings(plan.Training(**({"batch_size": 8} | training)), plan.NoPrivacy(), round, 10)
    trainer = LoopTrainer(Digits(), Compute("cpu"))
    return next(trainer.train(flatten(Digits().model(1)), [shard()], chosen, [seed], lambda: False)).delta


def by_hand(epochs: int, mu: float = 0.0, clip: float | None = None, **sgd: Any) -> NDArray[np.float32]:
    """Shuffled mini-batches, the short last one too; the mean loss; the proximal term in the loss."""
    task, module, (inputs, targets) = Digits(), Digits().model(1), shard().train
    start = [p.detach().clone() for p in module.parameters()]
    optimizer = torch.optim.SGD(module.parameters(), **({"lr": 0.1} | sgd))
    shuffle = torch.Generator().manual_seed(5)
    for _ in range(epochs):
        for index in torch.randperm(23, generator=shuffle).split(8):
            optimizer.zero_grad()
            loss = task.loss(module, (inputs[index], targets[index])).mean()
            for p, anchor in zip(module.parameters(), start, strict=True):
                loss = loss + mu / 2 * (p - anchor).square().sum()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()
    return flatten(module) - torch.cat([p.reshape(-1) for p in start]).numpy()


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        ({}, {}),
        (
            {"optimizer": plan.Optimizer(momentum=0.9, weight_decay=0.1, nesterov=True)},
            {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
        ),
        ({"proximal": 0.7}, {"mu": 0.7}),
        ({"gradient_clip": 0.2}, {"clip": 0.2}),
        ({"proximal": 0.7, "gradient_clip": 0.2}, {"mu": 0.7, "clip": 0.2}),
    ],
    ids=["sgd", "nesterov", "proximal", "clip", "proximal and clip"],
)
def test_as_written_out(ours: dict[str, Any], reference: dict[str, Any]) -> None:
    np.testing.assert_allclose(update(local_epochs=3, **ours), by_hand(3, **reference), rtol=1e-3, atol=2e-6)


def test_the_seed_decides_the_order() -> None:
    np.testing.assert_array_equal(update(5), update(5))
    assert not np.array_equal(update(5), update(6))


def test_the_round_decides_the_learning_rate() -> None:
    schedule = plan.Schedule(name="exponential", factor=0.5)
    np.testing.assert_allclose(update(round=3, schedule=schedule), by_hand(1, lr=0.025), rtol=1e-3, atol=2e-6)


def test_totals_are_those_of_the_received_model() -> None:
    task, model, data = Digits(), flatten(Digits().model(1)), shard()
    chosen = TrainSettings(plan.Training(), plan.NoPrivacy(), 1, 10)
    trainer = LoopTrainer(task, Compute("cpu"))
    first, second = trainer.train(model, [data, data], chosen, [1, 2], lambda: False)
    module = task.model(0)
    load_into(module, model)
    expected = float(task.loss(module, data.held_out).detach().sum())
    assert first.totals[0] == second.totals[0] == pytest.approx(expected, rel=1e-6)


def test_bfloat16_trains_nearly_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = update()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    rough = update(precision="bfloat16")
    difference = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 0 < difference < 0.1


def test_bfloat16_without_the_hardware_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.raises(ConfigError, match="no native bfloat16"):
        update(precision="bfloat16")


def test_divergence_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate = 1e\+09: training diverged") as caught:
        update(local_epochs=20, optimizer=plan.Optimizer(learning_rate=1e9, momentum=0.9, weight_decay=1.0))
    assert "\n" not in str(caught.value)
