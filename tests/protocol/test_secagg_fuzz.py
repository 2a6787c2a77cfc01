"""100,000 spoilt messages to clients, devices, server and decoders: named refusals come out, nothing grows.

The mutator is seeded, so that each run sends the same; hypothesis sends its own beside it.
"""

from __future__ import annotations

import gc
import json
import logging
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from secagg_mutations import Frozen, spoil, spoil_frames
from secagg_parties import PATIENCE, PLAN, LossyFleet, clients, federation

from fedsus import plan as plans
from fedsus.errors import ProtocolViolation, Refusal
from fedsus.owner.policy import Policy
from fedsus.plan import Plan
from fedsus.rounds import sessions as device_sessions
from fedsus.rounds.answers import Answer, indifferent, refused
from fedsus.rounds.exchange import conduct
from fedsus.rounds.messages import model_hash
from fedsus.rounds.sessions import Sessions
from fedsus.secagg import session as sessions
from fedsus.secagg import wire
from fedsus.secagg.exchange import Taker, _Taking, establish, secure_sum
from fedsus.secagg.keys import Identity, Signatures
from fedsus.secagg.roster import Roster, RosterMember, digest
from fedsus.secagg.server import Collected, Established, Opening, Sharing
from fedsus.secagg.session import Session
from fedsus.secagg.wire import Kind
from fedsus.types import Answered, Reply
from fedsus_simulations.whole.secure_clients import Federation, MemoryClient, MemoryMarks, random_rings

N, SIZE, BITS = 5, 8, 20
DECODED, TAKEN, ASKED, DEVICE = 30_000, 30_000, 25_000, 15_000
"""How many go to pure decoders, to the server, to clients in memory and to a whole device."""

PARTS = 5
"""Of each, tests of their own: workers share them out."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """100,000 refusals are not logged."""
    for name in ("fedsus.server", "fedsus.device"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    yield
    for name in ("fedsus.server", "fedsus.device"):
        logging.getLogger(name).setLevel(logging.NOTSET)


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


def survived(run: Callable[[bytes], object], message: bytes, said: Counter[str]) -> bool:
    """Whether a message was taken; what else than a named refusal comes out is shown with the message."""
    try:
        run(message)
    except (ProtocolViolation, Refusal) as error:
        said[str(error).split(":")[0]] += 1
        return False
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__}: {error}: {message.hex()}") from error
    return True


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


@pytest.mark.parametrize("part", range(PARTS))
def test_decoders(part: int) -> None:
    rng, said, taken, spare = Random(f"decoders {part}"), Counter(), 0, others()
    found = decoders()
    for turn in range(DECODED // PARTS):
        run, good = found[turn % len(found)]
        strange = spoil_frames if run is wire.frames else spoil
        taken += survived(run, strange(rng, good, spare), said)
    words = "message session advert adverts shares sealed certificate openings contribute survivors"
    assert set(words.split()) <= said.keys()
    assert said.total() > DECODED // PARTS // 4 and taken > DECODED // PARTS // 20


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


def test_the_server_takes_the_good_ones() -> None:
    for _, taker, good in server_steps():
        taker()(0, good)


def noted(took: set[bytes], step: Callable[[int, Any], None], index: int, body: Any) -> None:
    """Take an answer, and say that it was taken."""
    step(index, body)
    took.add(bytes(body))


@pytest.mark.parametrize("part", range(PARTS))
def test_server(part: int) -> None:
    """Each answer is signed: what is taken is what was sent, bit for bit."""
    rng, said, spare = Random(f"server {part}"), Counter(), others()
    steps = server_steps()
    for turn in range(TAKEN // PARTS):
        kind, taker, good = steps[turn % len(steps)]
        if turn % 10 < 5:
            message = spoil(rng, good, spare)
            assert not survived(partial(taker(), 0), message, said) or message == good
        else:
            message, took, step = spoil_frames(rng, wire.frame(kind, good), spare), set(), taker()
            taking = _Taking({kind: Taker({"0": 0}, partial(noted, took, step), set())})
            assert survived(lambda raw, taking=taking: taking.take(iter([Answered("0", raw)]), {"0"}), message, said)
            assert took <= {good}, message.hex()
    assert {"client 0", "advert", "shares", "answer"} <= said.keys()


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


def test_the_client_answers_the_good_ones() -> None:
    asked = Asked()
    for exchange, message in enumerate(asked.tape.asked):
        assert not any(frame.refused for frame in asked.answer(exchange, message))


@pytest.mark.parametrize("part", range(PARTS))
def test_client(part: int) -> None:
    rng, said, spare, asked = Random(f"client {part}"), Counter(), others(), Asked()
    for turn in range(ASKED // PARTS):
        message = spoil_frames(rng, asked.tape.asked[turn % 5], spare)
        survived(partial(asked.answer, turn % 5), message, said)
    assert said["message"] > ASKED // PARTS // 20
    words = "session adverts certificate shares contribute survivors message"
    assert set(words.split()) <= asked.client.said.keys()


@dataclass
class Grant:
    """What a policy grants, without training."""

    bits: int = BITS

    def charge(self) -> None:
        pass

    def encoded(self, stop: Any) -> Any:
        del stop
        return random_rings(SIZE, 1, BITS)(0)

    def sent(self) -> None:
        pass

    def refund(self) -> None:
        pass

    def certified(self) -> Any:
        return indifferent


class Notes(MemoryMarks):
    """Marks of a device, in memory."""

    def expect(self, session: Session, sid: bytes) -> None:
        pass

    def close(self) -> None:
        pass


MODEL = np.zeros(4, np.float32)
PLAN_FIELDS: dict[str, Any] = {
    "run": "memory",
    "round": 1,
    "attempt": 1,
    "rounds": 2,
    "spare_attempts": 2,
    "model": model_hash(MODEL),
    "dimension": len(MODEL),
    "task": {"name": "heart"},
    "training": {},
    "privacy": {"unit": "none"},
    "encoding": {},
    "metrics": [{"name": "loss", "low": 0.0, "high": 10.0}],
    "cohort": {"size": N, "minimum": 3},
    "exchange": "secure_sum",
    "deadline": 60.0,
}
POLICY = Policy.model_validate(
    {"privacy": {"without_dp": True}, "cohort": {"minimum": 3}, "secure_sum": {"dropout": 0.5}, "tasks": {}}
)


def a_plan(sid: bytes) -> Plan:
    return Plan.model_validate_json(json.dumps(PLAN_FIELDS | {"session": sid.hex()}))


class OneDevice:
    """A whole device in the place of client 0: admission, sessions, plan; and how it stood before each message."""

    def __init__(self) -> None:
        keys = [key.hex() for key in FED.keys]
        self.roster = Roster(
            federation="memory",
            number=1,
            previous=None,
            signers=(Identity.generate().public.hex(),),
            needed=1,
            seed="0" * 64,
            members=tuple(RosterMember(name=f"c{index}", key=key) for index, key in enumerate(keys)),
        )
        self.sessions = self._fresh()
        self.asked: list[bytes] = []
        self.frozen: list[dict[bytes, tuple[Session, Frozen | None, dict[Any, Any]]]] = []

    def _fresh(self) -> Sessions:
        return Sessions(
            FED.identities[0],
            lambda _: self.roster,
            Notes(),  # type: ignore[arg-type]
            lambda: 0.0,
            signatures=SIGNATURES,
        )

    def answer(self, raw: bytes) -> Answer:
        return self.sessions.answer(raw, POLICY, lambda _: Grant(), lambda: False)

    def thaw(self, exchange: int) -> None:
        """As before that exchange."""
        self.sessions = self._fresh()
        for sid, (session, state, answered) in self.frozen[exchange].items():
            live = None if state is None else state.thawed(self.sessions.marks)
            self.sessions._live[sid] = device_sessions._Live(session, live, dict(answered))

    def freeze(self, raw: bytes) -> None:
        self.asked.append(raw)
        self.frozen.append(
            {
                sid: (live.session, None if live.state is None else Frozen(live.state), dict(live.given))
                for sid, live in self.sessions._live.items()
            }
        )


class DeviceFleet(LossyFleet):
    """Client 0 is the device."""

    device: OneDevice

    def _reply(self, exchange: int, name: str, request: bytes) -> Reply:
        if name != "0":
            return super()._reply(exchange, name, request)
        self.device.freeze(request)
        answer = self.device.answer(request)
        assert answer.refusal is None, answer.refusal
        return Answered(name, answer.body)


@cache
def device() -> OneDevice:
    """A device that was asked for a round with the next session riding along, and answered."""
    found = OneDevice()
    fed = Federation(FED.identities, 2, 1)
    fixed = {
        "roster": digest(found.roster).hex(),
        "specification": plans.specification(a_plan(bytes(32))),
        "minimum": 3,
    }
    fleet = DeviceFleet(clients(fed, SIZE, BITS, SIGNATURES))
    fleet.device = found
    established = conduct(establish(fed.opening(1, SIGNATURES, **fixed), PATIENCE), fleet)
    raw = plans.encode(a_plan(established.sid))
    request, following = (raw, MODEL.data.cast("B")), fed.opening(2, SIGNATURES, **fixed)
    conduct(secure_sum(established, plans.digest(raw), request, SIZE, BITS, PATIENCE, following), fleet)
    return found


@pytest.mark.parametrize("part", range(PARTS))
def test_device(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device answers whatever it is asked; what it refuses has a named reason, which it keeps."""
    rng, found, said = Random(f"device {part}"), device(), Counter()

    def noted_refusal(error: Exception, *body: bytes) -> Answer:
        assert isinstance(error, ProtocolViolation | Refusal), repr(error)
        said[str(error).split(":")[0].split()[0]] += 1
        return refused(error, *body)

    monkeypatch.setattr(device_sessions, "refused", noted_refusal)
    for turn in range(DEVICE // PARTS):
        message = spoil_frames(rng, found.asked[turn % 5], found.asked)
        found.thaw(turn % 5)
        assert survived(found.answer, message, said)
    assert {"message", "session", "adverts", "certificate", "shares", "plan", "survivors"} <= said.keys()


@given(st.binary(max_size=400), st.integers(0, 4))
def test_noise(raw: bytes, exchange: int) -> None:
    """Of hypothesis, bare and in a frame of each kind."""
    for run, _ in decoders():
        survived(run, raw, Counter())
    for kind, taker, _ in server_steps():
        assert not survived(partial(taker(), 0), raw, Counter())
        device().thaw(exchange)
        assert survived(device().answer, wire.frame(kind, raw), Counter())
        sid = next(iter(device().frozen[exchange]), b"")
        assert survived(device().answer, wire.frame(kind, sid, raw), Counter())


def counts() -> Iterator[tuple[Callable[[bytes], object], bytes]]:
    """Good messages whose counts and lengths are as large as they can be."""
    huge, long = b"\xff" * 4, b"\xff" * 8
    for run, good in decoders():
        for place in (0, 96, 4 + 4 * 68, 8 + 4 * 68):
            yield run, good[:place] + huge + good[place + 4 :]
        for place in (7, 4 + N * 68, 12 + N * 68):
            yield run, good[:place] + long + good[place + 8 :]


def test_a_count_is_not_believed() -> None:
    """A count of 2**32 - 1 or a length of 2**64 - 1 takes no memory."""
    peak = 0
    for run, message in counts():
        survived(run, message, Counter())
        tracemalloc.start()
        try:
            survived(run, message, Counter())
            peak = max(peak, tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert 0 < peak < 100_000


def test_memory_does_not_grow() -> None:
    """The same 600 messages again and again, to everyone who takes any."""
    rng, spare, asked, found, said = Random("memory"), others(), Asked(), device(), Counter()
    here = [(run, (spoil_frames if run is wire.frames else spoil)(rng, good, spare)) for run, good in 4 * decoders()]
    messages = [(at % 5, spoil_frames(rng, found.asked[at % 5], found.asked)) for at in range(100)]
    steps = [(step, spoil(rng, step[2], spare)) for step in 20 * server_steps()]

    def everything() -> None:
        for run, message in here:
            survived(run, message, said)
        for exchange, message in messages:
            found.thaw(exchange)
            survived(found.answer, message, said)
        for at, message in enumerate(asked.tape.asked):
            survived(partial(asked.answer, at), spoil_frames(Random(at), message, spare), said)
        for (_, taker, _), message in steps:
            survived(partial(taker(), 0), message, said)

    everything()
    tracemalloc.start()
    try:
        everything()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(3):
            everything()
        gc.collect()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 30_000
    assert peak - before < 3_000_000
