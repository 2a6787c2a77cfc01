"""Metrics on held-out examples beside sums of gradients, which nothing here may touch.

A held-out example moves what is told of it, and that is noised for all of its range (`fedsus.privacy.adversaries`). It
must not move the gradients, whose noise is for one clipped example of the batch: so the model is another object, and
what fails is told as nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from fedsus.learning import evaluation
from fedsus.learning.parameters import load_into

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from fedsus.tasks.task import Batch, Task
    from fedsus.types import Vector

log = logging.getLogger("fedsus.device")


class HeldOut:
    """Measures one model after the other.

    Args:
        task: its model is built once, at the first `load`.
    """

    def __init__(self, task: Task, device: torch.device) -> None:
        self._task, self._device = task, device
        self._module: nn.Module | None = None

    def load(self, model: Vector) -> None:
        """Measure ``model`` (d,) from here on."""
        if self._module is None:
            self._module = self._task.model(0).to(self._device)
        load_into(self._module, model)

    def totals(self, batch: Batch) -> tuple[NDArray[np.float64], int]:
        """Sums of the task's metrics over the batch, (metrics,) float64, and of how many; zeros of none where the
        task's code fails."""
        if self._module is None:
            raise RuntimeError("no model is loaded")
        try:
            here = tuple(tensor.to(self._device) for tensor in batch)
            return evaluation.totals(self._task, self._module, here), len(batch[0])
        except Exception as error:  # whatever it is, the gradients are as they were
            log.warning("no metrics are told: %s: %s", type(error).__name__, " ".join(str(error).split())[:200])
            return np.zeros(len(self._task.bounds)), 0
