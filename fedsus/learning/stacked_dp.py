"""The stacked DP-SGD trainer: many clients at once, each as `fedsus.learning.dp_sgd` would train it.

For simulations. Batches and noise are those of the loop trainer, draw by draw; gradients agree up to the rounding of
float32. A device trains with `DpSgdTrainer`, which also keeps the rounding of one example's gradient apart from how
many others are in its batch.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import nn

from fedsus.errors import Cancelled, ConfigError
from fedsus.learning import optimizers
from fedsus.learning.parameters import Flat, check_model
from fedsus.learning.settings import resolve
from fedsus.learning.stacked import keep_freed_memory
from fedsus.learning.stacking import poisson, steps
from fedsus.learning.stacking.clipping import Clipping
from fedsus.learning.stacking.converting import NotStackable, stacked
from fedsus.learning.stacking.probe import Probed, finite, probe
from fedsus.learning.stacking.probe_norms import probe_norms
from fedsus.learning.stacking.stack import Stack
from fedsus.plan import ExamplePrivacy
from fedsus.privacy.accounting import dp_sgd_event
from fedsus.types import LocalUpdates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from fedsus.learning.settings import Compute, TrainSettings
    from fedsus.tasks.task import Batch, Shard, Task
    from fedsus.types import Noise, Stop, Vector

__all__ = ["NotStackable", "StackedDpSgdTrainer", "best_stack"]

_CHUNK: Final = 1 << 22
"""Per-example gradient values held at once, as in `fedsus.learning.dp_sgd`."""

_LEAST: Final = 1024
"""An example counts as at least so many values: its activations take memory too."""


_VALUES: Final = 1 << 22
_MOST: Final = 64


def best_stack(dimension: int) -> int:
    """How many clients to train at once for a model of ``dimension`` parameters, which take 24 bytes each.

    More than without privacy: a Poisson batch has few examples, and the noise of a client costs the same in any stack.
    """
    return max(1, min(_MOST, _VALUES // dimension))


class StackedDpSgdTrainer:
    """Trains many clients with example-level differential privacy, with the noise of each client.

    Not for use from two threads at once: make one for each.

    Args:
        task: its loss must treat examples independently: the loss of one may not depend on another.
        compute: ``threads`` also draw noise, a client at a time.

    Raises:
        NotStackable: this model needs the loop trainer.
        ConfigError: the model mixes examples or keeps running buffers, or the device is not there.
    """

    def __init__(self, task: Task, compute: Compute) -> None:
        self._task, self._name, self._compute = task, type(task).__name__, compute
        self._device = resolve(compute)
        module = task.model(0)
        check_model(module, self._name, private=True)
        self._flat = Flat(module, self._device)
        self._clipping = Clipping(torch.float32 if self._device.type == "mps" else torch.float64)
        self._stack = Stack(self._flat.gradient.numel(), self._device, self._clipping)
        try:
            _check_padding(module)
            self._module = stacked(module, self._stack)
        except NotStackable as error:
            raise self._refused(error) from None
        self._probed = False
        keep_freed_memory()
        optimizers.preload(self._flat.values)

    def train_stack(
        self, model: Vector, shards: Sequence[Shard], settings: TrainSettings, noises: Sequence[Noise], stop: Stop
    ) -> LocalUpdates:
        """One row for each shard: weight 1, no totals, and the event that releasing it spends.

        Args:
            noises: all randomness of each client's sampling and noise; for equal updates in whatever stack, each has
                a source of its own.

        Raises:
            Cancelled: ``stop`` said so; it is asked before each step of all clients.
            ConfigError: the settings are not for this trainer.
            NotStackable: this model needs the loop trainer; said before any noise is drawn.
        """
        privacy = _checked(settings)
        if len(shards) != len(noises):
            raise ValueError(f"{len(shards)} shards and {len(noises)} sources of noise")
        if torch.get_num_threads() != self._compute.threads:
            torch.set_num_threads(self._compute.threads)
        start = torch.tensor(model, device=self._device)
        self._try(start, shards, privacy.sampling_rate)
        deltas = self._fit(start, shards, settings, privacy, noises, stop)
        deltas[~np.isfinite(deltas).all(axis=1)] = 0.0
        m = len(shards)
        event = dp_sgd_event(privacy.noise_multiplier, privacy.sampling_rate, privacy.steps)
        return LocalUpdates(deltas, np.ones(m), np.zeros((m, 0)), np.zeros(m, dtype=np.int64), event)

    def _fit(
        self,
        start: Tensor,
        shards: Sequence[Shard],
        settings: TrainSettings,
        privacy: ExamplePrivacy,
        noises: Sequence[Noise],
        stop: Stop,
    ) -> NDArray[np.float32]:
        if not shards:
            return np.zeros((0, len(start)), dtype=np.float32)
        examples = tuple(torch.cat(parts).to(self._device) for parts in zip(*(s.train for s in shards), strict=True))
        ends = np.cumsum([shard.size for shard in shards])
        values = nn.Parameter(start.repeat(len(shards), 1))
        optimizer = optimizers.make(settings.training.optimizer, [values], settings.learning_rate)
        total = torch.empty(values.shape, dtype=self._clipping.wide, device=self._device)
        gradient = torch.empty(values.shape)
        for noise in noises:
            noise.uniform(1)  # the loop trainer seeds dropout with it; no model of this trainer has any
        self._module.train()
        for _ in range(privacy.steps):
            if stop():
                raise Cancelled("training stopped before it was complete")
            drawn = [
                np.flatnonzero(n.uniform(s.size) < privacy.sampling_rate) for n, s in zip(noises, shards, strict=True)
            ]
            chosen = [rows + end - shard.size for rows, end, shard in zip(drawn, ends, shards, strict=True)]
            order = self._clipped_sums(values.detach(), examples, chosen, privacy.clip, total)
            self._add_noise(total, order, noises, privacy, gradient)
            values.grad = gradient.to(self._device)
            with torch.no_grad():
                steps.adjust(values, values.grad, start, settings.training)
            optimizer.step()
        deltas: NDArray[np.float32] = (values.detach() - start).cpu().numpy()
        return deltas

    def _clipped_sums(
        self, values: Tensor, examples: Batch, chosen: Sequence[NDArray[np.int64]], clip: float, total: Tensor
    ) -> NDArray[np.int64]:
        """Fills ``total`` (m, d): sums of the clipped gradients of the chosen examples; which client each row is of."""
        order = poisson.by_size(chosen)
        self._stack.start(values.index_select(0, torch.from_numpy(order).to(self._device)))
        total.zero_()
        most = _CHUNK // max(self._clipping.made, _LEAST)
        for some in poisson.passes([chosen[i] for i in order], most):
            self._stack.narrow(some.live)
            index = torch.from_numpy(some.index).to(self._device)
            self._clipping.begin(self._stack, len(index))
            losses = self._task.loss(self._module, tuple(tensor.index_select(0, index) for tensor in examples))
            losses.sum().backward()  # type: ignore[no-untyped-call]
            self._clipping.end(total[: some.live], torch.from_numpy(some.valid).to(self._device), clip)
        return order

    def _add_noise(
        self,
        total: Tensor,
        order: NDArray[np.int64],
        noises: Sequence[Noise],
        privacy: ExamplePrivacy,
        gradient: Tensor,
    ) -> None:
        """Fills ``gradient`` (m, d) float32, in the clients' own order: (sum + noise) / denominator."""
        sums, out = total.cpu().double().numpy(), gradient.numpy()

        def fill(row: int) -> None:
            noised = noises[order[row]].normal(sums.shape[1])
            noised *= privacy.noise_multiplier * privacy.clip
            noised += sums[row]
            noised /= privacy.denominator
            with np.errstate(over="ignore"):  # what is beyond float32 is infinite, and the update counts as zero
                out[order[row]] = noised

        if self._compute.threads == 1:
            for row in range(len(order)):
                fill(row)
        else:
            with ThreadPoolExecutor(self._compute.threads) as pool:
                list(pool.map(fill, range(len(order))))

    def _try(self, start: Tensor, shards: Sequence[Shard], sampling_rate: float) -> None:
        """The first shards that come with examples show whether the model can be stacked."""
        batches = [tuple(t.to(self._device) for t in shard.train) for shard in shards if shard.size]
        if self._probed or not batches:
            return
        batches = finite(batches)
        expected = math.ceil(sampling_rate * max(len(batch[0]) for batch in batches))
        try:
            try:
                self._probe(start, batches, expected)
            except NotStackable:
                # A model may ask for torch's own memory order, by view() after a convolution.
                self._stack.strided = False
                self._probe(start, batches, expected)
        except NotStackable as error:
            raise self._refused(error) from error.__cause__
        self._probed = True

    def _probe(self, start: Tensor, batches: Sequence[Batch], size: int) -> None:
        of = Probed(self._task, self._flat, self._stack, self._module)
        probe(of, start, batches, size)
        probe_norms(of, self._clipping, start, [batches[0], batches[-1]])

    def _refused(self, error: NotStackable) -> NotStackable:
        return NotStackable(f"task '{self._name}': the model cannot be stacked: {error}; use the loop trainer")


def _checked(settings: TrainSettings) -> ExamplePrivacy:
    privacy = settings.privacy
    if not isinstance(privacy, ExamplePrivacy):
        raise ConfigError(f"privacy.unit = '{privacy.unit}': DP-SGD needs unit = 'example'")
    if settings.training.precision != "float32":
        raise ConfigError(f"training.precision = '{settings.training.precision}': DP-SGD needs 'float32'")
    return privacy


def _check_padding(module: nn.Module) -> None:
    for path, part in module.named_modules():
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            raise NotStackable(f"'{path}' (Embedding) has a padding_idx, which Opacus trains and torch does not")
