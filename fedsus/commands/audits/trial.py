"""What is audited: what a plan promises, what is done, and the numbers that an adversary then computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

import numpy as np

from fedsus.encoding.reduction import Reduction
from fedsus.privacy.adversaries import ADVERSARIES, Adversary, Unit, spent
from fedsus.protection import ClientDistributed, ExampleDistributed
from fedsus.types import LocalUpdates

if TYPE_CHECKING:
    from dp_accounting import DpEvent
    from numpy.typing import NDArray

    from fedsus.plan import Plan
    from fedsus.protection import Distributed

P = TypeVar("P")

Block: TypeAlias = Literal["update", "metrics", "count", "all"]
"""What is released of a round; "metrics" with the costs beside them; "all" is all of it at once, where there is more
than the update."""

Sides: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.float64]]"
"""Independent draws of one number that the adversary computes, (n,) each: without the canary, and with it."""

Draws: TypeAlias = Mapping[tuple[Block, Adversary], Sides]

Progress: TypeAlias = Callable[[int], None]
"""Told how many draws were added."""

GIVEN_AWAY: Final = 1e3
"""What a weight that is released without noise counts beside log-likelihood ratios, which are no larger than tens."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One mechanism under audit.

    Attributes:
        promised: the plan whose claims are tested.
        done: the plan that is carried out: the same, unless something is broken.
        missing: clients whose shares of noise are not in the sum.
        known: clients beyond the colluders whose shares the adversary knows.
        twins: an honest client draws its noise from a colluder's source.
        weights: the sum of the clients' weights is released as it is.
    """

    promised: Plan
    done: Plan
    missing: int = 0
    known: int = 0
    twins: bool = False
    weights: bool = False

    def changed(self, **privacy: object) -> Trial:
        """With another privacy part in what is done."""
        done = self.done.privacy.model_copy(update=privacy)
        return replace(self, done=self.done.model_copy(update={"privacy": done}))


def unit_of(plan: Plan) -> Unit:
    """Who is protected."""
    return "client" if plan.privacy.unit == "client" else "example"


def events(plan: Plan) -> dict[tuple[Block, Adversary], DpEvent]:
    """What one round spends on the protected unit: each block alone, and all. Who is not protected from is left out.

    With noise that is correlated over rounds the update's is the event of the whole run, and there is none of all.
    """
    import dp_accounting as dpa

    found: dict[tuple[Block, Adversary], DpEvent] = {}
    for adversary in ADVERSARIES:
        whole = spent(plan, 1)[unit_of(plan), adversary]
        if isinstance(whole, dpa.NonPrivateDpEvent):
            continue
        if not isinstance(whole, dpa.ComposedDpEvent):
            found["update", adversary] = whole
            continue
        for block, part in zip(_blocks(plan), whole.events, strict=True):
            found[block, adversary] = part.event if isinstance(part, dpa.SelfComposedDpEvent) else part
        if getattr(plan.privacy, "banded", None) is None:
            found["all", adversary] = whole
    return found


def _blocks(plan: Plan) -> list[Block]:
    """The blocks, in the order in which `fedsus.privacy.adversaries` composes their events."""
    found: list[Block] = ["update"]
    if getattr(getattr(plan.privacy, "shares", plan.privacy), "metrics", None) is not None:
        found.append("metrics")
    if getattr(plan.privacy, "adaptive", None) is not None:
        found.append("count")
    return found


def privacy_of(plan: Plan, kind: type[P]) -> P:
    """The privacy part, which is a ``kind``."""
    if not isinstance(plan.privacy, kind):
        raise TypeError(f"a plan of {type(plan.privacy).__name__}, and an audit of {kind.__name__}")
    return plan.privacy


def distributed(plan: Plan) -> Distributed:
    """The privacy part, whose noise is in shares."""
    if not isinstance(plan.privacy, (ClientDistributed, ExampleDistributed)):
        raise TypeError(f"a plan of {type(plan.privacy).__name__}, and an audit of noise in shares")
    return plan.privacy


def updates_of(deltas: NDArray[np.float64], plan: Plan, told: float | None = None) -> LocalUpdates:
    """A stack of updates (m, d) of full weight; every metric and cost ``told`` of the way up its range.

    None: what is sent as zeros, like all of a client who is not there: no metrics, and costs in the middle.
    """
    m, metrics = len(deltas), plan.metrics
    costs = np.array([(0.5 if told is None else told) * high for _, high in plan.cost_ranges.values()])
    values = np.array([metric.low + (told or 0.0) * (metric.high - metric.low) for metric in metrics])
    weights = np.full(m, getattr(plan.privacy, "full_weight", None) or 1.0)
    seen = np.full(m, 0 if told is None else 1, dtype=np.int64)
    # float64, as a sum of gradients is: the canary lies where it was put.
    return LocalUpdates(deltas, weights, np.tile(values, (m, 1)), seen, costs=np.tile(costs, (m, 1)))  # type: ignore[arg-type]


def lifted(rows: NDArray[np.float64], plan: Plan) -> NDArray[np.float64]:
    """Updates (m, d) of which these coordinates (m, k) are sent: themselves where whole updates are."""
    reduction = Reduction.of(plan)
    if reduction is None:
        return rows
    return np.array([reduction.expand(row) for row in rows]) * (plan.coordinates / plan.dimension)


def sent(delta: NDArray[np.float32], plan: Plan) -> NDArray[np.float64]:
    """The coordinates (k,) of a released mean (d,) that were sent: it tells nothing else."""
    reduction, whole = Reduction.of(plan), delta.astype(np.float64)
    if reduction is None:
        return whole
    found: NDArray[np.float64] = reduction.reduce(whole[np.newaxis])[0] * (plan.coordinates / plan.dimension)
    return found


def joined(parts: list[Draws]) -> Draws:
    """The draws of several batches."""
    return {key: _stacked([part[key] for part in parts]) for key in parts[0]}


def _stacked(sides: list[Sides]) -> Sides:
    return np.concatenate([absent for absent, _ in sides]), np.concatenate([present for _, present in sides])


def over_rounds(sides: Sides, rounds: int) -> Sides:
    """What ``rounds`` rounds show together, each of them a draw of its own: sums, (n / rounds,) each."""
    absent, present = (side[: side.size // rounds * rounds].reshape(-1, rounds).sum(axis=1) for side in sides)
    return absent, present
