"""Sums of clipped per-example gradients (Abadi et al. 2016, Algorithm 1): what one example may move is bounded here.

Three things must hold for that bound, whatever the data. An example whose gradient is not finite, or at which the
task's code fails, counts as the zero vector. Norms and sums are float64. And an example more does not change how the
gradients of the others are rounded: see `fedsus.learning.places`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from fedsus.errors import ConfigError
from fedsus.learning import places
from fedsus.learning.loop import seeded
from fedsus.learning.per_example import Hooked, Layerwise, PerExample, losses_of
from fedsus.learning.per_example_layers import NotLayerwise
from fedsus.learning.stacked import keep_freed_memory
from fedsus.learning.stacking.converting import NotStackable
from fedsus.learning.stacking.watching import watched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from fedsus.learning.parameters import Flat
    from fedsus.learning.per_example_parts import Part
    from fedsus.tasks.task import Batch, Task

log = logging.getLogger("fedsus.device")

_CHUNK: Final = 1 << 22
"""Values held at once for the gradients of single examples: 16 MB."""

_LEAST: Final = 1 << 13
"""An example counts as at least so many values, for its activations take memory too: at most 512 in a pass."""

_TOLERANCE: Final = 1e-4


class ClippedSums:
    """Adds up the clipped gradients of examples.

    How is decided once, at the first batch, by the model and the shape of its inputs, on made-up examples: layer by
    layer where that gives what torch's backward pass gives, else by Opacus' hooks, which is said in the log.

    Args:
        task: its loss must treat examples independently: the loss of one may not depend on another.
        flat: the module, with the parameters that gradients are taken at. It must not be used otherwise meanwhile.

    Attributes:
        wide: the type of norms and sums: float64, which the device must have.
        alone: why examples of several clients may not be in one batch; None if they may, and before the first batch.

    Not for use from two threads at once.
    """

    def __init__(self, task: Task, flat: Flat, device: torch.device) -> None:
        self._task, self._flat, self._device = task, flat, device
        self.wide = torch.float64
        self.alone: str | None = None
        self._way: PerExample | None = None
        keep_freed_memory()
        self._size, self._steady = 0, places.Steady(places.ROWS, places.ROWS)

    def sum(
        self, batch: Batch, chosen: NDArray[np.intp], clip: float, lanes: NDArray[np.intp] | None = None
    ) -> NDArray[np.float64]:
        """Sum of the clipped gradients of the examples in the rows ``chosen``, (d,) float64; zero if there are none.

        An example more or less moves it by at most ``clip`` in L2 norm, if the other examples keep their lanes.

        Args:
            lanes: see `fedsus.learning.places`; by default an example's row says it.

        Raises:
            ConfigError: the loss of made-up examples is not one number an example.
        """
        total = torch.zeros(self._flat.gradient.numel(), dtype=self.wide, device=self._device)
        if len(chosen):
            self.settle(batch)
        rows, used = places.laid_out(chosen, chosen if lanes is None else lanes, self._steady, self.most)
        failed: list[Exception] = []
        for some in places.passes(len(rows), self.most, self._steady):
            try:
                parts = self._parts(batch, rows[some])
            except Exception:  # the task's code: were all dropped, one example would move the sum by all others
                self._one_by_one(batch, rows[some], used[some], clip, total, failed)
            else:
                self._add(parts, used[some], clip, total)
        if failed:
            why = " ".join(f"{type(failed[0]).__name__}: {failed[0]}".split())[:200]
            log.warning("training: examples that count as zero: %d: %s", len(failed), why)
        summed: NDArray[np.float64] = total.cpu().double().numpy()
        return summed

    def _parts(self, batch: Batch, rows: NDArray[np.intp]) -> Sequence[Part]:
        if self._way is None:
            raise RuntimeError("how gradients are computed is not settled")
        index = torch.from_numpy(rows).to(self._device)
        return self._way.parts(tuple(tensor[index] for tensor in batch))

    def _one_by_one(
        self,
        batch: Batch,
        rows: NDArray[np.intp],
        used: NDArray[np.bool_],
        clip: float,
        total: Tensor,
        failed: list[Exception],
    ) -> None:
        """Each example that counts in a pass of its own, in its lane; those that fail there are zero."""
        whole = min(self._steady.rows, self.most) or self.most
        for place in np.flatnonzero(used):
            try:
                parts = self._parts(batch, np.full(whole, rows[place]))
            except Exception as error:
                failed.append(error)
            else:
                self._add(parts, np.arange(whole) == place % whole, clip, total)

    def _add(self, parts: Sequence[Part], used: NDArray[np.bool_], clip: float, total: Tensor) -> None:
        if parts:
            _add_clipped(parts, (len(used),), clip, [total], torch.from_numpy(used).to(self._device))

    def add(
        self, batch: Batch, ends: Sequence[int], clip: float, totals: Sequence[Tensor], used: Tensor | None = None
    ) -> None:
        """Add to the i-th of ``totals``, (d,) each, the clipped gradients of the examples from ends[i-1] to ends[i].

        `settle` comes first.

        Args:
            used: (rows,) bool, False for examples that only fill up; by default all count.
        """
        if self._way is None:
            raise RuntimeError("how gradients are computed is not settled")
        parts = self._way.parts(batch)
        if parts:
            _add_clipped(parts, ends, clip, totals, used)

    @property
    def most(self) -> int:
        """Examples in one pass: a multiple of 16, or a power of two where that would be too many."""
        most = max(1, _CHUNK // max(self._size, _LEAST))
        return most // places.ROWS * places.ROWS or 1 << most.bit_length() - 1

    def settle(self, batch: Batch) -> None:
        """Decide how; only the shapes and types of ``batch`` are looked at, and no parameters that came from others."""
        if self._way is not None:
            return
        before = self._flat.values.detach().clone()
        with seeded(0, self._device):
            self._flat.load(0.1 * torch.randn(before.shape).to(self._device))
            self._check_loss(batch)
            try:
                self._way = self._layerwise(batch)
            except NotLayerwise as error:
                self.alone = " ".join(str(error).split())[:200]
                log.info("gradients of single examples by Opacus' hooks, which are slower: %s", self.alone)
                self._way, self._size = Hooked(self._task, self._flat, self.wide), self._flat.gradient.numel()
            self._steady = places.steady(self._way, self._flat.module, batch)
        self._flat.load(before)

    def _check_loss(self, batch: Batch) -> None:
        """Refuse a loss of another shape, on made-up examples: a refusal must not depend on those of a shard.

        Raises:
            ConfigError: it is not one number an example.
        """
        try:
            losses_of(self._task, self._flat.module, places.made_up(batch, places.ROWS))
        except ConfigError:
            raise
        except Exception as error:  # the task's code need not bear what is made up
            log.info("the loss of made-up examples: %s", type(error).__name__)

    def _layerwise(self, batch: Batch) -> Layerwise:
        way = Layerwise(self._task, self._flat, self.wide)
        try:
            self._compare(way, places.made_up(batch, places.ROWS))
        except NotLayerwise:
            way.close()
            raise
        except Exception as error:  # the task is the user's code, and may do anything with what it is not made for
            way.close()
            raise NotLayerwise(f"{type(error).__name__}: {error}") from error
        return way

    def _compare(self, way: Layerwise, batch: Batch) -> None:
        """Weighted sums of the gradients must be those of torch's own backward pass, which shows each example's.

        Raises:
            NotLayerwise: they are not.
        """
        self._flat.module.train()
        weights = torch.rand(len(batch[0]), device=self._device) + 0.5
        state = torch.get_rng_state()
        try:
            with watched(self._device):
                parts = way.parts(batch)
        except NotStackable as error:
            self.alone = str(error)
            torch.set_rng_state(state)
            parts = way.parts(batch)
        self._size = sum(part.size for part in parts)
        found = torch.zeros(self._flat.gradient.numel(), dtype=self.wide, device=self._device)
        with torch.no_grad():
            for part in parts:
                part.add_to([found], (len(weights),), weights.to(self.wide))
        way.close()
        torch.set_rng_state(state)
        expected = self._weighted(batch, weights).to(self.wide)
        way.open()
        if not _close(expected, found):
            raise NotLayerwise("the gradient of an example is not what its layers make of it")

    def _weighted(self, batch: Batch, weights: Tensor) -> Tensor:
        """The gradient of the weighted sum of the losses, (d,) float32."""
        self._flat.gradient.zero_()
        (losses_of(self._task, self._flat.module, batch) * weights).sum().backward()  # type: ignore[no-untyped-call]
        return self._flat.gradient.clone()


@torch.no_grad()
def _add_clipped(
    parts: Sequence[Part], ends: Sequence[int], clip: float, totals: Sequence[Tensor], used: Tensor | None
) -> None:
    norms = torch.stack([part.squares() for part in parts]).sum(0).sqrt_()
    finite = norms.isfinite()
    if not bool(finite.all()):
        parts = [part.without(~finite) for part in parts]  # zero times NaN would still be NaN
    counted = finite if used is None else finite & used
    factors = torch.where(counted, (clip / norms).clamp(max=1.0), 0.0)
    for part in parts:
        part.add_to(totals, ends, factors)


def _close(one: Tensor, other: Tensor) -> bool:
    scale = float(one.abs().max())
    return bool(torch.allclose(one, other, rtol=0.0, atol=_TOLERANCE * scale)) and scale < float("inf")
