"""Metrics of a model on held-out examples: bounded sums for a federation, a report for the owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import nn

from fedsus.learning.parameters import load_into
from fedsus.tasks.task import Scoring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    from fedsus.tasks.task import Batch, Task
    from fedsus.types import Vector

_CHUNK: Final = 2048
_FEWEST: Final = 5
"""Held-out examples of each class below which an AUC says nothing."""

_LOWER_IS_BETTER: Final = ("loss", "error")


def totals(task: Task, module: nn.Module, batch: Batch) -> NDArray[np.float64]:
    """Sums of the task's metrics over the batch, (len(bounds),) float64, of the values that `each` gives."""
    result = np.zeros(len(task.bounds))
    for values in _measured(task, module, batch):
        result += values.sum(axis=0)
    return result


def each(task: Task, module: nn.Module, batch: Batch) -> NDArray[np.float64]:
    """The task's metrics of each example, (B, len(bounds)) float64.

    Each value is clamped to its bounds. A value that is not finite counts as the worse bound: the upper for
    metrics whose name ends in "loss" or "error", else the lower.
    """
    return np.concatenate([np.zeros((0, len(task.bounds))), *_measured(task, module, batch)])


def owner_report(task: Task, model: Vector, batch: Batch) -> dict[str, float]:
    """Mean of each metric, and "auc" where the task ranks examples and each class has at least 5.

    For the owner's folder: under differential privacy nothing of it leaves the device. Empty without examples.
    """
    count = len(batch[0])
    if count == 0:
        return {}
    module = task.model(0)
    load_into(module, model)
    report = {name: float(value) / count for name, value in zip(task.bounds, totals(task, module, batch), strict=True)}
    if isinstance(task, Scoring):
        scores, labels = scores_of(task, module, batch)
        positive = int(labels.sum())
        if min(positive, count - positive) >= _FEWEST and np.isfinite(scores).all():
            report["auc"] = auc(scores, labels)
    return report


def scores_of(task: Scoring, module: nn.Module, batch: Batch) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Score and class of each example, both (B,)."""
    module.eval()
    with torch.inference_mode():
        parts = [task.scores(module, part) for part in _chunks(batch)]
    scores = np.concatenate([score.double().cpu().numpy().reshape(-1) for score, _ in parts])
    labels = np.concatenate([label.cpu().numpy().reshape(-1) for _, label in parts])
    return scores, labels > 0.5


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney U over the pairs; ties count half); NaN without both classes."""
    from scipy.stats import rankdata

    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    m = int(positive.sum())
    n = positive.size - m
    if m == 0 or n == 0:
        return float("nan")
    return float((rankdata(values)[positive].sum() - m * (m + 1) / 2) / (m * n))


def auc_interval(scores: ArrayLike, labels: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """The AUC and its confidence interval, clipped to [0, 1].

    Variance by placement values (DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44:837), by mid-ranks as in
    Sun and Xu (2014, IEEE Signal Processing Letters 21:1389); NaN where a class has fewer than two examples.
    """
    from scipy.stats import norm, rankdata

    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(labels).astype(bool)
    cases, controls = values[positive], values[~positive]
    m, n = cases.size, controls.size
    area = auc(values, positive)
    if m < 2 or n < 2:
        return area, float("nan"), float("nan")
    ranks = rankdata(values)
    of_cases = (ranks[positive] - rankdata(cases)) / n
    of_controls = 1 - (ranks[~positive] - rankdata(controls)) / m
    deviation = float(np.sqrt(of_cases.var(ddof=1) / m + of_controls.var(ddof=1) / n))
    reach = float(norm.ppf((1 + level) / 2)) * deviation
    return area, max(0.0, area - reach), min(1.0, area + reach)


def _measured(task: Task, module: nn.Module, batch: Batch) -> Iterator[NDArray[np.float64]]:
    """(rows, metrics) of one part of the batch after the other."""
    low, high, worse = _bounds(task)
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            for part in _chunks(batch):
                values = task.measure(module, part).double().cpu().numpy()
                yield np.clip(np.where(np.isfinite(values), values, worse), low, high)
    finally:
        module.train(was_training)


def _bounds(task: Task) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    low, high = np.array(list(task.bounds.values()), dtype=np.float64).reshape(-1, 2).T
    rising_is_worse = [name.endswith(_LOWER_IS_BETTER) for name in task.bounds]
    return low, high, np.where(rising_is_worse, high, low)


def _chunks(batch: Batch) -> Iterator[Batch]:
    for start in range(0, len(batch[0]), _CHUNK):
        yield tuple(tensor[start : start + _CHUNK] for tensor in batch)
