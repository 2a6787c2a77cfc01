"""The sums of clipped per-example gradients of many clients, each as `fedsus.learning.gradient_sums` would make it.

For simulations. All clients stand at one model, so their examples are one batch, whose gradients are added up client
by client. Draws are those of the loop trainer; sums agree up to the rounding of float32 in single gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from fedsus.errors import Cancelled
from fedsus.learning.clipped_sums import ClippedSums
from fedsus.learning.gradient_sums import checked, descent, drawn
from fedsus.learning.held_out import HeldOut
from fedsus.learning.loop import seeded
from fedsus.learning.parameters import Flat, check_model
from fedsus.learning.settings import resolve_wide
from fedsus.learning.stacking.converting import NotStackable
from fedsus.protection import measured
from fedsus.types import LocalUpdates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from fedsus.learning.settings import Compute, TrainSettings
    from fedsus.tasks.task import Batch, Shard, Task
    from fedsus.types import Noise, Stop, Vector

__all__ = ["NotStackable", "StackedSumsTrainer"]

_VALUES: Final = 1 << 21
"""Values of inputs in one pass: 8 MB of float32."""


class StackedSumsTrainer:
    """One gradient step of many clients at once, with the sampling of each.

    Not for use from two threads at once: make one for each.

    Args:
        task: its loss must treat examples independently: the loss of one may not depend on another.

    Raises:
        ConfigError: the model mixes examples or keeps running buffers, or the device is not there.
    """

    def __init__(self, task: Task, compute: Compute) -> None:
        self._name, self._compute, self._device = type(task).__name__, compute, resolve_wide(compute)
        module = task.model(0)
        check_model(module, self._name, private=True)
        self._flat = Flat(module, self._device)
        self._sums = ClippedSums(task, self._flat, self._device)
        self._held_out = HeldOut(task, self._device)

    def train_stack(
        self, model: Vector, shards: Sequence[Shard], settings: TrainSettings, noises: Sequence[Noise], stop: Stop
    ) -> LocalUpdates:
        """One row for each shard, (m, d) float64: weight 1, no event, totals as the loop trainer's, bit for bit.

        Args:
            noises: all randomness of each client's sampling; each has a source of its own.

        Raises:
            Cancelled: ``stop`` said so; it is asked before each pass.
            ConfigError: the settings are not for this trainer.
            NotStackable: this model needs the loop trainer; said before anything is drawn.
        """
        privacy = checked(settings)
        if len(shards) != len(noises):
            raise ValueError(f"{len(shards)} shards and {len(noises)} sources of noise")
        if torch.get_num_threads() != self._compute.threads:
            torch.set_num_threads(self._compute.threads)
        self._flat.load(torch.tensor(model, device=self._device))
        self._try(shards)
        self._flat.module.train()
        chosen = [drawn(n, s.size, privacy.sampling_rate)[1] for n, s in zip(noises, shards, strict=True)]
        total = torch.zeros(len(shards), len(model), dtype=self._sums.wide, device=self._device)
        for some in passes([len(rows) for rows in chosen], self._most(shards)):
            if stop():
                raise Cancelled("training stopped before it was complete")
            batch = _gathered([(shards[i].train, chosen[i][part]) for i, part in some])
            ends = np.cumsum([part.stop - part.start for _, part in some]).tolist()
            here = tuple(tensor.to(self._device) for tensor in batch)
            self._sums.add(here, ends, privacy.clip, [total[i] for i, _ in some])
        deltas, told = descent(total.cpu().double().numpy()), self._told(model, shards, measured(privacy))
        # float64 on purpose, see `LocalUpdate.delta`.
        return LocalUpdates(deltas, np.ones(len(shards)), *told, None)  # type: ignore[arg-type]

    def _told(
        self, model: Vector, shards: Sequence[Shard], measure: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Totals of the received model's metrics for each client, (m, metrics), and of how many; no columns without."""
        m = len(shards)
        if not measure or not shards:
            return np.zeros((m, 0)), np.zeros(m, dtype=np.int64)
        self._held_out.load(model)
        # One client after the other: measured together, the rounding of a sum could move a noised step.
        found = [self._held_out.totals(shard.held_out) for shard in shards]
        return np.stack([totals for totals, _ in found]), np.array([count for _, count in found], dtype=np.int64)

    def _try(self, shards: Sequence[Shard]) -> None:
        """Whether the clients' examples may be in one batch; the first shard shows of what shape they are."""
        if shards:
            with seeded(0, self._device):
                self._sums.settle(tuple(t[:0].to(self._device) for t in shards[0].train))
        if self._sums.alone is not None:
            raise NotStackable(
                f"task '{self._name}': the model cannot be stacked: {self._sums.alone}; use the loop trainer"
            )

    def _most(self, shards: Sequence[Shard]) -> int:
        """Examples in one pass: what is read twice should stay in the cache."""
        values = max((t[0].numel() for shard in shards[:1] for t in shard.train if len(t)), default=1)
        return max(16, min(self._sums.most, _VALUES // values))


Piece = tuple[int, slice]
"""A client's number, and which part of its batch."""


def passes(counts: Sequence[int], most: int) -> Iterator[list[Piece]]:
    """All examples of clients with so many each, at most ``most`` a pass."""
    pieces: list[Piece] = []
    room = most
    for client, count in enumerate(counts):
        first = 0
        while first < count:
            last = min(count, first + room)
            pieces.append((client, slice(first, last)))
            room, first = room - (last - first), last
            if not room:
                yield pieces
                pieces, room = [], most
    if pieces:
        yield pieces


def _gathered(pieces: Sequence[tuple[Batch, NDArray[np.intp]]]) -> Batch:
    """The chosen rows of each client, one after the other."""
    found = []
    sizes = [len(rows) for _, rows in pieces]
    for tensors in zip(*(batch for batch, _ in pieces), strict=True):
        out = tensors[0].new_empty(sum(sizes), *tensors[0].shape[1:])
        for tensor, (_, rows), target in zip(tensors, pieces, out.split(sizes), strict=True):
            torch.index_select(tensor, 0, torch.from_numpy(rows), out=target)
        found.append(out)
    return tuple(found)
