"""Exchanges: protocols that turn a cohort's integers into their sum, and the one place where they meet a transport.

An exchange is a generator. It yields an `Ask` (a phase) and receives an iterator of replies, which it consumes one
at a time: each answer is added as it arrives and freed, so the server holds O(parameters), whatever the cohort.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeVar

import numpy as np

from fedsus.costs import Meter, Phase
from fedsus.encoding.mechanism import Mechanism
from fedsus.encoding.packing import add_packed, packed_size
from fedsus.errors import CohortTooSmall, ProtocolViolation
from fedsus.plan import Plan
from fedsus.rounds.messages import WANTED, decode_answer
from fedsus.types import Answered, Ask, Forms, Lost, Member, Partial, Refused, Reply, Ring, Summed


class Fleet(Protocol):
    """The clients that can be asked, and the way to ask them: Flower in a deployment, memory in a simulation."""

    def members(self) -> Sequence[Member]:
        """Who can be asked now, in a fixed order."""
        ...

    def ask(self, ask: Ask) -> Iterator[Reply]:
        """Send a whole phase; replies as they come, exactly one for each client.

        The phase is over at its deadline, the grace after ``enough`` says so, or when all have replied who are not
        optional; whoever is missing then is `Lost`.
        """
        ...


@dataclass(slots=True)
class Metered:
    """A fleet that counts bytes: of requests, as often as they are addressed, and of answers.

    Attributes:
        traffic: phase -> bytes sent and received, without what the transport adds.
        meter: counts the work of asking as "communicate"; None where nothing is measured.
    """

    fleet: Fleet
    meter: Meter | None = None
    traffic: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def sent(self) -> int:
        """Bytes to clients, all phases."""
        return sum(sent for sent, _ in self.traffic.values())

    @property
    def received(self) -> int:
        """Bytes from clients, all phases."""
        return sum(received for _, received in self.traffic.values())

    def members(self) -> Sequence[Member]:
        """As the fleet's."""
        return self.fleet.members()

    def ask(self, ask: Ask) -> Iterator[Reply]:
        """As the fleet's."""
        self._count(ask.phase, sum(map(ask.size, ask.requests)), 0)
        replies = iter(self.fleet.ask(ask))
        while True:
            # Around each reply alone: what the exchange does with it in between is not the transport's.
            with during(self.meter, "communicate"):
                reply = next(replies, None)
            if reply is None:
                return
            match reply:
                case Answered():
                    self._count(ask.phase, 0, len(reply.body))
                case Partial():
                    self._count(ask.phase, 0, reply.received)
            yield reply
            del reply  # before the next one is made: the server holds one answer at a time

    def _count(self, phase: str, sent: int, received: int) -> None:
        before = self.traffic.get(phase, (0, 0))
        self.traffic[phase] = (before[0] + sent, before[1] + received)


def during(meter: Meter | None, phase: Phase) -> AbstractContextManager[None]:
    """A meter's phase; nothing where there is no meter."""
    return nullcontext() if meter is None else meter.phase(phase)


R = TypeVar("R")
Exchange: TypeAlias = Generator[Ask, Iterator[Reply], R]


def conduct(exchange: Exchange[R], fleet: Fleet) -> R:
    """Run an exchange over a fleet."""
    try:
        ask = next(exchange)
        while True:
            ask = exchange.send(fleet.ask(ask))
    except StopIteration as end:
        result: R = end.value
        return result


def clear_sum(plan: Plan, request: bytes | Forms, cohort: Sequence[str], mechanism: Mechanism) -> Exchange[Summed]:
    """One phase: the server sees each client's integers. A device answers only if its owner granted it.

    Args:
        plan: of this round; its ``bits`` and ``cohort.minimum`` count.
        request: the same bytes for every client, or the same content in two forms.
        cohort: client ids.
        mechanism: of the plan; it says what one client can send.

    Raises:
        CohortTooSmall: fewer survivors than the plan's minimum; the sum is dropped.
    """
    forms = request if isinstance(request, Forms) else Forms(request)
    adding = _Adding(mechanism, np.zeros(mechanism.size, dtype=np.uint32), set(cohort), forms.read)
    replies = yield forms.ask(dict.fromkeys(cohort, b""), plan.deadline)
    adding.take(replies)
    ask = forms.again(dict.fromkeys(sorted(adding.wanting), b""), plan.deadline)
    if ask is not None:
        adding.waiting, adding.wanting = adding.waiting | adding.wanting, set()
        replies = yield ask
        adding.take(replies)
    total, survivors, refused = adding.total, adding.survivors, adding.refused
    total &= np.uint32((1 << mechanism.bits) - 1)
    lost = adding.lost + len(adding.waiting) + len(adding.wanting)
    if survivors < plan.cohort.minimum:
        raise CohortTooSmall(
            f"{survivors} of {len(cohort)} clients answered ({refused} refused, {lost} lost); "
            f"the plan's minimum is {plan.cohort.minimum}"
            f"{'; the owners see why with: fedsus client status; check it: fedsus privacy plan' if refused else ''}"
        )
    return Summed(total, survivors, refused, lost)


@dataclass(slots=True)
class _Adding:
    """Adds up a cohort's answers as they come.

    Attributes:
        waiting: who has not replied.
        answered: whose answer is in the sum; added to.
        wanting: who could not read the request.
    """

    mechanism: Mechanism
    total: Ring
    waiting: set[str]
    answered: set[str]
    wanting: set[str] = field(default_factory=set)
    survivors: int = 0
    refused: int = 0
    lost: int = 0

    def take(self, replies: Iterator[Reply]) -> None:
        """Take a phase's replies."""
        for reply in replies:
            if isinstance(reply, Partial):
                if _counts(reply, self.waiting, self.total):
                    np.add(self.total, reply.total, out=self.total)
                    self._count(reply.clients)
            elif reply.client in self.waiting:
                self.waiting.remove(reply.client)
                match reply:
                    case Answered():
                        self._answer(reply)
                    case Refused():
                        self.refused += 1
                    case Lost():
                        self.lost += 1
            del reply  # before the next one is made: the server holds one answer at a time

    def _answer(self, reply: Answered) -> None:
        if reply.body == WANTED:
            self.wanting.add(reply.client)
            return
        try:
            if _add(self.total, reply.body, self.mechanism):
                self._count((reply.client,))
            else:
                self.refused += 1
        except ProtocolViolation:
            # A malformed answer is a client's failure, not the round's: it is left out like a lost one.
            self.lost += 1

    def _count(self, clients: Sequence[str]) -> None:
        self.waiting.difference_update(clients)
        self.answered.update(clients)
        self.survivors += len(clients)


def _counts(reply: Partial, waiting: AbstractSet[str], total: Ring) -> bool:
    """Whether a sum is of clients that are waited for, each of them once, and as long as ``total``."""
    clients = set(reply.clients)
    once = 0 < len(clients) == len(reply.clients)
    return once and clients <= waiting and reply.total.shape == total.shape


def _add(total: Ring, answer: bytes, mechanism: Mechanism) -> bool:
    """Add an answer's integers to ``total`` in place; False where the client refused. Keeps no view of the answer."""
    body = decode_answer(answer, packed_size(mechanism.size, mechanism.bits))
    if body is None:
        return False
    mechanism.check(body)
    add_packed(total, body, mechanism.bits)
    return True
