"""A secure sum in memory as `secure_sum` measures it: the server's exchange and every client's own states.

A client's vector is one random vector times an odd number of its own, mod 2^32: made in place of stored, uniform, and
the sum that must come out is known without adding.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from fedsus import plan as plans
from fedsus.rounds.server_half.exchange import conduct
from fedsus.secagg.exchange import Patience, establish, secure_sum
from fedsus.secagg.keys import Signatures
from fedsus.secagg.thresholds import Thresholds, colluders
from fedsus.secagg.wire import Kind
from fedsus.types import Ring
from fedsus_simulations.benchmarks import processes
from fedsus_simulations.benchmarks.secure_cases import Case, Spent
from fedsus_simulations.whole.forked_clients import ForkedFleet
from fedsus_simulations.whole.secure_clients import Federation, MemoryClient, federation

BITS: Final = 32
SPARE: Final = 0.1
"""Share of dropouts that is planned where none are asked for, as a deployment plans some."""
CACHE: Final = 1_000_000
_POINTS: Final = (Kind.ADVERTISE, Kind.SHARE, Kind.CONTRIBUTE, Kind.CONFIRM, Kind.UNMASK)
_MODEL: Final = b"model"
_BESIDE: Final = 2**20
"""More than a client sends beside its vector."""
_PATIENCE: Final = Patience(600.0)


@dataclass(slots=True)
class Vectors:
    """The vectors of all clients, (parameters,) uint32 each, and who gave one."""

    base: Ring
    given: set[int] = field(default_factory=set)

    def give(self, index: int) -> Ring:
        """Client ``index``'s vector, a fresh array."""
        self.given.add(index)
        return self.base * np.uint32(2 * index + 1)

    def total(self) -> Ring:
        """The sum of the vectors that were given, mod 2^32."""
        return self.base * np.uint32(sum(2 * index + 1 for index in self.given) % (1 << BITS))


@dataclass(slots=True)
class CountingClient(MemoryClient):
    """Counts the bytes that it gets and sends; the model is empty here."""

    up: int = 0
    down: int = 0

    def answer(self, raw: bytes, now: float = 0.0) -> bytes:
        """As `MemoryClient`."""
        said = MemoryClient.answer(self, raw, now)
        self.down += len(raw)
        self.up += len(said)
        return said


@dataclass(frozen=True, slots=True)
class Drops:
    """At which message each dropping client is gone: a random one of the five."""

    at: dict[int, int]

    @classmethod
    def of(cls, case: Case) -> Drops:
        """Drops of so many clients, by the case's seed."""
        chance = random.Random(case.seed)
        gone = chance.sample(range(case.clients), int(case.dropping * case.clients))
        return cls({index: chance.randrange(len(_POINTS)) for index in gone})

    def gone(self, index: int, kind: Kind) -> bool:
        """Whether a client that is asked this answers no more."""
        # What a client is asked to contribute to begins with the shares for it.
        asked = Kind.CONTRIBUTE if kind == Kind.SEALED else kind
        return index in self.at and _POINTS.index(asked) >= self.at[index]


@dataclass(frozen=True, slots=True)
class Told:
    """Of a process of clients: largest upload and download, whose vectors were given, its peak of memory."""

    up: int
    down: int
    given: frozenset[int]
    peak: int


@dataclass(frozen=True, slots=True)
class Round:
    """One sum: seconds, survivors, whether it is right, bytes of one client, the clients' peak of memory."""

    seconds: float
    survivors: int
    exact: bool
    up: int
    down: int
    peak: int


def measure(case: Case) -> Spent:
    """Run a case; its peak of memory is that of server and clients together, pages they share counted twice."""
    hidden = federated(case)
    workers = len(os.sched_getaffinity(0))
    base = np.random.default_rng(case.seed).integers(0, 1 << BITS, case.parameters, dtype=np.uint32)
    rounds = [_round(case, hidden, number, Vectors(base), workers) for number in range(1, case.rounds + 1)]
    checks = (
        "signature checks that clients do alike were done once"
        if case.cached
        else "every client checked every signature itself"
    )
    return Spent(
        seconds=tuple(one.seconds for one in rounds),
        peak=processes.memory("self", "VmHWM") + max(one.peak for one in rounds),
        survivors=tuple(one.survivors for one in rounds),
        exact=all(one.exact for one in rounds),
        upload=max(one.up for one in rounds),
        download=max(one.down for one in rounds),
        notes=(f"{graph(case, hidden)}; {checks}; clients in {workers} processes",),
    )


def federated(case: Case) -> Federation:
    """Fresh identities, with the default A of so many clients."""
    hostile = colluders(case.clients)
    planned = int(max(case.dropping, SPARE) * case.clients)
    numbers = None
    if case.neighbours is not None:
        # No condition of the solver is met by so few neighbours: it says what they cost, as the peer's 21 shares do.
        numbers = Thresholds(case.neighbours, 3 * case.neighbours // 4, "harary")
    return federation(case.clients, hostile, planned, numbers)


def graph(case: Case, hidden: Federation) -> str:
    """k, t, A and D in words."""
    session = hidden.session()
    kind = "complete graph" if session.rule == "complete" else "ring"
    return f"{kind}, k = {session.neighbours}, t = {session.threshold}, A = {session.colluders}, D = {session.dropouts}"


def _round(case: Case, hidden: Federation, number: int, vectors: Vectors, workers: int) -> Round:
    """One sum; its clients are in as many processes as there are cores, the server in this one."""
    checks = Signatures(CACHE if case.cached else 0)
    clients = {
        str(index): CountingClient(index, hidden.keys, identity, vectors.give, BITS, checks)
        for index, identity in enumerate(hidden.identities)
    }
    plan = b"a plan"
    largest = 4 * case.parameters + _BESIDE
    with ForkedFleet(clients, Drops.of(case).gone, workers, lambda mine: _told(mine, vectors), largest) as fleet:
        start = time.perf_counter()
        established = conduct(establish(hidden.opening(number, checks), _PATIENCE), fleet)
        exchange = secure_sum(
            established, plans.digest(plan), (plan, _MODEL), case.parameters, BITS, _PATIENCE, workers=workers
        )
        summed = conduct(exchange, fleet).summed
        spent = time.perf_counter() - start
        told: list[Told] = fleet.reports()
    for one in told:
        vectors.given |= one.given
    right = summed.survivors == len(vectors.given) and np.array_equal(summed.total, vectors.total())
    peak = sum(one.peak for one in told)
    return Round(spent, summed.survivors, right, max(one.up for one in told), max(one.down for one in told), peak)


def _told(clients: Mapping[str, MemoryClient], vectors: Vectors) -> Told:
    """What a process of clients saw."""
    mine = [client for client in clients.values() if isinstance(client, CountingClient)]
    peak = processes.memory("self", "VmHWM")
    return Told(max(one.up for one in mine), max(one.down for one in mine), frozenset(vectors.given), peak)
