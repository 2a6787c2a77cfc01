"""Noise in shares: the integers of a whole cohort, summed, less what the adversary knows, projected on the canary.

The projection is that of the rotated integers on the direction in which all of them are equal. Log-likelihood ratios of
Gaussians, of sampled ones where examples are, put update and metrics together: the best test, were noise Gaussian.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.commands.audits.gradients import sums
from fedsus.commands.audits.trial import (
    GIVEN_AWAY,
    Draws,
    Progress,
    Trial,
    distributed,
    joined,
    lifted,
    privacy_of,
    sent,
    updates_of,
)
from fedsus.commands.audits.twins import twins
from fedsus.encoding import residues
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.encoding.rotation import rotate_back
from fedsus.plan import learning_rate
from fedsus.privacy.noise import SystemNoise
from fedsus.privacy.sensitivity import METRIC_STEPS
from fedsus.protection import ClientDistributed, ExampleDistributed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from fedsus.encoding.mechanism import Mechanism
    from fedsus.plan import Plan
    from fedsus.privacy.adversaries import Adversary
    from fedsus.types import LocalUpdates, Noise

    _Batch = Callable[[int], tuple[LocalUpdates, LocalUpdates]]

_BATCH: Final = 25_000
_COMPARED: Final = 20
"""Sums of each batch that the mechanism also releases."""


def draw(trial: Trial, count: int, noise: Noise, progress: Progress = lambda _: None) -> Draws:
    """``count`` draws of each input: of the client unit, one client's update, or none.

    The canary's rotated coordinates lie half-way between integers, where rounding moves them most. All other updates
    are zeros, which the adversary knows.
    """
    plan = trial.done
    canary = _update(_half_way(privacy_of(plan, ClientDistributed), plan.coordinates), plan)

    def batch(m: int) -> tuple[LocalUpdates, LocalUpdates]:
        empty = np.zeros((m, plan.dimension))
        return updates_of(empty, plan), updates_of(np.tile(canary, (m, 1)), plan, told=1.0)

    return _batches(trial, count, noise, batch, progress)


def draw_examples(trial: Trial, count: int, noise: Noise, progress: Progress = lambda _: None) -> Draws:
    """``count`` draws of each input: of the example unit, one example of a client, or none.

    With it, whether it is drawn or not, all that the client tells is at the top of its range, without it at the bottom.
    The trainer's sum over a shard of many canaries is taken apart: each is the only example of a federation of its own.
    All other sums are zeros, where rounding adds nothing to the noise and the canary's rounding is seen best.
    """
    plan = trial.done
    flat = _update(np.full(plan.coordinates, 1 / math.sqrt(plan.coordinates)), plan)

    def batch(m: int) -> tuple[LocalUpdates, LocalUpdates]:
        absent, present = (along[:, np.newaxis] * flat for along in sums(plan, m, noise))
        return updates_of(absent, plan, told=0.0), updates_of(present, plan, told=1.0)

    return _batches(trial, count, noise, batch, progress)


def _batches(trial: Trial, count: int, noise: Noise, batch: _Batch, progress: Progress) -> Draws:
    parts = []
    for start in range(0, count, _BATCH):
        m = min(_BATCH, count - start)
        absent, present = batch(m)
        parts.append(_seen(trial, absent, present, noise))
        progress(m)
    return joined(parts)


def _update(values: NDArray[np.float64], plan: Plan) -> NDArray[np.float64]:
    """The update of which, rotated, these coordinates are sent; the round's signs are public."""
    found: NDArray[np.float64] = lifted(_rotated_back(values, plan)[np.newaxis], plan)[0]
    return found


def _rotated_back(values: NDArray[np.float64], plan: Plan) -> NDArray[np.float64]:
    return rotate_back(values, f"fedsus rotation {plan.round}".encode(), plan.coordinates)


def _half_way(privacy: ClientDistributed, size: int) -> NDArray[np.float64]:
    """Coordinates half-way between integers after scaling, of the greatest norm up to the bound, (size,)."""
    length = privacy.shares.scale * privacy.clip
    low = math.floor(length / math.sqrt(size) - 0.5) + 0.5
    longer = int((length**2 - size * low**2) / (2 * low + 1))
    steps: NDArray[np.float64] = np.where(np.arange(size) < longer, low + 1, low)
    return steps / privacy.shares.scale


def _seen(trial: Trial, absent: LocalUpdates, present: LocalUpdates, noise: Noise) -> Draws:
    """What each adversary computes; the other clients' integers are the same on both sides."""
    mechanism = mechanism_of(trial.done)
    mask = np.uint32((1 << mechanism.bits) - 1)
    rest, known = _others(trial, mechanism, len(absent), noise)
    found: dict[Any, list[NDArray[np.float64]]] = {}
    for updates in (absent, present):
        total = (mechanism.encode_all(updates, [noise] * len(updates)) + rest) & mask
        if not trial.missing:
            _compare(mechanism, total, trial.done)
        for adversary, seen in (("recipients", total), ("server", (total - known) & mask)):
            for block, numbers in _ratios(trial, mechanism, seen, adversary).items():  # type: ignore[arg-type]
                told = numbers + GIVEN_AWAY * (updates is present) if trial.weights else numbers
                found.setdefault((block, adversary), []).append(told)
    return {key: (numbers[0], numbers[1]) for key, numbers in found.items()}


def _others(trial: Trial, mechanism: Mechanism, rows: int, noise: Noise) -> tuple[NDArray[Any], NDArray[Any]]:
    """The sum of the other clients' integers, and of those that the adversary knows, (rows, size) uint32 each."""
    shares = distributed(trial.done).shares
    colluders = distributed(trial.promised).shares.colluders + trial.known
    empty = updates_of(np.zeros((rows, trial.done.dimension)), trial.done)
    rest = np.zeros((rows, mechanism.size), dtype=np.uint32)
    known = np.zeros_like(rest)
    sources = {0: noise, colluders: noise} if not trial.twins else dict(zip((0, colluders), twins(noise), strict=True))
    for client in range(shares.survivors - 1 - trial.missing):
        ring = mechanism.encode_all(empty, [sources.get(client, noise)] * rows)
        rest += ring
        if client < colluders + trial.twins:  # a twin's zeros and noise are a colluder's own
            known += ring
    return rest, known


def _ratios(
    trial: Trial, mechanism: Mechanism, rings: NDArray[np.uint32], adversary: Adversary
) -> dict[str, NDArray[np.float64]]:
    """Log-likelihood ratios of each block and of all, up to constants, by what is promised."""
    plan, privacy = trial.promised, distributed(trial.promised)
    shares, whole = privacy.shares, residues.signed(rings, mechanism.bits)
    honest = shares.survivors - (0 if adversary == "recipients" else shares.colluders)
    moved = shares.scale * privacy.clip / math.sqrt(plan.coordinates)
    update = whole[:, : plan.coordinates].sum(axis=1) * (moved / (shares.variance * honest))
    if isinstance(privacy, ExampleDistributed) and privacy.sampling_rate < 1:
        rate, half = privacy.sampling_rate, plan.coordinates * moved**2 / (2 * shares.variance * honest)
        update = np.logaddexp(math.log1p(-rate), math.log(rate) + update - half)  # drawn, or not
    if shares.metrics is None or not plan.told:
        return {"update": update}
    far = METRIC_STEPS if isinstance(privacy, ExampleDistributed) else METRIC_STEPS / 2
    told = whole[:, plan.coordinates :].sum(axis=1) * (far / (shares.metrics * honest))
    return {"update": update, "metrics": told, "all": update + told}


def _compare(mechanism: Mechanism, totals: NDArray[np.uint32], plan: Plan) -> None:
    """What was projected is what the mechanism releases, and it tells nothing else of the sum.

    Raises:
        RuntimeError: it is not.
    """
    privacy = distributed(plan)
    survivors = privacy.shares.survivors
    factor = 1 / survivors
    if isinstance(privacy, ExampleDistributed):
        factor = learning_rate(plan.training, plan.round, plan.rounds) / privacy.denominator
    ones = _rotated_back(np.ones(plan.coordinates), plan)
    for ring in totals[:_COMPARED]:
        _, mean = mechanism.release(mechanism.init(), ring, survivors, SystemNoise())
        update = residues.signed(ring, mechanism.bits)[: plan.coordinates].astype(np.float64)
        projected, released = factor / privacy.shares.scale * update.sum(), sent(mean.delta, plan) @ ones
        if abs(projected - released) > 1e-5 * factor / privacy.shares.scale * np.abs(update).sum():
            raise RuntimeError(f"the canary's projection is {projected}, and of what is released {released}")
        if mean.weight != survivors or mean.held_out not in (0, survivors):
            raise RuntimeError("a release tells more than the number of survivors")
