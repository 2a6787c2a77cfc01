"""Sums of what devices report of their costs, from a journal's entries: how many, and how far off they may be."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from fedsus.journal import RoundReleased
from fedsus.reporting import noise
from fedsus.reporting.outside import GRAMS
from fedsus.reporting.spending import costs_deviation, costs_rounding, most_told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedsus.journal import Entry
    from fedsus.reporting.figures import Absent
    from fedsus.rounds.planning.specification import Specification


def reports(entries: Sequence[Entry]) -> list[tuple[RoundReleased, Mapping[str, float]]]:
    """The releases that tell costs, with these."""
    return [(e, e.costs) for e in entries if isinstance(e, RoundReleased) and e.costs is not None]


def reporting_of(told: Sequence[tuple[RoundReleased, Mapping[str, float]]]) -> int | None:
    """How many reports are in the sums; None where private reports do not tell."""
    if not any("devices" in costs for _, costs in told):
        return None
    return round(math.fsum(costs.get("devices", 0.0) for _, costs in told))


def range_of(
    specification: Specification, told: Sequence[tuple[RoundReleased, Mapping[str, float]]], name: str
) -> tuple[float, float, float]:
    """Value, low and high of a summed cost: the devices' own range, or three standard deviations of noise.

    Noise may take a sum below zero, which nobody can have used: it is then said to be 0, and the source says why; or
    beyond what all could report, which no range goes beyond.
    """
    value = math.fsum(costs.get(name, 0.0) for _, costs in told)
    plan, survivors = specification.first_plan, Counter(entry.survivors for entry, _ in told)
    rounding = costs_rounding(plan, name, survivors)
    if specification.privacy.unit != "none":
        spread = noise.WIDE * costs_deviation(plan, name, survivors) + rounding
        return noise.within(value, spread, 0.0, most_told(plan, name, survivors))
    spread = _told_range(told, value, name) + rounding
    found = max(value, 0.0)
    return found, max(value - spread, 0.0), max(value + spread, found)


def hidden(
    specification: Specification, told: Sequence[tuple[RoundReleased, Mapping[str, float]]], name: str
) -> Absent | None:
    """Why a summed cost is not told, where noise hides it."""
    plan, survivors = specification.first_plan, Counter(entry.survivors for entry, _ in told)
    deviation, unit = costs_deviation(plan, name, survivors), "J" if name == "joules" else GRAMS
    return noise.hidden(deviation, 0.0, most_told(plan, name, survivors), unit)


def _told_range(told: Sequence[tuple[RoundReleased, Mapping[str, float]]], value: float, name: str) -> float:
    """What the devices say that their joules may be off, and in proportion for what follows from them."""
    joules, spread = (math.fsum(costs.get(key, 0.0) for _, costs in told) for key in ("joules", "spread"))
    if name == "joules":
        return spread
    return value * spread / joules if joules > 0 else 0.0
