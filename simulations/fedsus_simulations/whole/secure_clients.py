"""Clients of secure aggregation in memory, without training: the protocol's own client states, given their integers.

For benchmarks and tests of the protocol. What a deployment adds around a client (policy, roster, ledger, training) is
in `fedsus.rounds.device_half.sessions`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from fedsus import plan as plans
from fedsus.errors import ProtocolViolation
from fedsus.secagg import session as sessions
from fedsus.secagg import wire
from fedsus.secagg.client import Advertised, Confirmed, Masked, Shared, State, advertise
from fedsus.secagg.keys import Identity, Signatures
from fedsus.secagg.seat import Seat
from fedsus.secagg.server import Opening, Party
from fedsus.secagg.session import Phase, Session
from fedsus.secagg.thresholds import Thresholds, solve
from fedsus.secagg.wire import Frame, Kind
from fedsus.types import Answered, Ask, Lost, Member, Reply, Ring

Give = Callable[[int], Ring]
"""A client's integers, (n,) uint32, by its index; the array is masked in place."""


@dataclass(slots=True)
class MemoryMarks:
    """Marks that last as long as the object."""

    taken: set[tuple[bytes, Phase]] = field(default_factory=set)

    def once(self, sid: bytes, phase: Phase, content: bytes) -> None:
        """As `fedsus.secagg.seat.Marks`."""
        del content
        if (sid, phase) in self.taken:
            raise ProtocolViolation(f"session: phase {phase.name.lower()} was answered before")
        self.taken.add((sid, phase))


@dataclass(slots=True)
class MemoryClient:
    """One client: answers the frames of a message with its states.

    Args:
        keys: of the cohort, by index.
        give: its integers.
        bits: sums are taken mod 2**bits.
    """

    index: int
    keys: Sequence[bytes]
    identity: Identity
    give: Give
    bits: int
    signatures: Signatures = field(default_factory=Signatures)
    marks: MemoryMarks = field(default_factory=MemoryMarks)
    workers: int = 1
    states: dict[bytes, State] = field(default_factory=dict)

    def answer(self, raw: bytes, now: float = 0.0) -> bytes:
        """Answer each phase of a message; what the protocol forbids is refused, as a device does."""
        answers, own = [], None
        for frame in wire.frames(raw):
            if frame.kind == Kind.SEALED:
                own = frame
                continue
            try:
                answers.append(wire.frame(frame.kind, *self.step(frame, own, now)))
            except ProtocolViolation:
                answers.append(wire.frame(frame.kind, refused=True))
        return b"".join(answers)

    def step(self, frame: Frame, own: Frame | None, now: float) -> list[bytes]:
        """One phase; raises `ProtocolViolation` where a device would refuse."""
        if frame.kind == Kind.ADVERTISE:
            session = sessions.decode(bytes(frame.body))
            sid = sessions.session_id(bytes(frame.body))
            seat = Seat(session, sid, self.keys, self.index, self.identity, self.signatures, self.marks, self.workers)
            self.states[sid], advert = advertise(seat, now)
            return [advert]
        sid, body = wire.split_sid(frame.body)
        state = self.states.pop(sid, None)
        size = len(self.keys)
        match frame.kind, state:
            case Kind.SHARE, Advertised():
                self.states[sid], answer = state.share(body, now)
            case Kind.CONTRIBUTE, Shared() if own is not None:
                certificate, plan, _ = wire.decode_contribute(body, size)
                rows = wire.split_sid(own.body)[1]
                sealed = wire.decode_rows(rows, wire.SEALED_BYTES, size, "shares")
                opened = state.open(sealed, certificate, plans.digest(bytes(plan)), now)
                self.states[sid], answer = opened.mask(self.give(self.index), self.bits, now)
            case Kind.CONFIRM, Masked():
                self.states[sid], answer = state.confirm(body, now)
            case Kind.UNMASK, Confirmed():
                answer = state.unmask(wire.decode_rows(body, wire.SIGNATURE_BYTES, size, "certificate"), now)
            case _:
                raise ProtocolViolation(f"session: phase {frame.kind.name.lower()} is not the next one")
        return [answer]


Dropped = Callable[[int, Kind], bool]
"""Whether a client is gone: (index, kind of the first frame it is asked); asked once a message."""


def never_dropped(index: int, kind: Kind) -> bool:
    """Everybody answers."""
    del index, kind
    return False


@dataclass(slots=True)
class MemoryFleet:
    """The clients of one cohort; implements `fedsus.rounds.server_half.exchange.Fleet`.

    Args:
        clients: address -> client.
        dropped: which clients answer nothing any more.
        workers: clients that answer at the same time.
    """

    clients: Mapping[str, MemoryClient]
    dropped: Dropped = never_dropped
    workers: int = 1
    gone: set[str] = field(default_factory=set)

    def members(self) -> Sequence[Member]:
        """All clients."""
        return [Member(name, name) for name in self.clients]

    def ask(self, ask: Ask) -> Iterator[Reply]:
        """Ask each client; replies in the order of the requests."""
        with ThreadPoolExecutor(self.workers) as pool:
            # A few at a time: a vector waits here until the server takes it; one more works meanwhile.
            waiting: deque[Future[Reply]] = deque()
            for name in ask.requests:
                waiting.append(pool.submit(self.reply, name, ask.request(name)))
                if len(waiting) > self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def reply(self, name: str, request: bytes) -> Reply:
        """One client's reply to all that it is asked."""
        client = self.clients.get(name)
        if client is None:
            return Lost(name)
        if name in self.gone or self.dropped(client.index, Kind(request[5])):
            self.gone.add(name)
            return Lost(name)
        return Answered(name, client.answer(request))


@dataclass(frozen=True, slots=True)
class Federation:
    """Identities and a way to open sessions for them: a roster of its own making.

    Args:
        identities: by index.
        colluders, dropouts: A and D.
        numbers: graph, k and t; as devices insist on them when not given. Benchmarks alone give others.
    """

    identities: Sequence[Identity]
    colluders: int
    dropouts: int
    numbers: Thresholds | None = None

    @property
    def keys(self) -> list[bytes]:
        """Public keys by index."""
        return [identity.public for identity in self.identities]

    def session(self, attempt: int = 1, **changes: object) -> Session:
        """A session over everyone."""
        size = len(self.identities)
        numbers = self.numbers or solve(size, self.colluders, self.dropouts)
        fields: dict[str, object] = {
            "federation": "memory",
            "roster": "0" * 64,
            "number": 1,
            "server": "0" * 64,
            "nonce": hashlib.sha256(b"nonce %d" % attempt).hexdigest(),
            "run": "memory",
            "specification": "0" * 64,
            "round": attempt,
            "attempt": attempt,
            "cohort": tuple(range(size)),
            "colluders": self.colluders,
            "dropouts": self.dropouts,
            "rule": numbers.rule,
            "neighbours": numbers.neighbours,
            "threshold": numbers.threshold,
            "minimum": 1,
            "expires": 1000,
        }
        return Session.model_validate(fields | changes)

    def opening(self, attempt: int = 1, signatures: Signatures | None = None, **changes: object) -> Opening:
        """The server's side of a session, at its start; a client's address is its index."""
        clients = {index: str(index) for index in range(len(self.identities))}
        return Opening(Party(self.session(attempt, **changes), self.keys, clients, signatures or Signatures()))

    def clients(
        self, give: Give, bits: int = 32, signatures: Signatures | None = None, workers: int = 1
    ) -> dict[str, MemoryClient]:
        """All clients by address. ``signatures`` shared by all remembers identical checks, if it has a cache."""
        return {
            str(index): MemoryClient(
                index, self.keys, identity, give, bits, signatures or Signatures(), workers=workers
            )
            for index, identity in enumerate(self.identities)
        }


def federation(size: int, colluders: int = 1, dropouts: int = 0, numbers: Thresholds | None = None) -> Federation:
    """A federation of fresh identities."""
    return Federation([Identity.generate() for _ in range(size)], colluders, dropouts, numbers)


def random_rings(size: int, seed: int, bits: int = 32) -> Give:
    """Integers of each client, repeatable: (size,) uint32 below 2**bits."""

    def give(index: int) -> Ring:
        generator = np.random.Generator(np.random.Philox([seed, index]))
        return generator.integers(0, 1 << bits, size, dtype=np.uint64).astype(np.uint32)

    return give
