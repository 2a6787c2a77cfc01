"""What noise leaves of a figure: nothing beyond its public range, and no figure at all where noise hides it.

Both follow from what is in the journal and from the plan: post-processing, which no epsilon counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedsus.reporting.figures import Absent
from fedsus.reporting.spending import metric_deviation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedsus.plan import Plan

SURE: Final = 2
"""Standard deviations to either side, between which 95 % of the noise lies."""

WIDE: Final = 3
"""Likewise, of the ranges that figures have."""

_LARGE: Final = 1000.0


def within(value: float, spread: float, low: float, high: float) -> tuple[float, float, float]:
    """Value, low and high of what is ``spread`` off to either side, cut to what it can be: ``low`` to ``high``."""
    cut = [min(max(one, low), high) for one in (value, value - spread, value + spread)]
    return cut[0], cut[1], cut[2]


def hidden(deviation: float, low: float, high: float, unit: str = "") -> Absent | None:
    """Why a figure is not told: 95 % of its noise spans all that it can be, ``low`` to ``high``, or more.

    The noisy value then tells hardly more than is known without it. None where the noise is less.
    """
    if 2 * SURE * deviation < high - low or not deviation:
        return None
    unit, half = f" {unit}" if unit else "", SURE * deviation
    shown = f"{half:.3g}" if half < _LARGE else f"{half:,.0f}"
    return Absent(absent=f"noise of +-{shown}{unit} hides it: its range is {low:g} to {high:,.6g}{unit}")


def hidden_metric(plan: Plan, name: str, survivors: int) -> Absent | None:
    """Likewise of a metric's mean over so many devices."""
    metric = next((one for one in plan.metrics if one.name == name), None)
    if metric is None:
        return None
    return hidden(metric_deviation(plan, name, survivors), metric.low, metric.high)


def metric_within(plan: Plan, name: str, value: float, survivors: int) -> tuple[float, float, float]:
    """Value, low and high of a metric's mean over so many devices; all the same without noise."""
    metric = next((one for one in plan.metrics if one.name == name), None)
    deviation = metric_deviation(plan, name, survivors)
    if metric is None or not deviation:
        return value, value, value
    return within(value, WIDE * deviation, metric.low, metric.high)


def seen(plan: Plan, metrics: Mapping[str, float], survivors: int) -> dict[str, float]:
    """A round's metrics as far as noise does not hide them, each within its own range."""
    return {
        name: metric_within(plan, name, value, survivors)[0]
        for name, value in metrics.items()
        if hidden_metric(plan, name, survivors) is None
    }


def live(plan: Plan | None, metrics: Mapping[str, float], survivors: int) -> list[str]:
    """A round's metrics in words: "loss 0.71", "loss 0.71 (noise +-0.05)" (95 % of it), "loss: hidden by noise"."""
    return [_live(plan, name, value, survivors) for name, value in metrics.items()]


def _live(plan: Plan | None, name: str, value: float, survivors: int) -> str:
    deviation = 0.0 if plan is None else metric_deviation(plan, name, survivors)
    if plan is None or not deviation:
        return f"{name} {value:.4g}"
    if hidden_metric(plan, name, survivors) is not None:
        return f"{name}: hidden by noise"
    return f"{name} {metric_within(plan, name, value, survivors)[0]:.4g} (noise +-{SURE * deviation:.2g})"
