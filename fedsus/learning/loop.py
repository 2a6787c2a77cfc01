"""The loop trainer: local epochs of shuffled mini-batches (FedAvg: McMahan et al. 2017; FedProx: Li et al. 2020)."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedsus.errors import Cancelled, ConfigError
from fedsus.learning import evaluation, optimizers
from fedsus.learning.parameters import Flat, check_model
from fedsus.learning.settings import check_precision, resolve
from fedsus.types import LocalUpdate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from fedsus.learning.settings import Compute, TrainSettings
    from fedsus.plan import Training
    from fedsus.tasks.task import Batch, Shard, Task
    from fedsus.types import Stop, Vector


class LoopTrainer:
    """Trains without differential privacy. Bit for bit repeatable from the seed on one CPU thread.

    The module is built once and reused. Not for use from two threads at once.

    Raises:
        ConfigError: the model keeps running buffers, or the device is not there.
    """

    def __init__(self, task: Task, compute: Compute) -> None:
        self._task, self._device = task, resolve(compute)
        module = task.model(0)
        check_model(module, type(task).__name__)
        self._flat = Flat(module, self._device)
        optimizers.preload(self._flat.values)

    def train(
        self, model: Vector, shards: Sequence[Shard], settings: TrainSettings, seeds: Sequence[int], stop: Stop
    ) -> Iterator[LocalUpdate]:
        """One update for each shard, weighted by its number of training examples, with totals of the received model.

        Raises:
            Cancelled: ``stop`` said so; it is asked before each batch.
            ConfigError: the settings do not fit the hardware or the optimizer, or training diverged.
        """
        client = settings.privacy.unit == "client"  # the mechanism clips and noises
        if settings.privacy.unit == "example":
            raise ConfigError("privacy.unit = 'example': the loop trainer adds no noise")
        check_precision(settings.training, self._device)
        start = torch.tensor(model, device=self._device)
        for shard, seed in zip(shards, seeds, strict=True):
            self._flat.load(start)
            sums = evaluation.totals(self._task, self._flat.module, self._here(shard.held_out))
            self._fit(start, self._here(shard.train), settings, seed, stop)
            delta = self._flat.difference(start)
            if not np.isfinite(delta).all() and not client:  # with privacy the mechanism sends noise alone
                raise ConfigError(
                    f"optimizer.learning_rate = {settings.learning_rate:g}: training diverged to NaN or infinity; "
                    "lower it or set gradient_clip"
                )
            yield LocalUpdate(delta, float(shard.size), sums, len(shard.held_out[0]), None)

    def _fit(self, start: Tensor, train: Batch, settings: TrainSettings, seed: int, stop: Stop) -> None:
        training, flat = settings.training, self._flat
        shuffle = torch.Generator().manual_seed(seed)
        optimizer = optimizers.make(training.optimizer, [flat.values], settings.learning_rate)
        flat.module.train()
        with seeded(seed, self._device):
            for _ in range(training.local_epochs):
                order = torch.randperm(len(train[0]), generator=shuffle).to(self._device)
                for index in torch.split(order, training.batch_size):
                    if stop():
                        raise Cancelled("training stopped before it was complete")
                    flat.gradient.zero_()
                    with self._precision(training):
                        loss = self._task.loss(flat.module, tuple(tensor[index] for tensor in train))
                    loss.float().mean().backward()  # type: ignore[no-untyped-call]
                    local_step(flat, optimizer, training, start)

    def _precision(self, training: Training) -> AbstractContextManager[object]:
        if training.precision == "float32":
            return nullcontext()
        return torch.autocast(self._device.type, dtype=torch.bfloat16)

    def _here(self, batch: Batch) -> Batch:
        return tuple(tensor.to(self._device) for tensor in batch)


def local_step(flat: Flat, optimizer: torch.optim.Optimizer, training: Training, start: Tensor) -> None:
    """One optimizer step on ``flat.gradient``, after the proximal term and the clipping of its norm.

    The proximal term is the gradient of proximal / 2 * |w - start|^2 (Li et al. 2020, equation 2).
    """
    with torch.no_grad():
        if training.proximal:
            flat.gradient.add_(flat.values - start, alpha=training.proximal)
        if training.gradient_clip is not None:
            norm = float(torch.linalg.vector_norm(flat.gradient))
            if norm > training.gradient_clip:
                flat.gradient.mul_(training.gradient_clip / norm)
    optimizer.step()


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generator (dropout draws from it) seeded inside, restored after."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
