"""Whether an example was in a client's data, from what the server sees.

The game: a client has its examples with one example more, or without it; the attacker knows the model, the example and
public images like the others', and says from the update how likely each of the two is. Its score is the log-likelihood
ratio of two normal distributions that differ by that example's gradient g (clipped, where the run clips):

    score = g^T C^-1 (u - (n - 1) m) - g^T C^-1 g / 2

u is the sum of the gradients as the server learned it, m the mean gradient of public images and C the covariance of
n - 1 such gradients with the noise of the run, which is public.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from fedsus.learning.parameters import load_into
from fedsus.protection import ExampleDistributed, ExamplePrivacy, NoPrivacy
from fedsus_simulations.demo.attacks.measures import area, found_at
from fedsus_simulations.demo.attacks.seen import RATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedsus.tasks.fashion import FashionMnist
    from fedsus.tasks.task import Batch
    from fedsus.types import Vector
    from fedsus_simulations.demo.attacks.images import Pool
    from fedsus_simulations.demo.attacks.seen import Round

FALSE_ALARMS: Final = 0.01
"""At which rate of non-members called members the share of members found is told (Carlini et al. 2022)."""

_RESAMPLED: Final = 1000


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one game after the other: (cohorts, examples) float64 with the example in the data, and without it."""

    inside: NDArray[np.float64]
    outside: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Success:
    """How well members are told from others, with intervals of 95% by resampling cohorts.

    Attributes:
        trials: with the example, and as many without.
        area: under the ROC curve; 0.5 is chance.
        found: share of members found at 1% false alarms.
    """

    trials: int
    area: float
    area_low: float
    area_high: float
    found: float
    found_low: float
    found_high: float

    @classmethod
    def of(cls, scores: Scores, seed: int = 0) -> Success:
        """Of all games."""
        random, count = np.random.default_rng(seed), len(scores.inside)
        drawn = [random.integers(count, size=count) for _ in range(_RESAMPLED)]
        areas, founds = (
            [value(scores.inside[rows].ravel(), scores.outside[rows].ravel()) for rows in (np.arange(count), *drawn)]
            for value in (area, _found)
        )
        intervals = [
            (round(v, 4) for v in (all_[0], *np.quantile(all_[1:], (0.025, 0.975)))) for all_ in (areas, founds)
        ]
        return cls(scores.inside.size, *(float(v) for interval in intervals for v in interval))


def bound(false: float, losses: list[tuple[float, float]]) -> float:
    """Most members that any attacker finds at a rate of false alarms, where each pair (epsilon, delta) holds.

    min(e^epsilon false + delta) (Kairouz, Oh and Viswanath 2015, theorem 2.1).
    """
    return min(1.0, *(math.exp(min(epsilon, 700.0)) * false + delta for epsilon, delta in losses))


def gradients(task: FashionMnist, model: Vector, batch: Batch, clip: float | None) -> NDArray[np.float64]:
    """The gradient of each example (n, d), each at most ``clip`` long."""
    module = task.model(0)
    load_into(module, model)
    parameters, rows = list(module.parameters()), np.empty((len(batch[0]), len(model)))
    for row, *tensors in zip(rows, *batch, strict=True):
        loss = task.loss(module, tuple(tensor[None] for tensor in tensors)).sum()
        row[:] = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]).numpy()
    if clip is not None:
        rows *= np.minimum(1.0, clip / np.linalg.norm(rows, axis=1))[:, None]
    return rows


class Attacker:
    """What the attacker prepares once for a model of a run: mean and covariance of gradients, and the noise.

    Args:
        around: gradients of public images (k, d).
        others: examples in the sum besides the one in question.
        noise: variance of a coordinate of the sum of gradients.
    """

    def __init__(self, around: NDArray[np.float64], others: int, noise: float) -> None:
        half = len(around) // 2
        self._usual = others * around.mean(axis=0)
        centred = around - around.mean(axis=0)
        squares, turns = np.linalg.eigh(centred[:half] @ centred[:half].T)  # quicker than the axes' own decomposition
        large = squares > 1e-9 * squares[-1]
        self._axes = turns[:, large].T @ centred[:half] / np.sqrt(squares[large, None])
        along = centred[half:] @ self._axes.T
        rest = ((centred[half:] ** 2).sum() - (along**2).sum()) / centred[half:].size  # beside the axes
        self._flat = max(others * rest + noise, 1e-18)
        self._extra = others * np.maximum((along**2).mean(axis=0) - rest, 0.0)

    def scores(self, totals: NDArray[np.float64], examples: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-likelihood ratios (m, n) that the sums of gradients (m, n, d) have the examples' (n, d) in them."""
        share = (examples @ self._axes.T) * (self._extra / (self._extra + self._flat))
        towards = (examples - share @ self._axes) / self._flat  # C^-1 g
        ratios: NDArray[np.float64] = np.einsum("mnd,nd->mn", totals - self._usual, towards)
        ratios -= (towards * examples).sum(axis=1) / 2
        return ratios


def noise_of(round_: Round, clients: int) -> float:
    """Variance of a coordinate of the sum of gradients, as ``clients`` devices' noise makes it."""
    match round_.plan.privacy:
        case ExamplePrivacy() as privacy:
            return clients * (privacy.noise_multiplier * privacy.clip) ** 2
        case ExampleDistributed() as privacy:
            return clients * (privacy.shares.variance + 0.25) / privacy.shares.scale**2
        case _:
            return 0.0


def summed(round_: Round, update: Vector, clients: int, examples: int) -> NDArray[np.float64]:
    """The sum of gradients that an update stands for, (d,)."""
    match round_.plan.privacy:
        case ExamplePrivacy() as privacy:
            factor = clients * privacy.denominator
        case ExampleDistributed() as privacy:
            factor = privacy.denominator
        case _:
            factor = examples
    return update.astype(np.float64) * (-factor / RATE)


@dataclass(frozen=True, slots=True)
class Games:
    """How many: ``examples`` in question on each of ``cohorts`` cohorts."""

    cohorts: int
    examples: int
    public: int = 1200


def play(round_: Round, models: Sequence[Vector], pool: Pool, clients: int, games: Games, seed: int) -> Scores:
    """Sums over ``clients`` clients, of which the first has the example in question or not.

    Args:
        models: what the server sent, one a round: the scores of all rounds are added.
    """
    clip = None if isinstance(round_.plan.privacy, NoPrivacy) else round_.protection.clip
    count, public = clients * round_.protection.examples, tuple(t[: games.public] for t in pool.public)
    found = np.zeros((games.cohorts, 2, games.examples))
    for model in models:
        around = gradients(round_.task, model, public, clip)
        attacker, random = Attacker(around, count - 1, noise_of(round_, clients)), np.random.default_rng(seed)
        for cohort in range(games.cohorts):
            rows = random.permutation(len(pool.private[0]))[: count + games.examples - 1]
            totals = _totals(round_, model, pool, rows, clients)
            known = gradients(round_.task, model, pool.shard(rows[count - 1 :]).train, clip)
            found[cohort] += attacker.scores(totals, known)
    return Scores(found[:, 0], found[:, 1])


def _totals(round_: Round, model: Vector, pool: Pool, rows: NDArray[np.int64], clients: int) -> NDArray[np.float64]:
    """Sums of gradients as the server learns them: with each example in question, and without it, (2, n, d).

    Args:
        rows: the first client's, one fewer than it has; the other clients'; the examples in question.
    """
    each = round_.protection.examples
    own, others, candidates = np.split(rows, [each - 1, clients * each - 1])
    rest = round_.total(model, pool.shards(others, each))
    totals = np.empty((2, len(candidates), len(model)))
    for i, candidate in enumerate(candidates):
        for without, mine in enumerate((np.append(own, candidate), own)):
            total = round_.added(rest, round_.integers(model, pool.shard(mine)))
            totals[without, i] = summed(round_, round_.update(total, clients), clients, clients * each - without)
    return totals


def _found(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    return found_at(inside, outside, FALSE_ALARMS)
