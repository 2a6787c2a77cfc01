"""Rounds of secure aggregation in memory whose messages get lost, and what has to come out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache

import numpy as np

from fedsus import plan as plans
from fedsus.errors import CohortTooSmall
from fedsus.rounds.server_half.exchange import conduct
from fedsus.secagg import wire
from fedsus.secagg.exchange import Patience, SecureSummed, establish, secure_sum
from fedsus.secagg.keys import Identity, Signatures
from fedsus.secagg.server import Established, Opening
from fedsus.secagg.session import Session
from fedsus.secagg.thresholds import least_tolerance
from fedsus.secagg.wire import Kind
from fedsus.types import Answered, Ask, Lost, Member, Refused, Reply, Ring
from fedsus_simulations.whole.secure_clients import Federation, MemoryClient, random_rings

PLAN = b"plan"
PATIENCE = Patience(10.0)
ADVERTISE, SHARE, CONTRIBUTE, CONFIRM, UNMASK = range(5)
"""Exchanges of a session on its own; of the riding one, advertise and share are the first's confirm and unmask."""


class Fate(IntEnum):
    """What happens to one message: it comes through, its request is lost, or the answer to it."""

    FINE = 0
    UNASKED = 1
    UNHEARD = 2


Fates = Mapping[tuple[int, int], Fate]
"""(client, exchange) -> what happens there; fine where nothing is said."""

Twist = Callable[[int, int, bytes], bytes | Reply]
"""(client, exchange, its answer) -> what arrives instead."""


@cache
def identities(size: int) -> tuple[Identity, ...]:
    """The same for every test: making them costs more than a round."""
    return tuple(Identity.generate() for _ in range(size))


def federation(size: int, colluders: int = 1, dropouts: int = 0) -> Federation:
    """A federation of `identities`."""
    return Federation(identities(size), colluders, dropouts)


def numbers(sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Every N of ``sizes``, A and D that work: (N, A, D)."""
    return [
        (n, a, d)
        for n in sizes
        for a in range(1, n - 1)
        if least_tolerance(n, a) >= 0
        for d in range(min(least_tolerance(n, a), n - 3) + 1)
    ]


@dataclass
class LossyFleet:
    """A fleet whose messages have fates, and whose answers may be twisted; exchanges are counted from 0.

    Attributes:
        opened: (session, client) of all answers to UNMASK that a client gave, heard or not.
    """

    clients: Mapping[str, MemoryClient]
    fates: Fates = field(default_factory=dict)
    twist: Twist | None = None
    exchange: int = 0
    opened: list[tuple[bytes, int]] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)

    def members(self) -> Sequence[Member]:
        return [Member(name, name) for name in self.clients]

    def ask(self, ask: Ask) -> Iterator[Reply]:
        exchange, self.exchange = self.exchange, self.exchange + 1
        self.asks.append(ask)
        for name in ask.requests:
            yield self._reply(exchange, name, ask.request(name))

    def _reply(self, exchange: int, name: str, request: bytes) -> Reply:
        client = self.clients[name]
        fate = self.fates.get((client.index, exchange), Fate.FINE)
        if fate == Fate.UNASKED:
            return Lost(name)
        answer = client.answer(request)
        for asked, given in zip(_phases(request), wire.frames(answer), strict=True):
            if given.kind == Kind.UNMASK and not given.refused:
                self.opened.append((bytes(asked.body[: wire.SID_BYTES]), client.index))
        if fate == Fate.UNHEARD:
            return Lost(name)
        twisted = answer if self.twist is None else self.twist(client.index, exchange, answer)
        return twisted if isinstance(twisted, Answered | Refused | Lost) else Answered(name, twisted)


def _phases(request: bytes) -> list[wire.Frame]:
    return [frame for frame in wire.frames(request) if frame.kind != Kind.SEALED]


def total(members: Sequence[int], size: int, bits: int, seed: int = 1) -> Ring:
    """The sum over ``members`` mod 2**bits, added without the library."""
    rings = [random_rings(size, seed, bits)(index).astype(object) for index in members]
    return np.array(sum(rings, np.zeros(size, dtype=object)) % (1 << bits), dtype=np.uint32)


def clients(fed: Federation, size: int, bits: int, signatures: Signatures | None = None) -> dict[str, MemoryClient]:
    """All clients, with random integers; they share a cache of signatures."""
    return fed.clients(random_rings(size, 1, bits), bits, signatures or Signatures(4096))


def first(fed: Federation, fleet: LossyFleet, signatures: Signatures, attempt: int = 1) -> Established:
    """A session on its own, established."""
    return conduct(establish(fed.opening(attempt, signatures), PATIENCE), fleet)


def summed(
    established: Established, fleet: LossyFleet, size: int, bits: int, following: Opening | None = None
) -> SecureSummed:
    """The sum of an established session."""
    return conduct(
        secure_sum(established, plans.digest(PLAN), (PLAN, b""), size, bits, PATIENCE, following),
        fleet,
    )


@dataclass(frozen=True)
class Expected:
    """What the numbers of a session say: who is in the sum, or None; how many open their shares."""

    members: tuple[int, ...] | None
    opening: int


def answering(fates: Fates, among: Sequence[int], exchange: int) -> list[int]:
    """Who of ``among`` is heard in an exchange."""
    return [client for client in among if (client, exchange) not in fates]


def expect(session: Session, fates: Fates, established: Sequence[int] | None, start: int) -> Expected:
    """What has to come out of CONTRIBUTE, which is exchange ``start``, and the next two; ``established``: U2."""
    least = max(session.floor, session.threshold)
    if established is None or len(established) < max(least, session.quorum):
        return Expected(None, 0)
    members = answering(fates, established, start)
    signed = answering(fates, members, start + 1)
    if len(members) < least or len(signed) < max(session.quorum, session.threshold):
        return Expected(None, 0)
    # Whoever signed opens, also if the signature was not heard.
    ready = [one for one in members if fates.get((one, start + 1)) != Fate.UNASKED]
    opening = [one for one in ready if fates.get((one, start + 2)) != Fate.UNASKED]
    enough = len(answering(fates, ready, start + 2)) >= session.threshold
    return Expected(tuple(members) if enough else None, len(opening))


def in_u2(session: Session, fates: Fates, start: int) -> list[int] | None:
    """Who is in U2 of a session whose ADVERTISE is exchange ``start``; None if it is not established."""
    least = max(session.floor, session.threshold)
    adverts = answering(fates, range(session.size), start)
    shared = answering(fates, adverts, start + 1)
    enough = len(adverts) >= least and len(shared) >= max(session.floor, session.quorum)
    return shared if enough else None


def outcome(run: Callable[[], SecureSummed]) -> SecureSummed | None:
    """A sum, or None for a cohort that was too small."""
    try:
        return run()
    except CohortTooSmall:
        return None
