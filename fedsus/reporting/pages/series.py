"""Series of a run for curves: thinned, so that ten thousand rounds are as quick to see as ten."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from fedsus.journal import AttemptAbandoned, RoundReleased
from fedsus.reporting import noise
from fedsus.reporting.figures import Absent

if TYPE_CHECKING:
    from fedsus.privacy.adversaries import Adversary
    from fedsus.reporting.pages.source import Source

T = TypeVar("T")
MOST_POINTS: Final = 240
MOST_ROWS: Final = 12
_EPSILONS: Final = 16
_HOUR: Final = 3600.0


def bins(items: Sequence[T], most: int = MOST_POINTS) -> list[Sequence[T]]:
    """At most ``most`` runs of neighbours."""
    several = max(-(-len(items) // most), 1)
    return [items[start : start + several] for start in range(0, len(items), several)]


def thinned(items: Sequence[T], most: int = MOST_ROWS) -> list[T]:
    """At most ``most`` of them, evenly, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def mean(values: Sequence[float]) -> float:
    """Of one or more."""
    return math.fsum(values) / len(values)


def epsilons(source: Source) -> tuple[list[int], dict[Adversary, list[float]]]:
    """Attempts up to the run's cap, and the protected unit's epsilon against each who it protects from.

    Empty without differential privacy.
    """
    from fedsus.privacy.accounting import epsilon
    from fedsus.privacy.adversaries import ADVERSARIES, spent
    from fedsus.protection import NoPrivacy

    here = source.specification
    if isinstance(here.privacy, NoPrivacy):
        return [], {}
    unit, _ = here.goal
    plan, delta, last = here.first_plan, here.privacy.delta, max(here.attempts, source.said.participation.attempts)
    places = {round(last ** (step / (_EPSILONS - 1))) for step in range(_EPSILONS)}
    attempts = sorted(places | ({source.said.participation.attempts} - {0}))
    found: dict[Adversary, list[float]] = {who: [] for who in ADVERSARIES}
    for count in attempts:
        events = spent(plan, count)
        for who in ADVERSARIES:
            found[who].append(epsilon(events[unit, who], delta))
    return attempts, {who: values for who, values in found.items() if math.isfinite(values[-1])}


@dataclass(slots=True)
class Hours:
    """Grams by hour of the day (UTC): 24 values each.

    Attributes:
        variance: of the devices' noise.
        most: that the devices can have reported; only with noise.
        known: whose grams are in it.
    """

    server: list[float] = field(default_factory=lambda: [0.0] * 24)
    devices: list[float] = field(default_factory=lambda: [0.0] * 24)
    variance: list[float] = field(default_factory=lambda: [0.0] * 24)
    most: list[float] = field(default_factory=lambda: [0.0] * 24)
    known: set[str] = field(default_factory=set)

    def tops(self) -> list[float]:
        """Grams of each hour, with nothing below zero."""
        return [max(self.server[hour], 0.0) + self.told(hour)[0] for hour in range(24)]

    def told(self, hour: int) -> tuple[float, float, float]:
        """Grams of the devices in an hour, with their range: three standard deviations, as far as they can be."""
        value, spread = self.devices[hour], noise.WIDE * math.sqrt(self.variance[hour])
        if not spread:
            return max(value, 0.0), max(value, 0.0), max(value, 0.0)
        return noise.within(value, spread, 0.0, self.most[hour])

    def used(self) -> list[int]:
        """Hours in which there is anything."""
        return [hour for hour in range(24) if self.server[hour] or self.devices[hour] or self.variance[hour]]


def hours(source: Source) -> Hours:
    """Carbon by hour: an interval's grams are spread evenly over it."""
    from fedsus.reporting.spending import costs_deviation, most_told

    found, deviations, plan = Hours(), dict[int, float](), source.specification.first_plan
    hidden = {line.machine for line in source.said.carbon.operational if isinstance(line.grams, Absent)}
    for entry in source.entries:
        if not isinstance(entry, RoundReleased | AttemptAbandoned):
            continue
        if entry.server is not None and entry.server.grams is not None:
            found.known.add("server")
            for hour, part in parts(entry.time, entry.server.seconds):
                found.server[hour] += part * entry.server.grams.value
        if isinstance(entry, RoundReleased) and entry.costs is not None and "grams" in entry.costs:
            if "devices" in hidden:
                continue
            found.known.add("devices")
            if entry.survivors not in deviations:
                deviations[entry.survivors] = costs_deviation(plan, "grams", Counter({entry.survivors: 1}))
            for hour, part in parts(entry.time, entry.seconds):
                found.devices[hour] += part * entry.costs["grams"]
                found.variance[hour] += (part * deviations[entry.survivors]) ** 2
                if deviations[entry.survivors]:
                    found.most[hour] += part * most_told(plan, "grams", Counter({entry.survivors: 1}))
    return found


def parts(end: float, seconds: float) -> list[tuple[int, float]]:
    """Hours of the day (UTC) that the interval before ``end`` touches, each with its share of the interval."""
    start = end - seconds
    seconds = end - start  # as far as a float of the clock tells
    if seconds <= 0:
        return [(int(end // _HOUR) % 24, 1.0)]
    days = max(seconds // 86_400 - 1, 0) * 86_400  # whole days are even over the hours
    shares = [days / 24 / seconds] * 24 if days else [0.0] * 24
    at = start
    while at < end - days:
        until = min((at // _HOUR + 1) * _HOUR, end - days)
        shares[int(at // _HOUR) % 24] += (until - at) / seconds
        at = until
    return [(hour, share) for hour, share in enumerate(shares) if share > 0]
