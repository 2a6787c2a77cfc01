"""A Renyi filter: releases are let pass while their Renyi divergences, at one order, add up to at most a budget.

Feldman and Zrnic 2021, "Individual privacy accounting via a Renyi filter", section 4: if each release is charged its
Renyi divergence at an order fixed beforehand, whatever was chosen after seeing earlier ones, and none is let pass that
would bring the sum above the budget, then all together are within the budget at that order. `fedsus.privacy.rdp.budget`
says what that is in epsilon and delta. Samplers of Skellam noise take a part of delta for each release
(`fedsus.privacy.accounting.held_back`), so that a cap fixes how many of those it will ever let pass.

Events are texts here (`fedsus.privacy.events`); what reads them is imported when first needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from fedsus.errors import Refusal
from fedsus.owner.caps import Cap

NON_PRIVATE: Final = '{"kind":"non_private"}'
"""The event of a release that nothing protects, as `fedsus.privacy.events.to_json` writes it."""

MOST_RELEASES: Final = 1 << 20
"""Releases with Skellam noise that one account lets pass, ever: fewer where epsilon is large or delta small."""

FALLBACK: Final = 2
"""The order for an account whose first run could not pass at any."""

_SHARE: Final = 0.1
"""Of delta, at most so much for samplers."""

_UP: Final = 1 + 1e-12
"""Sums of divergences are rounded up by more than floating-point errors."""

Tally = Mapping[str, int]
"""Events, and how often each happened."""


class Allowance(NamedTuple):
    """What a filter lets pass: ``divergence`` at its order, and ``releases`` with Skellam noise.

    ``delta`` is what is left of the cap's for the divergence, when samplers had theirs.
    """

    divergence: float
    releases: int
    delta: float


NOTHING: Final = Allowance(-1.0, 0, 0.0)
"""Of a cap that grants nothing."""


@lru_cache(maxsize=256)
def allowance(cap: Cap, order: int) -> Allowance:
    """What a filter at ``order`` may let pass within a finite cap, rounded down.

    Raises:
        ConfigError: the order is out of range.
    """
    if cap.epsilon <= 0 or cap.delta <= 0:
        return NOTHING
    from fedsus.privacy import rdp

    releases, delta = _for_samplers(cap)
    return Allowance(rdp.budget(cap.epsilon, delta, order), releases, delta)


def _for_samplers(cap: Cap) -> tuple[int, float]:
    """Releases with Skellam noise, a power of two or 0, and the delta that they leave."""
    from fedsus.privacy.accounting import LEAST_DELTA, held_back

    releases = MOST_RELEASES if cap.delta > LEAST_DELTA else 0
    while releases and held_back(cap.epsilon, releases) > _SHARE * cap.delta:
        releases //= 2
    return releases, cap.delta - held_back(cap.epsilon, releases)


def largest_epsilon(delta: float, releases: int) -> float | None:
    """The largest epsilon, of four digits, of a cap that lets so many releases with Skellam noise pass at ``delta``.

    None where no cap with this delta does.
    """
    from fedsus.privacy.accounting import DRAW_DISTANCE, MOST_DRAWS

    counted = 1 << max(releases - 1, 0).bit_length()  # as `_for_samplers` counts them
    room = _SHARE * delta / (counted * MOST_DRAWS * DRAW_DISTANCE) - 1
    epsilon = math.floor(100 * math.log(room)) / 100 if room > 1 else 0.0
    return epsilon if epsilon > 0 and _for_samplers(Cap(epsilon, delta))[0] >= releases else None


def least_epsilon(cap: Cap, order: int | None, tally: Tally) -> float:
    """About the epsilon from which a cap with this delta lets a whole tally pass; infinity where none does.

    Args:
        cap: of which the delta counts; its epsilon is where the search begins.
        order: of the filter; None for the best, as a filter has that is not fixed yet.

    Raises:
        Refusal: an event cannot be accounted for.
    """
    import numpy as np

    from fedsus.privacy import rdp

    orders = rdp.ORDERS if order is None else (order,)
    curve = np.array([divergence(tally, one) for one in orders])
    epsilon = cap.epsilon
    for _ in range(2):  # what samplers have of delta depends on epsilon, and next to nothing on it depends on that
        rest = _for_samplers(Cap(epsilon, cap.delta))[1]
        epsilon = rdp.epsilon_of(curve, orders, rest)[0] if rest > 0 else math.inf
        if not math.isfinite(epsilon):
            break
    return epsilon


@lru_cache(maxsize=256)
def best_order(cap: Cap, event: str) -> int:
    """The order at which the most of ``event`` fits within a cap.

    Raises:
        Refusal: the event cannot be accounted for.
    """
    from fedsus.privacy import events, rdp

    return rdp.best_order(cap.epsilon, _for_samplers(cap)[1], events.from_json(event))


def divergence(tally: Tally, order: int) -> float:
    """The Renyi divergence of all events of a tally together, rounded up; infinity where nothing protects.

    Raises:
        Refusal: an event cannot be accounted for.
    """
    return math.fsum(count * _divergence(event, order) for event, count in tally.items() if count) * _UP


def releases(tally: Tally) -> int:
    """Releases with Skellam noise."""
    return sum(count * _releases(event) for event, count in tally.items() if count)


def epsilon(divergence: float, order: int, delta: float) -> float:
    """What a divergence at an order means as an epsilon at ``delta``."""
    if divergence <= 0:
        return 0.0
    if not math.isfinite(divergence) or delta <= 0:
        return math.inf
    import numpy as np

    from fedsus.privacy import rdp

    return rdp.epsilon_of(np.array([divergence]), (order,), delta)[0]


@lru_cache(maxsize=4096)
def _divergence(event: str, order: int) -> float:
    if event == NON_PRIVATE:
        return math.inf
    from fedsus.privacy import events, rdp

    found = float(rdp.rdp(events.from_json(event), (order,))[0])
    if math.isnan(found) or found < 0:
        raise Refusal(f"privacy event {event[:80]}: its Renyi divergence cannot be computed")
    return found


@lru_cache(maxsize=4096)
def _releases(event: str) -> int:
    if event == NON_PRIVATE:
        return 0
    from fedsus.privacy import events

    leaves = events.leaves(events.from_json(event))
    return sum(count for leaf, count in leaves.items() if _is_skellam(leaf))


def _is_skellam(leaf: object) -> bool:
    from fedsus.privacy.events import SkellamDpEvent

    return isinstance(getattr(leaf, "event", leaf), SkellamDpEvent)
