"""DP-SGD on the device (Abadi et al. 2016, Algorithm 1): Poisson batches, clipped per-example gradients, noise.

Sampling and noise are here, so that all randomness comes from the device's own `fedsus.types.Noise` and never from
torch's generator; gradients, clipping and sums are in `fedsus.learning.clipped_sums`. No data can decide whether a
device answers: an example whose gradient is not finite counts as the zero vector.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from fedsus.errors import Cancelled, ConfigError
from fedsus.learning import optimizers
from fedsus.learning.clipped_sums import ClippedSums
from fedsus.learning.loop import local_step, seeded
from fedsus.learning.parameters import Flat, check_model
from fedsus.learning.places import drawn_lanes
from fedsus.learning.settings import resolve_wide
from fedsus.plan import ExamplePrivacy
from fedsus.privacy.accounting import dp_sgd_event
from fedsus.types import LocalUpdate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from fedsus.learning.settings import Compute, TrainSettings
    from fedsus.tasks.task import Batch, Shard, Task
    from fedsus.types import Noise, Stop, Vector


class DpSgdTrainer:
    """Trains with example-level differential privacy; every example of a shard is protected from everyone.

    Args:
        task: its loss must treat examples independently: the loss of one may not depend on another.
        compute: the owner's hardware.
        noise: all randomness of sampling and noise.

    Not for use from two threads at once.

    Raises:
        ConfigError: the model mixes examples or keeps running buffers, or the device is not there.
    """

    def __init__(self, task: Task, compute: Compute, noise: Noise) -> None:
        self._task, self._noise, self._device = task, noise, resolve_wide(compute)
        module = task.model(0)
        check_model(module, type(task).__name__, private=True)
        self._flat = Flat(module, self._device)
        optimizers.preload(self._flat.values)
        self._sums = ClippedSums(task, self._flat, self._device)

    def train(
        self, model: Vector, shards: Sequence[Shard], settings: TrainSettings, seeds: Sequence[int], stop: Stop
    ) -> Iterator[LocalUpdate]:
        """One update for each shard: weight 1, no totals, and the event that releasing it spends.

        ``seeds`` are not used: a seed would reveal noise and samples to whoever knows it. ``batch_size`` and
        ``local_epochs`` have no effect: sampling rate and steps are the plan's privacy part. The proximal term, the
        gradient clipping and the weight decay act on what is already noised and spend nothing.

        Raises:
            Cancelled: ``stop`` said so; it is asked before each step.
            ConfigError: the settings are not for this trainer.
        """
        privacy = settings.privacy
        if not isinstance(privacy, ExamplePrivacy):
            raise ConfigError(f"privacy.unit = '{privacy.unit}': DP-SGD needs unit = 'example'")
        if settings.training.precision != "float32":
            raise ConfigError(f"training.precision = '{settings.training.precision}': DP-SGD needs 'float32'")
        event = dp_sgd_event(privacy.noise_multiplier, privacy.sampling_rate, privacy.steps)
        start = torch.tensor(model, device=self._device)
        for shard, _ in zip(shards, seeds, strict=True):
            delta = self._fit(start, tuple(t.to(self._device) for t in shard.train), settings, privacy, stop)
            yield LocalUpdate(delta, 1.0, np.zeros(0), 0, event)

    def _fit(self, start: Tensor, train: Batch, settings: TrainSettings, privacy: ExamplePrivacy, stop: Stop) -> Vector:
        flat, noise = self._flat, self._noise
        flat.load(start)
        flat.module.train()
        optimizer = optimizers.make(settings.training.optimizer, [flat.values], settings.learning_rate)
        with seeded(int(noise.uniform(1)[0] * 2**53), self._device):
            for _ in range(privacy.steps):
                if stop():
                    raise Cancelled("training stopped before it was complete")
                draws = noise.uniform(len(train[0]))
                chosen = np.flatnonzero(draws < privacy.sampling_rate)
                lanes = drawn_lanes(draws[chosen], privacy.sampling_rate)
                total = self._sums.sum(train, chosen, privacy.clip, lanes)
                total += privacy.noise_multiplier * privacy.clip * noise.normal(total.size)
                flat.gradient.copy_((torch.from_numpy(total) / privacy.denominator).to(torch.float32))
                local_step(flat, optimizer, settings.training, start)
        delta = flat.difference(start)
        return delta if np.isfinite(delta).all() else np.zeros_like(delta)
