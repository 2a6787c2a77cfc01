"""When the next round of a run starts: at the cleanest hours that a forecast shows, within what is left of the slack.

Suspend and resume: a run may pause between any two rounds, never within one (as in Wiesner et al., "Let's Wait Awhile",
Middleware 2021, whose interruptible jobs pause anywhere). Nothing here knows a client: time is all that is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.energy.grid.intensity import Steps
from fedsus.errors import EnvironmentFault

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus.energy.grid.intensity import Step

_GAPS: Final = "the forecast has gaps, or steps that overlap"
_EQUAL: Final = 1e-9
"""Relative difference of sums below which an earlier start is as good."""

_MOST_SLOTS: Final = 4000
"""Steps of a forecast that are looked at; a longer one is looked at in longer steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is left to do.

    Attributes:
        rounds: 1 or more.
        seconds: that each of them takes, > 0.
    """

    rounds: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """When the next round starts.

    Attributes:
        at: seconds since the epoch; never before now.
        mean: expected g CO2e/kWh of the rounds that, were none put off, would start within the forecast; None without.
        at_once: the same, were none put off.
        why: in a few words, for a person.
    """

    at: float
    why: str
    mean: float | None = None
    at_once: float | None = None

    @property
    def saved(self) -> float:
        """The expected saving, as a fraction of what running at once emits; 0 without a forecast."""
        if self.mean is None or not self.at_once:
            return 0.0
        saved = 1 - self.mean / self.at_once
        return saved if saved > _EQUAL else 0.0


def next_start(forecast: Sequence[Step], now: float, slack: float, work: Work, step: float) -> Start:
    """The start that, with the best starts of all rounds after it, has the least carbon.

    Exact for rounds that start after whole steps: of V(i, j), the least sum for i blocks of rounds with j steps of
    waiting left, V(i, j) = min over j' <= j of cost(i, j') + V(i - 1, j'). Of equal sums the earliest start counts.
    Hours behind the forecast's end count as the mean of those before it, so that nothing is put off into the unknown
    unless all that is known before is worse than that.

    Args:
        forecast: steps in order, without gaps; the first holds ``now``; empty where nothing is known.
        now: seconds since the epoch.
        slack: seconds of waiting that are left, for all rounds together; below one step, nothing is put off.
        step: seconds, > 0.

    Raises:
        EnvironmentFault: a forecast with gaps, not of now, or with values that are no intensity.
    """
    if not forecast:
        return Start(at=now, why="no forecast")
    edges, values = _arrays(forecast, now)
    end = float(edges[-1])
    step = max(step, end / _MOST_SLOTS)
    waits = math.floor(slack / step) if slack > 0 else 0
    known = math.floor(end / step)
    if known < 1:
        return Start(at=now, why="the forecast ends too soon")
    each = max(1, math.ceil(work.seconds / step - _EQUAL))
    blocks = math.ceil(work.rounds / max(1, math.floor(step / work.seconds + _EQUAL)))
    # Blocks and waits that lie behind the forecast's end cost the same wherever they are.
    blocks, waits = min(blocks, math.ceil(known / each)), min(waits, known)
    costs = _costs(edges, values, step, known, blocks * each + waits, each)
    first, least = _best(costs, blocks, waits, each)
    at_once = float(sum(costs[block * each] for block in range(blocks)))
    mean, straight = least / (blocks * each), at_once / (blocks * each)
    if not first:
        why = "no slack is left" if slack < step else "no later hour is cleaner"
        return Start(at=now, why=why, mean=mean, at_once=straight)
    return Start(at=now + first * step, why="a cleaner hour", mean=mean, at_once=straight)


def _arrays(forecast: Sequence[Step], now: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges, (n + 1,) seconds from now on, and values, (n,), both float64; refuses what no forecast of now can be."""
    if isinstance(forecast, Steps):
        edges, values = forecast.edges, forecast.values
    else:
        starts, ends = np.array([step.start for step in forecast]), np.array([step.end for step in forecast])
        if np.any(starts[1:] != ends[:-1]):
            raise EnvironmentFault(_GAPS)
        edges, values = np.append(starts[:1], ends), np.array([step.rate.value for step in forecast])
    if np.any(edges[1:] <= edges[:-1]):
        raise EnvironmentFault(_GAPS)
    if not edges[0] <= now < edges[-1]:
        raise EnvironmentFault("the forecast is of another time than now")
    if not np.all(np.isfinite(values)) or np.any(values < 0):
        raise EnvironmentFault("the forecast has values that are no carbon intensity: negative, or not finite")
    return edges - now, values


def _costs(
    edges: NDArray[np.float64], values: NDArray[np.float64], step: float, known: int, slots: int, each: int
) -> NDArray[np.float64]:
    """Sum of the mean intensities of ``each`` slots from slot i on: (slots - each + 1,) float64."""
    areas = values * np.diff(edges)
    until = np.interp(np.arange(known + 1) * step, edges, np.concatenate([[0.0], np.cumsum(areas)]))
    means = np.diff(until) / step
    behind = np.full(max(slots - known, 0), means.mean())
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([means[:slots], behind]))])
    found: NDArray[np.float64] = sums[each:] - sums[:-each]
    return found


def _best(costs: NDArray[np.float64], blocks: int, waits: int, each: int) -> tuple[int, float]:
    """Slots that the first of ``blocks`` waits, and the least sum."""
    least = np.zeros(waits + 1)
    first, best = 0, 0.0
    for left in range(1, blocks + 1):
        # With j of the waits left, the block that has ``left`` - 1 after it starts after all others and waits - j.
        starts = (blocks - left) * each + waits - np.arange(waits + 1)
        sums = costs[starts] + least
        least = np.minimum.accumulate(sums)
        if left == blocks:
            best = float(least[-1])
            good = np.flatnonzero(sums <= best + _EQUAL * max(best, 1.0))
            first = waits - int(good[-1])
    return first, best
