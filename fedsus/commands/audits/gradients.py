"""The example unit: shards of canaries, through the trainers of a device.

A linear model without bias, whose loss is its output: an example's gradient is the example. Canary j is three times as
long as the clip, along coordinate j. In one sum each coordinate then holds one canary, sampled and clipped by itself,
and, where the trainer noises, noise of its own: as many independent draws as there are coordinates. One half of the
coordinates have a canary, the other half none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from fedsus.commands.audits.trial import Draws, Progress, Trial, joined, privacy_of
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.learning.dp_sgd import DpSgdTrainer
from fedsus.learning.gradient_sums import GradientSumTrainer
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.plan import Optimizer, Training
from fedsus.protection import ExampleDistributed, ExamplePrivacy
from fedsus.tasks.task import Batch, DataSource, Forward, Shard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from fedsus.plan import Plan
    from fedsus.types import LocalUpdate, Noise

CANARIES: Final = 1024
"""Examples of one shard."""

_TRAINING: Final = Training(optimizer=Optimizer(learning_rate=1.0))


class _Linear:
    """Inputs are gradients."""

    Settings: ClassVar[type[BaseModel]] = BaseModel
    bounds: Mapping[str, tuple[float, float]] = {}

    def model(self, seed: int) -> nn.Module:
        del seed
        return nn.Linear(2 * CANARIES, 1, bias=False)

    def load(self, source: DataSource) -> Shard:
        raise NotImplementedError

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return model(batch[0]).squeeze(1)

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return self.loss(model, batch)[:, None][:, :0]


def sums(plan: Plan, count: int, noise: Noise) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of clipped gradients along the canary, without and with it in the shard, (count,) each."""
    trainer = GradientSumTrainer(_Linear(), Compute("cpu", 1), noise)
    made = _updates(trainer, plan, privacy_of(plan, ExampleDistributed).clip)
    rows = np.array([next(made).delta for _ in range(-(-count // CANARIES))])
    return rows[:, CANARIES:].reshape(-1)[:count], -rows[:, :CANARIES].reshape(-1)[:count]


def draw(trial: Trial, count: int, noise: Noise, progress: Progress = lambda _: None) -> Draws:
    """``count`` draws of each input: one example of a client that trains by DP-SGD, or none.

    Everyone sees the same: in the sum of a cohort whose other updates are zeros, the client's own.
    """
    plan = trial.done.model_copy(update={"dimension": 2 * CANARIES})
    privacy = privacy_of(plan, ExamplePrivacy)
    # A float32 model near zero, and sums of any size within the encoding's range.
    unit = plan.encoding.value_range / (64 * privacy.clip * privacy.steps * max(1.0, privacy.noise_multiplier))
    plan = plan.model_copy(update={"privacy": privacy.model_copy(update={"denominator": 1 / unit})})
    mechanism = mechanism_of(plan)
    made = _updates(DpSgdTrainer(_Linear(), Compute("cpu", 1), noise), plan, privacy.clip)
    parts: list[Draws] = []
    for start in range(0, count, CANARIES):
        total = np.zeros(mechanism.size, dtype=np.uint32)
        total += mechanism.encode(next(made), noise)
        _, mean = mechanism.release(mechanism.init(), total, plan.cohort.minimum, noise)
        shown = -mean.delta.astype(np.float64)[:, np.newaxis].reshape(2, CANARIES)
        parts.append({("update", "recipients"): (shown[1], shown[0])})
        progress(min(CANARIES, count - start))
    return {key: (absent[:count], present[:count]) for key, (absent, present) in joined(parts).items()}


def _updates(trainer: Any, plan: Plan, clip: float) -> Iterator[LocalUpdate]:
    """One update after the other of a shard that holds a canary for each of the first coordinates."""
    inputs = torch.zeros(CANARIES, 2 * CANARIES)
    inputs.fill_diagonal_(3 * clip)
    shard = Shard((inputs,), (inputs[:0],))
    settings = TrainSettings(_TRAINING, plan.privacy, plan.round, plan.rounds)
    model = np.zeros(2 * CANARIES, dtype=np.float32)
    while True:
        yield from trainer.train(model, [shard], settings, [0], lambda: False)
