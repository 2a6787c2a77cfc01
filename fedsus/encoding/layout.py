"""Which coordinates of the summed integer vector mean what. Both sides derive it from the plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fedsus.plan import Plan


@dataclass(frozen=True, slots=True)
class Layout:
    """Segments of the integer vector, in this order; a segment that is not sent has length 0.

        update      (dimension,)  the model's change                         train
        weight      (1,)          examples behind it                         train without DP
        saturated   (1,)          coordinates that were clamped              train without DP
        metrics     (metrics,)    sums of metrics over the held-out part     without DP
        held_out    (1,)          examples behind the metrics                without DP
        costs       (costs,)      sums of what devices used                  without DP, where the plan asks for them

    Attributes:
        dimension: trainable parameters of the model.
        metrics: number of metrics that the plan names.
        private: whether the run is differentially private; then the update alone leaves a device.
        purpose: "evaluate" asks for metrics, and costs, alone.
        reported: number of costs that the plan names.
    """

    dimension: int
    metrics: int
    private: bool
    purpose: Literal["train", "evaluate"] = "train"
    reported: int = 0

    @classmethod
    def of(cls, plan: Plan) -> Layout:
        """The layout of a plan."""
        return cls(plan.dimension, len(plan.metrics), plan.private, plan.purpose, len(plan.cost_ranges))

    @property
    def update(self) -> slice:
        """The model's change."""
        return slice(0, self.dimension if self.purpose == "train" else 0)

    @property
    def weight(self) -> slice:
        """Examples behind the update."""
        return self._after(self.update, int(self._counts))

    @property
    def saturated(self) -> slice:
        """Clamped coordinates."""
        return self._after(self.weight, int(self._counts))

    @property
    def totals(self) -> slice:
        """Sums of the metrics."""
        return self._after(self.saturated, 0 if self.private else self.metrics)

    @property
    def held_out(self) -> slice:
        """Examples behind the metrics."""
        return self._after(self.totals, int(not self.private))

    @property
    def costs(self) -> slice:
        """Sums of what devices used."""
        return self._after(self.held_out, 0 if self.private else self.reported)

    @property
    def size(self) -> int:
        """Length of the integer vector."""
        return int(self.costs.stop)

    @property
    def _counts(self) -> bool:
        return self.purpose == "train" and not self.private

    @staticmethod
    def _after(previous: slice, length: int) -> slice:
        return slice(previous.stop, previous.stop + length)
