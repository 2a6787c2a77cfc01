"""DP-SGD on the device (Abadi et al. 2016, Algorithm 1): Poisson batches, clipped per-example gradients, noise.

Opacus computes the gradients of each example; sampling, clipping, summing and noise are here, so that all
randomness comes from the device's own `fedsus.types.Noise` and never from torch's generator, and so that no data
can decide whether a device answers: an example whose gradient is not finite counts as the zero vector.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from fedsus.errors import Cancelled, ConfigError
from fedsus.learning import optimizers
from fedsus.learning.loop import local_step, seeded
from fedsus.learning.parameters import Flat, check_model
from fedsus.learning.settings import resolve
from fedsus.plan import ExamplePrivacy
from fedsus.privacy.accounting import dp_sgd_event
from fedsus.types import LocalUpdate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from fedsus.learning.settings import Compute, TrainSettings
    from fedsus.tasks.task import Batch, Shard, Task
    from fedsus.types import Noise, Stop, Vector

_CHUNK: Final = 1 << 22
"""Per-example gradient values held at once: 4 million, 50 MB with their float64 copy."""

_ROWS: Final = 16
"""Batches are filled up to a multiple of this. Matrix libraries add in another order for a few rows than for many; a
model that was made for it turns such a rounding error into another gradient, and one row more would change them all."""


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
        from opacus.grad_sample import GradSampleHooks

        self._task, self._noise, self._device = task, noise, resolve(compute)
        module = task.model(0)
        check_model(module, type(task).__name__, private=True)
        self._flat = Flat(module, self._device)
        optimizers.preload(self._flat.values)
        # The "hooks" mode: the quickest of Opacus' modes that trains every layer; measured in docs/benchmarks.md.
        self._hooks = GradSampleHooks(module, loss_reduction="sum")
        self._trainable = [p for _, p in module.named_parameters() if p.requires_grad]

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
        self._forget()
        optimizer = optimizers.make(settings.training.optimizer, [flat.values], settings.learning_rate)
        with quiet_hooks(), seeded(int(noise.uniform(1)[0] * 2**53), self._device):
            for _ in range(privacy.steps):
                if stop():
                    raise Cancelled("training stopped before it was complete")
                chosen = np.flatnonzero(noise.uniform(len(train[0])) < privacy.sampling_rate)
                total = self._clipped_sum(train, chosen, privacy.clip)
                total += privacy.noise_multiplier * privacy.clip * noise.normal(total.size)
                flat.gradient.copy_((torch.from_numpy(total) / privacy.denominator).to(torch.float32))
                local_step(flat, optimizer, settings.training, start)
        delta = flat.difference(start)
        return delta if np.isfinite(delta).all() else np.zeros_like(delta)

    def _clipped_sum(self, train: Batch, chosen: NDArray[np.intp], clip: float) -> NDArray[np.float64]:
        """Sum of the clipped gradients of the chosen examples, (d,) float64; zero for an empty batch."""
        size = self._flat.gradient.numel()
        total = torch.zeros(size, dtype=self._wide, device=self._device)
        most = max(1, _CHUNK // size)
        rows = min(_ROWS, most)
        step = most // rows * rows
        for first in range(0, len(chosen), step):
            part = chosen[first : first + step]
            index = torch.from_numpy(np.resize(part, -(-len(part) // rows) * rows)).to(self._device)
            gradients = self._gradients(tuple(tensor[index] for tensor in train))[: len(part)]
            norms = torch.linalg.vector_norm(gradients, dim=1)
            finite = norms.isfinite()
            gradients.masked_fill_(~finite[:, None], 0.0)  # zero times NaN would still be NaN
            factors = torch.where(finite, (clip / norms).clamp(max=1.0), 0.0)
            total += factors @ gradients
        summed: NDArray[np.float64] = total.cpu().double().numpy()
        return summed

    def _gradients(self, batch: Batch) -> Tensor:
        """Gradient of each example's loss, (B, d) in the wide type."""
        count = len(batch[0])
        loss = self._task.loss(self._flat.module, batch)
        if loss.shape != (count,):
            raise ConfigError(
                f"task '{type(self._task).__name__}': loss has shape {tuple(loss.shape)} for {count} examples; "
                "it must be one number an example"
            )
        loss.sum().backward()  # type: ignore[no-untyped-call]
        parts = []
        for p in self._trainable:
            found: Tensor | None = vars(p)["grad_sample"]
            vars(p)["grad_sample"] = None
            parts.append(self._flat.gradient.new_zeros(count, p.numel()) if found is None else found.reshape(count, -1))
        return torch.cat(parts, dim=1).to(self._wide)

    def _forget(self) -> None:
        """Drops what an interrupted pass left in Opacus' hooks: its gradients would count as zero from then on."""
        for module in self._flat.module.modules():
            vars(module).pop("activations", None)
            vars(module).pop("max_batch_len", None)
        for p in self._trainable:
            vars(p).update(grad_sample=None, _forward_counter=0)
            vars(p).pop("_current_grad_sample", None)

    @property
    def _wide(self) -> torch.dtype:
        """float64, in which adding one example moves the sum by at most ``clip``; MPS has float32 alone."""
        return torch.float32 if self._device.type == "mps" else torch.float64


@contextmanager
def quiet_hooks() -> Iterator[None]:
    """Without torch's warning that a first layer's inputs need no gradient: Opacus uses those of the outputs alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing when gradients are computed", UserWarning)
        yield
