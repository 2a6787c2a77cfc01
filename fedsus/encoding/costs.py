"""What devices tell of their costs, as integers beside an update, and the sums of these.

    without DP   round(min(v, high) / high U)          U = floor((2**bits - 1) / N): a sum of N reports cannot wrap
    with DP      round(min(v, high) / high S) - S / 2  S = `METRIC_STEPS`: in one noised block with the metrics

Ranges begin at 0, so that who reports nothing adds nothing. A report of which one figure is NaN, infinite or negative
counts as none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fedsus.errors import ProtocolViolation
from fedsus.privacy.sensitivity import METRIC_STEPS, client_metrics
from fedsus.protection import ClientCentral, Distributed

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from fedsus.plan import Plan
    from fedsus.types import Mean


class CostBlock:
    """The block of a plan; empty where it asks for none.

    Attributes:
        most: upper ends of the ranges, (k,) float64.
        steps: integer steps from 0 to the upper end.
        zero: the step that is sent as the integer 0.
    """

    def __init__(self, plan: Plan) -> None:
        self.most = np.array([high for _, high in plan.cost_ranges.values()], dtype=np.float64)
        self.steps, self.zero = METRIC_STEPS, METRIC_STEPS // 2
        if not plan.private:
            self.steps, self.zero = ((1 << plan.encoding.bits) - 1) // plan.cohort.size, 0

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return len(self.most)

    def whole(self, costs: NDArray[np.float64] | None, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Integers of ``count`` clients' reports (count, k), and how many figures of each were clamped, (count,).

        None, or rows without a figure, are clients that report nothing.

        Raises:
            ProtocolViolation: reports of another length than the plan's.
        """
        whole, clamped = np.full((count, self.size), -self.zero, dtype=np.int64), np.zeros(count, dtype=np.int64)
        if costs is None or not self.size or not costs.shape[1]:
            return whole, clamped
        if costs.shape != whole.shape:
            raise ProtocolViolation(f"update: {costs.shape[1]} figures of costs, the plan names {self.size}")
        good = (np.isfinite(costs) & (costs >= 0)).all(axis=1)
        whole[good] += np.rint(np.minimum(costs[good], self.most) / self.most * self.steps).astype(np.int64)
        clamped[good] = np.count_nonzero(costs[good] > self.most, axis=1)
        return whole, clamped

    def sums(self, total: NDArray[np.number[Any]], survivors: int) -> NDArray[np.float64]:
        """Sums of the reports from the sums of their integers, (k,) float64; negative where noise makes them so."""
        steps = np.asarray(total, dtype=np.float64) + survivors * self.zero
        found: NDArray[np.float64] = steps / self.steps * self.most
        return found


def told_sums(plan: Plan, mean: Mean) -> dict[str, float] | None:
    """What a round tells of the costs of its survivors together, by name; None where the plan asks for nothing."""
    return _named(plan, mean.costs) if plan.costs is not None else None


def told_spread(plan: Plan, survivors: int) -> dict[str, float]:
    """Standard deviation of the noise in each cost's sum over one round, in the cost's unit; 0 without DP."""
    return _named(plan, told_devices(plan, survivors) * CostBlock(plan).most)


def told_devices(plan: Plan, survivors: int) -> float:
    """The same of each metric and cost alike, in whole ranges of one device; 0 without DP.

    A sum over fewer devices than this says nothing, and its mean is off by this over ``survivors`` of the range.
    """
    privacy, steps = plan.privacy, 0.0
    if isinstance(privacy, Distributed) and privacy.shares.metrics is not None:
        steps = math.sqrt(privacy.shares.metrics * survivors)
    if isinstance(privacy, ClientCentral) and privacy.metrics is not None:
        steps = privacy.metrics * client_metrics(plan.told).l2
    return steps / METRIC_STEPS


def told_rounding(plan: Plan, survivors: int) -> dict[str, float]:
    """The most that rounding moves each cost's sum over one round, in the cost's unit."""
    block = CostBlock(plan)
    return _named(plan, survivors / 2 / block.steps * block.most)


def _named(plan: Plan, values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(plan.cost_ranges, values.tolist(), strict=True))
