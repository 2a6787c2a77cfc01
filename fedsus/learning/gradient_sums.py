"""One gradient step a round: a device's sum of clipped per-example gradients, for noise that is added in shares.

What leaves is neither divided nor noised here: `fedsus.encoding.skellam` does both. Adjacency is add/remove: with an
example more or less in a batch the sum moves by at most the clip. It is float64: rounded to float32, a sum of many
gradients would move by more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from fedsus.errors import Cancelled, ConfigError
from fedsus.learning.clipped_sums import ClippedSums
from fedsus.learning.held_out import HeldOut
from fedsus.learning.loop import seeded
from fedsus.learning.parameters import Flat, check_model
from fedsus.learning.places import drawn_lanes
from fedsus.learning.settings import resolve_wide
from fedsus.protection import ExampleDistributed, measured
from fedsus.types import LocalUpdate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from fedsus.learning.settings import Compute, TrainSettings
    from fedsus.tasks.task import Shard, Task
    from fedsus.types import Noise, Stop, Vector


class GradientSumTrainer:
    """Answers with minus the sum of the clipped gradients of a Poisson batch, (d,) float64.

    Args:
        task: its loss must treat examples independently: the loss of one may not depend on another.
        compute: the owner's hardware.
        noise: all randomness of sampling.

    Not for use from two threads at once.

    Raises:
        ConfigError: the model mixes examples or keeps running buffers, or the device is not there.
    """

    def __init__(self, task: Task, compute: Compute, noise: Noise) -> None:
        self._noise, self._device = noise, resolve_wide(compute)
        module = task.model(0)
        check_model(module, type(task).__name__, private=True)
        self._flat = Flat(module, self._device)
        self._sums = ClippedSums(task, self._flat, self._device)
        self._held_out = HeldOut(task, self._device)

    def train(
        self, model: Vector, shards: Sequence[Shard], settings: TrainSettings, seeds: Sequence[int], stop: Stop
    ) -> Iterator[LocalUpdate]:
        """One update for each shard: weight 1, no event: the mechanism says what a release spends. Totals of the
        received model where the plan has noise for them, which change nothing else; elsewhere none.

        ``seeds`` are not used: a seed would reveal samples to whoever knows it. Of the training part of the plan
        nothing has an effect here: the learning rate is applied to the noised sum, there is one step, and no batch
        size. A batch without examples gives zeros, and so does a sum that is not finite.

        Raises:
            Cancelled: ``stop`` said so; it is asked before each shard.
            ConfigError: the settings are not for this trainer.
        """
        privacy = checked(settings)
        start, none = torch.tensor(model, device=self._device), (np.zeros(0), 0)
        if measured(privacy):
            self._held_out.load(model)
        for shard, _ in zip(shards, seeds, strict=True):
            if stop():
                raise Cancelled("training stopped before it was complete")
            self._flat.load(start)
            self._flat.module.train()
            dropping, chosen, lanes = drawn(self._noise, shard.size, privacy.sampling_rate)
            with seeded(dropping, self._device):
                total = self._sums.sum(tuple(t.to(self._device) for t in shard.train), chosen, privacy.clip, lanes)
            told = self._held_out.totals(shard.held_out) if measured(privacy) else none
            # float64 on purpose, see `LocalUpdate.delta`.
            yield LocalUpdate(descent(total), 1.0, *told, None)  # type: ignore[arg-type]


def checked(settings: TrainSettings) -> ExampleDistributed:
    """The privacy part of settings that are for one gradient step.

    Raises:
        ConfigError: they are not.
    """
    privacy = settings.privacy
    if not isinstance(privacy, ExampleDistributed):
        raise ConfigError(f"privacy.unit = '{privacy.unit}': gradient sums need 'example', placement 'distributed'")
    if settings.training.precision != "float32":
        raise ConfigError(f"training.precision = '{settings.training.precision}': gradient sums need 'float32'")
    return privacy


def drawn(noise: Noise, size: int, rate: float) -> tuple[int, NDArray[np.intp], NDArray[np.intp]]:
    """A client's draws of a round, in order: the seed of dropout; rows of its Poisson batch, ascending, and lanes."""
    seed, draws = int(noise.uniform(1)[0] * 2**53), noise.uniform(size)
    chosen = np.flatnonzero(draws < rate)
    return seed, chosen, drawn_lanes(draws[chosen], rate)


def descent(total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minus each sum, (..., d); zeros for one that is not finite."""
    finite = np.isfinite(total).all(axis=-1, keepdims=True)
    return np.where(finite, 0.0 - total, 0.0)
