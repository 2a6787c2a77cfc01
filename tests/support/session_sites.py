"""Devices' sessions for tests: four in memory whose training is a few integers, and an honest server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from pacts import a_session, members, plan_for

from fedsus import plan as plans
from fedsus.owner.marks import SessionMarks
from fedsus.owner.policy import Policy
from fedsus.plan import Plan
from fedsus.rounds.device_half.answers import Answer
from fedsus.rounds.device_half.sessions import Sessions
from fedsus.rounds.messages import Request
from fedsus.rounds.server_half.exchange import conduct
from fedsus.secagg import wire
from fedsus.secagg.cohort import keys as cohort_keys
from fedsus.secagg.exchange import Patience, SecureSummed, establish, secure_sum
from fedsus.secagg.keys import Agreement, Signatures
from fedsus.secagg.secret import Secret
from fedsus.secagg.server import Established, Opening, Party
from fedsus.secagg.session import Session
from fedsus.secagg.wire import Kind
from fedsus.types import Answered, Ask, Member, Reply, Ring

MODEL = np.arange(5, dtype=np.float32)
SIZE, BITS = 7, 32
NOW, EXPIRES = 100.0, 1000
PHASES = (Kind.ADVERTISE, Kind.SHARE, Kind.CONTRIBUTE, Kind.CONFIRM, Kind.UNMASK)
LATER = PHASES[1:]


def a_plan(session: str | None = "0" * 64, **changes: Any) -> Plan:
    return plan_for(MODEL, session, **changes)


@dataclass
class Work:
    """A grant whose training is a few integers; notes what happens to it."""

    ring: Ring
    noted: list[str]
    fails: Callable[[], None] = lambda: None
    bits: int = BITS

    def charge(self) -> None:
        self.noted.append("charged")

    def encoded(self, stop: Callable[[], bool]) -> Ring:
        self.noted.append("trained")
        self.fails()
        return self.ring.copy()

    def sent(self) -> None:
        self.noted.append("sent")

    def refund(self) -> None:
        self.noted.append("refunded")

    def certified(self) -> Callable[[int], None]:
        return lambda survivors: self.noted.append(f"{survivors} survivors")


@dataclass
class Site:
    """One device's sessions with what its owner sees."""

    sessions: Sessions
    number: int
    noted: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    fails: Callable[[], None] = lambda: None
    denied: Exception | None = None
    plans: list[Plan] = field(default_factory=list)
    policy: Policy = field(default_factory=Policy)

    def admit(self, request: Request) -> Work:
        self.plans.append(request.plan)
        if self.denied is not None:
            raise self.denied
        return Work(np.full(SIZE, 2**31 + self.number, np.uint32), self.noted, self.fails)

    def answer(self, raw: bytes) -> Answer:
        answer = self.sessions.answer(raw, self.policy, self.admit, lambda: False)
        if answer.refusal is not None:
            self.refusals.append(answer.refusal)
        return answer


Meddle = Callable[[Site, bytes], None]


@dataclass
class Sites:
    """Four devices in memory and an honest server; ``before`` and ``after`` meddle with each request."""

    folder: Path | None = None
    now: float = NOW
    asked: list[list[Kind]] = field(default_factory=list)
    before: Meddle = lambda *_: None
    after: Meddle = lambda *_: None
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        self.pact = members(4)
        self.names = sorted(self.pact.identities)
        self.sites = {
            name: Site(self.device(name), number, policy=self.policy) for number, name in enumerate(self.names)
        }
        self.first = self.sites[self.names[0]]

    def device(self, name: str) -> Sessions:
        marks = SessionMarks(self.folder and self.folder / name, lambda: self.now)
        return Sessions(self.pact.identities[name], lambda _: self.pact.roster, marks, lambda: self.now)

    def session(self, plan: Plan, **changes: Any) -> Session:
        fixed = {
            "run": plan.run,
            "round": plan.round,
            "attempt": plan.attempt,
            "specification": plans.specification(plan),
            "minimum": plan.cohort.minimum,
            "dropouts": 1,
            "expires": EXPIRES,
        }
        return a_session(self.pact, **fixed | changes)

    def opening(self, session: Session) -> Opening:
        clients = dict(enumerate(self.names))
        return Opening(Party(session, cohort_keys(session, self.pact.roster), clients, Signatures()))

    def establish(self, plan: Plan | None = None, **changes: Any) -> Established:
        return conduct(establish(self.opening(self.session(plan or a_plan(), **changes)), Patience(10.0)), self)

    def sum(self, established: Established, plan: Plan, following: Opening | None = None) -> SecureSummed:
        raw = plans.encode(plan)
        request = raw, memoryview(MODEL.astype("<f4").tobytes())
        asking = secure_sum(established, plans.digest(raw), request, SIZE, BITS, Patience(10.0), following)
        return conduct(asking, self)

    def whole(self, **changes: Any) -> SecureSummed:
        established = self.establish(a_plan(**changes))
        return self.sum(established, a_plan(established.sid.hex(), **changes))

    def members(self) -> Sequence[Member]:
        return [Member(name, name) for name in self.names]

    def ask(self, ask: Ask) -> Iterator[Reply]:
        self.asked.append([frame.kind for frame in wire.frames(ask.common)])
        for name in ask.requests:
            site, raw = self.sites[name], ask.request(name)
            self.before(site, raw)
            answer = site.answer(raw)
            answer.sent()
            self.after(site, raw)
            yield Answered(name, answer.body)


def kind_of(raw: bytes) -> Kind:
    return wire.frames(raw)[-1].kind


def is_refused(body: bytes) -> bool:
    (frame,) = wire.frames(body)
    return frame.refused


def state_of(site: Site) -> Any:
    (live,) = site.sessions._live.values()
    return live.state


def readable(state: Any) -> list[str]:
    """Names of a state's fields that still hold a secret."""
    found = []
    for one in fields(state):
        value = getattr(state, one.name)
        for part in value.values() if isinstance(value, Mapping) else [value]:
            if isinstance(part, Secret) and part.size:
                found.append(one.name)
            if isinstance(part, Agreement) and works(part):
                found.append(one.name)
    return found


def works(key: Agreement) -> bool:
    try:
        return key.secret().size > 0
    except Exception:
        return False


def contribution(established: Established, plan: Plan, index: int = 0) -> bytes:
    model = memoryview(MODEL.astype("<f4").tobytes())
    return established.own_request(index) + established.request(plans.encode(plan), model)
