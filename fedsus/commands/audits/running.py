"""All audits of one plan: which experiment, which claims, and what the draws say of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from fedsus.commands.audits.trial import Block, Draws, Progress, Trial, events, over_rounds
from fedsus.privacy.accounting import epsilon
from fedsus.privacy.adversaries import ADVERSARIES
from fedsus.privacy.auditing import FAILURE, Bound, audit, sharpest
from fedsus.protection import ClientCentral, ClientDistributed, ExampleDistributed, ExamplePrivacy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsus.plan import Plan
    from fedsus.privacy.adversaries import Adversary
    from fedsus.types import Noise

ROUNDS: Final = (1, 3)
"""Rounds that are looked at together."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of an audit.

    Attributes:
        block: what of a round's release was looked at.
        adversaries: who sees and knows the same.
        rounds: that were looked at together; None for a whole run of correlated noise.
        draws: of each input.
        failure: chance that a bound is above the truth.
        bounds: at the run's delta, then at larger ones.
    """

    block: Block
    adversaries: tuple[Adversary, ...]
    rounds: int | None
    draws: int
    failure: float
    bounds: tuple[Bound, ...]

    @property
    def broken(self) -> bool:
        """Whether the claim is refuted."""
        return any(bound.broken for bound in self.bounds)

    @property
    def sharpest(self) -> Bound:
        """Where the draws show the largest part of the claim."""
        return sharpest(self.bounds)


def experiment(trial: Trial, count: int, noise: Noise, progress: Progress = lambda _: None) -> Draws:
    """``count`` draws of each input, of each block and for each adversary."""
    from fedsus.commands.audits import central, gradients, shares

    match trial.promised.privacy:
        case ExamplePrivacy():
            return gradients.draw(trial, count, noise, progress)
        case ExampleDistributed():
            return shares.draw_examples(trial, count, noise, progress)
        case ClientDistributed():
            return shares.draw(trial, count, noise, progress)
        case ClientCentral():
            return central.draw(trial, count, noise, progress)
        case _:
            raise TypeError("a run without privacy has no claims")


def work(trial: Trial, count: int) -> int:
    """How many draws ``progress`` of `experiment` is told of."""
    privacy = trial.promised.privacy
    whole = isinstance(privacy, ClientCentral) and (privacy.metrics is not None or privacy.adaptive is not None)
    return 2 * count if whole else count


def findings(trial: Trial, draws: Draws, rounds: Sequence[int] = ROUNDS, failure: float = FAILURE) -> list[Finding]:
    """What the draws say of each claim of the promised plan; equal ones for several adversaries are one.

    Raises:
        Refusal: a claim cannot be computed.
    """
    import dp_accounting as dpa

    promised, claims = trial.promised, events(trial.promised)
    whole_run = getattr(promised.privacy, "banded", None) is not None
    found = []
    for (block, view), sides in draws.items():
        adversaries = tuple(one for one in ADVERSARIES if (block, one) in claims and view_of(promised, one) == view)
        once = whole_run and block == "update"
        for number in (1,) if once else rounds:
            event = claims[block, adversaries[0]]
            event = event if number == 1 else dpa.SelfComposedDpEvent(event, number)
            seen = over_rounds(sides, number)
            bounds = audit(*seen, partial(epsilon, event), delta_of(promised), failure)
            found.append(Finding(block, adversaries, None if once else number, seen[0].size, failure, bounds))
    return found


def view_of(plan: Plan, adversary: Adversary) -> Adversary:
    """Whose draws stand for ``adversary``: with noise in shares, server and clients know those of colluders."""
    if not isinstance(plan.privacy, (ClientDistributed, ExampleDistributed)):
        return "recipients"
    return "server" if adversary == "clients" else adversary


def delta_of(plan: Plan) -> float:
    """The run's."""
    return float(getattr(plan.privacy, "delta", 0.0))
