"""Noise of what is told beside sums of gradients: calibrated before that of the gradients, for it is not sampled.

With the client unit one multiplier is shared out between two blocks, since both hide the same. Here one is sampled and
one is not (`fedsus.privacy.adversaries.told_by_examples`), so that no closed form shares it out: the block alone spends
its share of epsilon, and the gradients' noise is the least with which both together spend epsilon.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedsus.errors import ConfigError
from fedsus.privacy.adversaries import told_by_examples
from fedsus.privacy.calibration import LARGEST_NOISE, most_attempts, smallest_noise
from fedsus.privacy.sensitivity import client_metrics
from fedsus.protection import MOST_VARIANCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedsus.config import PlanConfig

_ROOM = 0.999
"""Of the most noise that a share holds: what is rounded up stays within."""

_MOST_SHARE = 0.95
"""Of the budget, to be recommended: beyond it the gradients have next to nothing."""


def share_of_examples(asked: PlanConfig, honest: int, epsilon: float, attempts: int) -> float | None:
    """Variance of one client's share in each metric and cost, in steps squared; None where none are sent.

    The least for which the block alone spends ``metrics_share`` of ``epsilon`` over all ``attempts``.

    Args:
        honest: shares in a sum that the adversary does not know.

    Raises:
        ConfigError: one client's share cannot hold that; says what would fit.
        Refusal: no epsilon can be computed.
    """
    share, count = asked.privacy.metrics_share, asked.told
    if share is None or not count:
        return None
    moved, spends = client_metrics(count).times(2).l2, _spends(asked, count)
    largest = min(LARGEST_NOISE, _ROOM * math.sqrt(MOST_VARIANCE * honest) / moved)
    noise = smallest_noise(share * epsilon, lambda noise: spends(noise, attempts), largest)
    if noise is None:
        raise ConfigError(_too_much(asked, honest, largest, spends))
    return (moved * noise) ** 2 / honest


def _spends(asked: PlanConfig, count: int) -> Callable[[float, int], float]:
    """Epsilon of the block alone, of its noise over what one example moves, and of the attempts."""
    moved, delta = client_metrics(count).times(2).l2, asked.privacy.delta or 0.0

    def spends(noise: float, attempts: int) -> float:
        import dp_accounting as dpa

        from fedsus.privacy.accounting import epsilon

        return epsilon(dpa.SelfComposedDpEvent(told_by_examples(count, (moved * noise) ** 2), attempts), delta)

    return spends


def _too_much(asked: PlanConfig, honest: int, largest: float, spends: Callable[[float, int], float]) -> str:
    """No share holds the noise: which part of the budget, or how many rounds, would do."""
    privacy, attempts = asked.privacy, asked.rounds + asked.spares
    epsilon, share = privacy.epsilon or 0.0, privacy.metrics_share or 0.0
    least = min(spends(largest, attempts) / epsilon, 1.0)
    rounds = asked.rounds_within(most_attempts(share * epsilon, lambda count: spends(largest, count), attempts))
    ways = [f"metrics_share = {math.ceil(1e4 * least * (1 + 1e-5)) / 1e4:g} or more"] if least < _MOST_SHARE else []
    ways += [f"at most {rounds} rounds"] if rounds else []
    return (
        f"plan.privacy.metrics_share = {share:g}: one example may move all that its client tells, and shares of "
        f"{honest} honest clients cannot hold the noise for that over {attempts} attempts; ask for "
        + (", ".join(ways) or "fewer rounds, or larger cohorts")
    )
