"""Whether a plan asks for its task's metrics: for all of them, in their ranges and order, or for none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from fedsus.plan import Metric

Bounds: TypeAlias = Mapping[str, tuple[float, float]]
"""`fedsus.tasks.task.Task.bounds`."""


def are_of(asked: Sequence[Metric], bounds: Bounds) -> bool:
    """Also in order: totals are told apart by their place alone."""
    return not asked or [(one.name, (one.low, one.high)) for one in asked] == list(bounds.items())


def for_owner(asked: Sequence[Metric], bounds: Bounds) -> str:
    """Why a device refuses them, in one line of its log."""
    has = ", ".join(f"{one.name} {one.low:g} to {one.high:g}" for one in asked)
    right = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in bounds.items())
    return f"the plan's metrics ({has}) are not the task's, in this order: it must name all of ({right}), or none"


def for_operator(task: str, bounds: Bounds) -> str:
    """What is wrong with ``metrics`` of a run's file, and what to write."""
    right = ", ".join(
        f'{{ name = "{name}", low = {float(low)}, high = {float(high)} }}' for name, (low, high) in bounds.items()
    )
    return (
        f"plan.metrics: they are not those of task '{task}', in its order, so that every device would refuse; write "
        f"metrics = [{right}], or leave 'metrics' out"
    )
