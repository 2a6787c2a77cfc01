"""The stacked trainer: many clients at once, each as the loop trainer would train it."""

from __future__ import annotations

import math
from threading import Lock
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from fedsus.errors import Cancelled, ConfigError
from fedsus.learning import evaluation, optimizers
from fedsus.learning.parameters import Flat, check_model
from fedsus.learning.settings import resolve
from fedsus.learning.stacking import batches, steps
from fedsus.learning.stacking.converting import NotStackable, stacked
from fedsus.learning.stacking.probe import Probed, finite, probe
from fedsus.learning.stacking.stack import Stack
from fedsus.types import LocalUpdates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from fedsus.learning.settings import Compute, TrainSettings
    from fedsus.tasks.task import Batch, Shard, Task
    from fedsus.types import LocalUpdate, Stop, Vector

__all__ = ["NotStackable", "StackedTrainer", "best_stack"]

_VALUES: Final = 1_280_000
"""Parameters of a block: below, the overhead of each step counts; above, the matrix leaves the processor's cache."""

_MOST: Final = 256
_FREED: Final = 31 << 20
_MEASURED: Final = 1e-4
_FLIPPED: Final = 0.1
"""Part of a client's examples whose class may change by rounding."""

_PROBING: Final = Lock()
"""A probe seeds torch's global generator, and puts it back: not while another thread does."""


def best_stack(dimension: int) -> int:
    """How many clients to train at once for a model of ``dimension`` parameters, on one thread.

    Measured on two cores with 512 KB of second-level cache each, for models of 1,000 to 80,000 parameters.
    """
    return max(1, min(_MOST, _VALUES // dimension))


class StackedTrainer:
    """Trains without differential privacy. Repeatable bit for bit for the same shards in one call, on one CPU thread.

    Not for use from two threads at once: make one for each, before they start, for models are drawn from torch's
    global generator.

    Raises:
        NotStackable: this model needs the loop trainer.
        ConfigError: the model keeps running buffers, or the device is not there.
    """

    def __init__(self, task: Task, compute: Compute) -> None:
        self._task, self._name, self._compute = task, type(task).__name__, compute
        self._device = resolve(compute)
        module = task.model(0)
        check_model(module, self._name)
        self._flat = Flat(module, self._device)
        self._initial = self._flat.values.detach().clone()
        self._stack = Stack(self._flat.gradient.numel(), self._device, steps.Gradients())
        try:
            self._module = stacked(module, self._stack)
        except NotStackable as error:
            raise self._refused(error) from None
        self._probed = self._measured = False
        keep_freed_memory()
        optimizers.preload(self._flat.values)

    def train(
        self, model: Vector, shards: Sequence[Shard], settings: TrainSettings, seeds: Sequence[int], stop: Stop
    ) -> Iterator[LocalUpdate]:
        """As `train_stack`, one update after the other."""
        yield from self.train_stack(model, shards, settings, seeds, stop)

    def train_stack(
        self,
        model: Vector,
        shards: Sequence[Shard],
        settings: TrainSettings,
        seeds: Sequence[int],
        stop: Stop,
        measure: bool = True,
    ) -> LocalUpdates:
        """One row for each shard, weighted by its number of training examples, with totals of the received model.

        Args:
            measure: False leaves out the metrics: no columns in ``totals``.

        Raises:
            Cancelled: ``stop`` said so; it is asked before each batch of all clients.
            ConfigError: the settings do not fit the hardware or the optimizer, or training diverged.
            NotStackable: this model or this precision needs the loop trainer; said before anything is trained.
        """
        self._check(settings)
        if len(shards) != len(seeds):
            raise ValueError(f"{len(shards)} shards and {len(seeds)} seeds")
        sizes = [shard.size for shard in shards]
        if not all(sizes):
            raise ConfigError(f"task '{self._name}': a shard has no training examples; leave this client out")
        if torch.get_num_threads() != self._compute.threads:
            torch.set_num_threads(self._compute.threads)
        start = torch.tensor(model, device=self._device)
        if shards:
            self._try(shards, settings.training.batch_size)
        self._flat.load(start)
        totals = self._totals(shards) if measure else np.zeros((len(shards), 0))
        held_out = np.array([len(shard.held_out[0]) if measure else 0 for shard in shards], dtype=np.int64)
        deltas = self._fit(start, [shard.train for shard in shards], sizes, settings, seeds, stop)
        return LocalUpdates(deltas, np.array(sizes, dtype=np.float64), totals, held_out)

    def _check(self, settings: TrainSettings) -> None:
        if settings.privacy.unit == "example":
            raise ConfigError("privacy.unit = 'example': the stacked trainer adds no noise")
        if settings.training.precision != "float32":
            raise NotStackable(
                f"training.precision = '{settings.training.precision}': the stacked trainer needs 'float32'; "
                "use the loop trainer"
            )

    def _try(self, shards: Sequence[Shard], batch_size: int) -> None:
        """The first shards that come show whether the model can be stacked."""
        if self._probed:
            return
        trains = finite([self._here(shard.train) for shard in shards])
        try:
            with _PROBING:
                self._probe(trains, min(batch_size, max(shard.size for shard in shards)))
        except NotStackable as error:
            raise self._refused(error) from error.__cause__
        self._probed = True

    def _probe(self, trains: Sequence[Batch], size: int) -> None:
        of = Probed(self._task, self._flat, self._stack, self._module)
        try:
            probe(of, self._initial, trains, size)
        except NotStackable as error:
            if error.__cause__ is None:
                raise
            # It failed: a model may ask for torch's own memory order, by view() after a convolution.
            self._stack.strided = False
            probe(of, self._initial, trains, size)

    def _fit(
        self,
        start: Tensor,
        parts: Sequence[Batch],
        sizes: Sequence[int],
        settings: TrainSettings,
        seeds: Sequence[int],
        stop: Stop,
    ) -> NDArray[np.float32]:
        training, stack = settings.training, self._stack
        if not parts:
            return np.zeros((0, stack.dimension), dtype=np.float32)
        order = batches.by_steps(sizes, training.batch_size)
        examples = self._together([parts[i] for i in order])
        stack.start(start.expand(len(order), -1))
        step = stack.sink = steps.make(stack, start, settings)
        self._module.train()
        mine = [sizes[i] for i in order], [seeds[i] for i in order]
        for now in batches.schedule(*mine, training.local_epochs, training.batch_size):
            if stop():
                raise Cancelled("training stopped before it was complete")
            if now.live < stack.live:
                stack.narrow(now.live)
            step.begin(stack)
            index = now.index.to(self._device)
            losses = self._task.loss(self._module, tuple(tensor.index_select(0, index) for tensor in examples))
            losses.backward(now.weights.to(losses))  # type: ignore[no-untyped-call]
            step.end(stack)
        return self._changes(start, order, settings)

    def _changes(self, start: Tensor, order: Sequence[int], settings: TrainSettings) -> NDArray[np.float32]:
        """(m, d), in the order of the shards; row i of the stack is of shard ``order[i]``."""
        deltas = self._stack.values - start
        if order != sorted(order):
            deltas = deltas[torch.tensor(np.argsort(order), device=self._device)]
        # A sum is one quick pass, and not finite if any part of it is not.
        client = settings.privacy.unit == "client"  # with privacy the mechanism sends noise alone
        if not client and not math.isfinite(float(deltas.sum())) and not bool(torch.isfinite(deltas).all()):
            raise ConfigError(
                f"optimizer.learning_rate = {settings.learning_rate:g}: training diverged to NaN or infinity; "
                "lower it or set gradient_clip"
            )
        result: NDArray[np.float32] = deltas.cpu().numpy()
        return result

    def _totals(self, shards: Sequence[Shard]) -> NDArray[np.float64]:
        """Sums of the received model's metrics for each client, (m, metrics)."""
        sums = np.zeros((len(shards), len(self._task.bounds)))
        owners = np.repeat(np.arange(len(shards)), [len(shard.held_out[0]) for shard in shards])
        if len(owners):
            examples = self._together([shard.held_out for shard in shards])
            values = evaluation.each(self._task, self._flat.module, examples)
            self._try_measure([shard.held_out for shard in shards], owners, values)
            np.add.at(sums, owners, values)
        return sums

    def _try_measure(self, parts: Sequence[Batch], owners: NDArray[np.intp], values: NDArray[np.float64]) -> None:
        """The first clients with held-out examples, measured together, are as each alone."""
        two = sorted(range(len(parts)), key=lambda i: len(parts[i][0]))[-2:]
        if self._measured or len(two) < 2 or not len(parts[two[0]][0]):
            return
        for i in two:
            alone = evaluation.each(self._task, self._flat.module, self._here(parts[i]))
            wrong = np.abs(alone - values[owners == i]) > _MEASURED * (np.abs(alone).max(axis=0, initial=0.0) + 1e-6)
            if (wrong.mean(axis=0) > _FLIPPED).any():
                raise self._refused(NotStackable("its measure for one client depends on the examples of others"))
        self._measured = True

    def _together(self, parts: Sequence[Batch]) -> Batch:
        return tuple(torch.cat(tensors).to(self._device) for tensors in zip(*parts, strict=True))

    def _here(self, batch: Batch) -> Batch:
        return tuple(tensor.to(self._device) for tensor in batch)

    def _refused(self, error: NotStackable) -> NotStackable:
        return NotStackable(f"task '{self._name}': the model cannot be stacked: {error}; use the loop trainer")


def keep_freed_memory() -> None:
    """Lets the C library keep up to 64 MB that it would give back, and fault in again, at every step.

    glibc raises its thresholds (mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD) to the largest block it saw freed,
    if below 32 MB. Other libraries take no notice.
    """
    torch.empty(_FREED, dtype=torch.uint8)
