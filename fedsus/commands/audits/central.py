"""Noise at the server: what is released of a cohort's sum.

Canary j is one client's update along coordinate j, three times as long as the bound. Each coordinate has noise of its
own, so one release gives as many independent draws as it has coordinates; one half of them have a canary. Metrics,
costs and the count of clipped updates are one vector for all: there a release is one draw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.commands.audits.small import sending
from fedsus.commands.audits.trial import GIVEN_AWAY, Draws, Progress, Trial, lifted, privacy_of, sent, updates_of
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.privacy import factorisation
from fedsus.privacy.noise import SystemNoise
from fedsus.protection import Adaptive, ClientCentral

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus.encoding.mechanism import Mechanism
    from fedsus.plan import Plan
    from fedsus.types import Noise, Ring

CANARIES: Final = 64
"""Clients of one cohort."""

_FEW: Final = 3
_REPORTED: Final = 1000
_NO_CLIP: Final = np.ones(1)


def draw(trial: Trial, count: int, noise: Noise, progress: Progress = lambda _: None) -> Draws:
    """``count`` draws of each input of every block: one client's update, or none."""
    found = {} if trial.weights else _updates(trial, count, noise, progress)
    blocks = privacy_of(trial.promised, ClientCentral)
    if blocks.metrics is not None or blocks.adaptive is not None or trial.weights:
        found |= _whole(trial, count, noise, progress)
    sides: dict[Any, Any] = {(block, "recipients"): both for block, both in found.items()}
    return sides


def _updates(trial: Trial, count: int, noise: Noise, progress: Progress) -> dict[str, Any]:
    """The update, of one round or, where noise is correlated, of all rounds in which a client may take part."""
    plan = _of(trial.done, 2 * CANARIES, CANARIES)
    mechanism, banded = mechanism_of(plan), privacy_of(plan, ClientCentral).banded
    canaries = lifted(np.eye(CANARIES, 2 * CANARIES) * (3 * _bound(plan)), plan)
    full = _summed(mechanism, plan, canaries)
    empty = np.zeros_like(full)
    rounds, every = (1, 1) if banded is None else (banded.bands * banded.participations, banded.bands)
    shown = np.empty((-(-count // CANARIES), 2 * CANARIES))
    for row in shown:
        state, released = mechanism.init(), []
        for number in range(rounds):
            state, mean = mechanism.release(state, empty if number % every else full, CANARIES, noise)
            released.append(sent(mean.delta, plan))
        row[:] = _decorrelated(np.array(released), every)
        progress(CANARIES)
    return {"update": (shown[:, CANARIES:].reshape(-1)[:count], shown[:, :CANARIES].reshape(-1)[:count])}


def _decorrelated(released: NDArray[np.float64], bands: int) -> NDArray[np.float64]:
    """What the releases (rounds, d) of a run show of a client in every ``bands``-th of them, (d,).

    C times the releases has independent noise; there the client is in ``bands`` rows from each of its rounds on.
    """
    column = factorisation.coefficients(bands)
    rounds = len(released)
    free = np.zeros_like(released)
    for lag, coefficient in enumerate(column):
        free[lag:] += coefficient * released[: rounds - lag]
    found: NDArray[np.float64] = np.tile(column, rounds // bands) @ free
    return found


def _whole(trial: Trial, count: int, noise: Noise, progress: Progress) -> dict[str, Any]:
    """Metrics with costs, count and all, by log-likelihood ratios; a release a draw.

    Without the canary its integers are zeros.
    """
    plan = _of(trial.done, 1, _FEW)
    mechanism = mechanism_of(plan)
    others = _summed(mechanism, plan, np.zeros((_FEW - 1, plan.dimension)), told=None)
    canary = _summed(mechanism, plan, lifted(np.full((1, 1), 3 * _bound(plan)), plan), told=1.0)
    mask = np.uint32((1 << mechanism.bits) - 1)
    sides = []
    for total, weight in ((others, 0.0), ((others + canary) & mask, 1.0)):
        shown = np.empty((count, 2 + plan.told))
        for number, row in enumerate(shown):
            state, mean = mechanism.release(mechanism.init(), total, _FEW, noise)
            row[0], row[1] = sent(mean.delta, plan)[0], state.get("clip", _NO_CLIP)[0]
            row[2:] = np.concatenate([mean.totals, mean.costs])
            if number % _REPORTED == 0:
                progress(min(_REPORTED, count - number) // 2)
        sides.append(_ratios(trial, shown, weight))
    return {block: (sides[0][block], sides[1][block]) for block in sides[0]}


def _ratios(trial: Trial, shown: NDArray[np.float64], weight: float) -> dict[str, NDArray[np.float64]]:
    """Log-likelihood ratios of each block and of all, up to constants, by what is promised.

    Args:
        shown: of each release the coordinate, the next bound, and the sums of metrics and costs.
    """
    plan, privacy = trial.promised, privacy_of(trial.promised, ClientCentral)
    update = shown[:, 0] * _FEW / _bound(plan) / privacy.noise_multiplier**2
    if trial.weights:
        return {"update": update + GIVEN_AWAY * weight}
    found = {}
    if privacy.metrics is not None:
        ranges = [*((metric.low, metric.high) for metric in plan.metrics), *plan.cost_ranges.values()]
        width = np.array([high - low for low, high in ranges])
        told = (shown[:, 2:] / width).sum(axis=1)  # the canary moves each by a half
        found["metrics"] = told * 0.5 / (privacy.metrics**2 * len(width) / 4)
    if privacy.adaptive is not None:
        found["count"] = -0.5 * _balance(privacy.adaptive, shown[:, 1], plan) / privacy.adaptive.noise**2
    if privacy.banded is None:
        found["all"] = update + sum(found.values())
    return found


def _balance(adaptive: Adaptive, following: NDArray[np.float64], plan: Plan) -> NDArray[np.float64]:
    """Half of: clients below the bound less clients above, with noise, as the next bound tells."""
    below = adaptive.quantile - np.log(following / _bound(plan)) / adaptive.learning_rate
    balance: NDArray[np.float64] = (below - 0.5) * _FEW
    return balance


def _of(plan: Plan, coordinates: int, clients: int) -> Plan:
    cohort = plan.cohort.model_copy(update={"size": clients, "minimum": min(clients, plan.cohort.minimum)})
    return sending(plan, coordinates).model_copy(update={"cohort": cohort})


def _bound(plan: Plan) -> float:
    """The clipping bound of the round."""
    return privacy_of(plan, ClientCentral).clip if plan.clip is None else plan.clip


def _summed(mechanism: Mechanism, plan: Plan, deltas: NDArray[np.float64], told: float | None = None) -> Ring:
    """The sum of the clients' integers, (size,) uint32."""
    updates = updates_of(deltas, plan, told)
    rings = mechanism.encode_all(updates, [SystemNoise()] * len(updates))  # draws nothing: noise is the server's
    total: Ring = rings.sum(axis=0, dtype=np.uint64).astype(np.uint32) & np.uint32((1 << mechanism.bits) - 1)
    return total
