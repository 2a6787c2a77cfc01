"""Privacy parts that differ in their noise alone, and what to ask for where even the most noise is not enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from fedsus.privacy.calibration import most_attempts

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedsus.config import RunConfig
    from fedsus.protection import Privacy, Private

    Spends: TypeAlias = Callable[[Privacy, int], float]

_HIGHEST: Final = 1000.0
"""Epsilon that a run may ask for."""

_TRIED: Final = 20
"""Epsilons, each what the one before would spend, until one covers what it spends."""


@dataclass(frozen=True, slots=True)
class Family:
    """A privacy part as a function of its noise multiplier, the largest that it takes, and what else would help.

    Attributes:
        most: that of the largest, were epsilon and attempts others; None where it would be the same.
    """

    of: Callable[[float], Private]
    largest: float
    hint: str = ""
    most: Callable[[float, int], Private] | None = None


def impossible(config: RunConfig, family: Family, spends: Spends, epsilon: float) -> str:
    """No noise is enough: the least epsilon that would be reached, and how many rounds would fit."""
    asked, attempts = config.plan, config.plan.rounds + config.plan.spares
    same = family.of(family.largest)

    def most(given: float, count: int) -> float:
        return spends(same if family.most is None else family.most(given, count), count)

    spent, least = _rounded_up(most(epsilon, attempts) * (1 + 1e-5)), _reached(lambda one: most(one, attempts), epsilon)
    rounds = None
    if asked.privacy.bands is None:  # else what is spent depends on the rounds, and not on the attempts
        rounds = asked.rounds_within(most_attempts(epsilon, lambda count: most(epsilon, count), attempts))
    ways = [f"epsilon = {least:g} or more"] if least <= _HIGHEST else []
    ways += [f"at most {rounds} rounds"] if rounds else []
    spend = f"{spent:g}" if spent <= _HIGHEST else f"more than {_HIGHEST:g}"
    alone = asked.privacy.bands is None and not family.hint and math.isinf(spends(same, 1))  # no rounds are too few
    other = f"a delta above {asked.privacy.delta:g}" if alone else "fewer rounds"
    return (
        f"plan.privacy.epsilon = {epsilon:g}: {asked.rounds} rounds with {asked.spares} spare attempts spend "
        f"{spend} even with the most noise that a plan holds (multiplier {family.largest:.4g}); "
        f"ask for {', '.join(ways) or other}{family.hint}"
    )


def _reached(spends: Callable[[float], float], epsilon: float) -> float:
    """The least epsilon, from ``epsilon`` on, that covers what is spent of it; infinity if it is not found soon."""
    for _ in range(_TRIED):
        found = _rounded_up(spends(epsilon) * (1 + 1e-5))
        if found <= epsilon or found > _HIGHEST:
            return max(found, epsilon)
        epsilon = found
    return math.inf


def _rounded_up(number: float) -> float:
    """To four significant digits."""
    if not 0 < number < math.inf:
        return number
    digits = 3 - math.floor(math.log10(number))
    return float(f"{math.ceil(number * 10.0**digits)}e{-digits}")
