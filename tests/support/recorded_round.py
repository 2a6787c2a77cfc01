"""A recorded round of secure aggregation for tests that spoil its messages: who takes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
from secagg_mutations import Frozen
from secagg_parties import PATIENCE, PLAN, LossyFleet, clients, federation

from fedsus import plan as plans
from fedsus.errors import ProtocolViolation
from fedsus.rounds.server_half.exchange import conduct
from fedsus.secagg import session as sessions
from fedsus.secagg import wire
from fedsus.secagg.exchange import establish, secure_sum
from fedsus.secagg.keys import Signatures
from fedsus.secagg.server import Collected, Established, Opening, Sharing
from fedsus.secagg.wire import Kind
from fedsus.types import Answered, Reply
from fedsus_simulations.whole.secure_clients import MemoryClient, MemoryMarks, random_rings

N, SIZE, BITS = 5, 8, 20


@dataclass
class Recorded:
    """A round with the next session riding along, as client 0 saw it.

    Attributes:
        asked, answered: its messages, by exchange.
        states: its states before each message, by sid.
    """

    asked: list[bytes] = field(default_factory=list)
    answered: list[bytes] = field(default_factory=list)
    states: list[dict[bytes, Frozen]] = field(default_factory=list)


@dataclass
class RecordingFleet(LossyFleet):
    """Records what client 0 sees."""

    tape: Recorded = field(default_factory=Recorded)

    def _reply(self, exchange: int, name: str, request: bytes) -> Reply:
        if name == "0":
            self.tape.asked.append(request)
            self.tape.states.append({sid: Frozen(state) for sid, state in self.clients[name].states.items()})
        reply = super()._reply(exchange, name, request)
        if name == "0" and isinstance(reply, Answered):
            self.tape.answered.append(reply.body)
        return reply


FED = federation(N, 1, 1)
SIGNATURES = Signatures(65_536)


@cache
def recorded(first: int = 1) -> tuple[Recorded, Established]:
    """The tape of one round, and what the server established for it."""
    fleet = RecordingFleet(clients(FED, SIZE, BITS, SIGNATURES))
    established = conduct(establish(FED.opening(first, SIGNATURES), PATIENCE), fleet)
    following = FED.opening(first + 1, SIGNATURES)
    conduct(secure_sum(established, plans.digest(PLAN), (PLAN, b"model"), SIZE, BITS, PATIENCE, following), fleet)
    return fleet.tape, established


def others() -> list[bytes]:
    """Messages to splice with: all of this round's and of another one's."""
    here, there = recorded()[0], recorded(11)[0]
    return [*here.asked, *here.answered, *there.asked, *there.answered]


def body(message: bytes, kind: Kind) -> bytes:
    return next(bytes(frame.body) for frame in wire.frames(message) if frame.kind == kind)


def decoders() -> list[tuple[Callable[[bytes], object], bytes]]:
    """Pure decoders, each with a good message."""
    tape, _ = recorded()
    share, contribute = body(tape.asked[1], Kind.SHARE), body(tape.asked[2], Kind.CONTRIBUTE)
    certificate = wire.split_sid(body(tape.asked[4], Kind.UNMASK))[1]
    return [
        *((wire.frames, message) for message in (*tape.asked, *tape.answered)),
        (sessions.decode, body(tape.asked[0], Kind.ADVERTISE)),
        (wire.split_sid, share),
        (wire.decode_advert, body(tape.answered[0], Kind.ADVERTISE)),
        (partial(wire.decode_adverts, size=N), share[32:]),
        (partial(wire.decode_shared, size=N), body(tape.answered[1], Kind.SHARE)),
        (partial(wire.decode_contribute, size=N), contribute[32:]),
        (partial(wire.decode_rows, width=82, size=N, what="sealed"), body(tape.asked[2], Kind.SEALED)[32:]),
        (partial(wire.decode_rows, width=64, size=N, what="certificate"), bytes(certificate)),
        (partial(wire.decode_rows, width=33, size=N, what="openings"), body(tape.answered[4], Kind.UNMASK)[64:]),
        (partial(wire.decode_survivors, size=N), body(tape.asked[3], Kind.CONFIRM)[32:]),
        (wire.split_signature, body(tape.answered[2], Kind.CONTRIBUTE)),
    ]


def server_steps() -> list[tuple[Kind, Callable[[], Callable[[int, Any], None]], bytes]]:
    """What the server takes in each phase: (kind, makes its taker anew, client 0's good body)."""
    tape, established = recorded()
    party, plan = established.party, plans.digest(PLAN)
    sharing = Sharing(
        party, established.sid, body(tape.asked[1], Kind.SHARE)[32:], established.adverts, b"", established.graph
    )
    sharing.root = sessions.root(established.sid, sharing.raw)

    def collected(**fields: Any) -> Collected:
        members = {"members": set(range(N)), "_survivors": body(tape.asked[3], Kind.CONFIRM)[32:]} | fields
        return Collected(established, plan, np.zeros(SIZE, np.uint32), BITS, **members)

    opening = Opening(party)
    sids = {"party": party, "sid": established.sid, "raw": sharing.raw, "adverts": established.adverts}
    return [
        (Kind.ADVERTISE, lambda: Opening(party, opening.sid).take, body(tape.answered[0], Kind.ADVERTISE)),
        (
            Kind.SHARE,
            lambda: Sharing(**sids, root=sharing.root, graph=established.graph).take,
            body(tape.answered[1], Kind.SHARE),
        ),
        (
            Kind.CONTRIBUTE,
            lambda: collected(members=set(), _survivors=b"").take,
            body(tape.answered[2], Kind.CONTRIBUTE),
        ),
        (Kind.CONFIRM, lambda: collected().take_signature, body(tape.answered[3], Kind.CONFIRM)),
        (Kind.UNMASK, lambda: collected().take_openings, body(tape.answered[4], Kind.UNMASK)),
    ]


class Telling(MemoryClient):
    """A client that says why it refuses."""

    said: Counter[str]

    def step(self, frame: wire.Frame, own: wire.Frame | None, now: float) -> list[bytes]:
        try:
            return MemoryClient.step(self, frame, own, now)
        except ProtocolViolation as error:
            self.said[str(error).split(":")[0]] += 1
            raise


class Asked:
    """Client 0 as it stood before each message."""

    def __init__(self) -> None:
        self.tape = recorded()[0]
        self.client = Telling(0, FED.keys, FED.identities[0], random_rings(SIZE, 1, BITS), BITS, SIGNATURES)
        self.client.said = Counter()

    def answer(self, exchange: int, message: bytes) -> list[wire.Frame]:
        """Its answers, from its state before ``exchange``."""
        self.client.marks = MemoryMarks()
        self.client.states = {sid: one.thawed() for sid, one in self.tape.states[exchange].items()}
        return wire.frames(self.client.answer(message))
