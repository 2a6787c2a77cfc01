"""What becomes of each client that is asked, and how long the server waits for it: a phase in virtual time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedsus_simulations.clients.attempts import Attempt

if TYPE_CHECKING:
    from fedsus.plan import Plan
    from fedsus.types import Ask
    from fedsus_simulations.clients.asked import Asked
    from fedsus_simulations.clients.owners import Owners
    from fedsus_simulations.clients.population import Population
    from fedsus_simulations.clients.traces import Traces


@dataclass(frozen=True, slots=True)
class Fates:
    """What becomes of the clients that are asked to train.

    Attributes:
        answers: who trains and answers in time.
        refuses: whose owner does not allow it.
        lost: the rest, for whom the server waits until the deadline.
        away, dropped, late: how many of the lost had left, fell out while training, or were too slow.
        seconds: until the server has all answers, or gives up waiting.
    """

    answers: Asked
    refuses: Asked
    lost: Asked
    away: int
    dropped: int
    late: int
    seconds: float

    def attempt(self, plan: Plan, virtual: float, here: tuple[int, int], answered: Asked) -> Attempt:
        """What is noted of it.

        Args:
            here: how many clients are registered, and how many of them are there.
            answered: those of ``answers`` whose training did not fail.
        """
        return Attempt(
            round=plan.round,
            attempt=plan.attempt,
            virtual=virtual,
            seconds=self.seconds,
            registered=here[0],
            unavailable=here[0] - here[1],
            asked=len(self.answers) + len(self.refuses) + len(self.lost),
            away=self.away,
            dropped=self.dropped,
            late=self.late,
            answered=tuple(answered.positions.tolist()),
        )


@dataclass(frozen=True, slots=True)
class Answers:
    """A phase without training.

    Attributes:
        there: who answers.
        away: who has left.
        slowest: seconds until all answers are there that are needed.
        complete: whether nobody who is needed has left.
    """

    there: Asked
    away: Asked
    slowest: float
    complete: bool

    def seconds(self, ask: Ask) -> float:
        """How long the phase takes; to be asked once the answers were taken."""
        if self.complete:
            return min(self.slowest, ask.deadline)
        satisfied = ask.enough is not None and ask.enough()
        return min(self.slowest + ask.grace, ask.deadline) if satisfied else ask.deadline


@dataclass(frozen=True, slots=True)
class Judge:
    """Says what becomes of clients."""

    population: Population
    owners: Owners
    traces: Traces

    def training(self, ask: Ask, plan: Plan, asked: Asked, now: float, up: int) -> Fates:
        """Of clients that are asked to train; an evaluation takes no time but that of its messages.

        Args:
            up: bytes of an answer.
        """
        at, down = asked.positions, np.array([ask.size(name) for name in asked.names], dtype=np.int64)
        grants = self.owners.grant(plan, at)
        reached = self.traces.reached(now, at)
        epochs = plan.training.local_epochs if plan.purpose == "train" else 0
        times = self.traces.training(at, plan.attempt, self.population.sizes[at] * epochs, down, up)
        times = np.where(grants, times, self.traces.light(at, down))
        times[~reached] = np.inf
        in_time = times <= ask.deadline
        works = grants & reached
        return Fates(
            answers=asked.where(in_time & grants),
            refuses=asked.where(in_time & ~grants),
            lost=asked.where(~in_time),
            away=int(np.count_nonzero(~reached)),
            dropped=int(np.count_nonzero(works & np.isinf(times))),
            late=int(np.count_nonzero(works & ~in_time & ~np.isinf(times))),
            seconds=float(times.max(initial=0.0)) if in_time.all() else ask.deadline,
        )

    def light(self, ask: Ask, asked: Asked, now: float) -> Answers:
        """Of clients in a phase without training: whoever is there answers, sooner or later."""
        down = max(map(ask.size, ask.requests))
        reached = self.traces.reached(now, asked.positions)
        there, away = asked.where(reached), asked.where(~reached)
        times = self.traces.light(there.positions, down)
        optional = frozenset[str]() if ask.optional.issuperset(ask.requests) else ask.optional
        needed = np.array([name not in optional for name in there.names], dtype=np.bool_)
        return Answers(there, away, float(times[needed].max(initial=0.0)), optional.issuperset(away.names))
