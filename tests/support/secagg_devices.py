"""Devices with their owners' checks, and a server that opens sessions with them as it likes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pacts import a_session, members, plan_for

from fedsus import plan as plans
from fedsus.owner.marks import SessionMarks
from fedsus.owner.policy import Policy
from fedsus.plan import Plan
from fedsus.rounds.device_half.answers import Answer, indifferent
from fedsus.rounds.device_half.sessions import Sessions
from fedsus.rounds.messages import Request
from fedsus.rounds.server_half.exchange import conduct
from fedsus.secagg import wire
from fedsus.secagg.cohort import keys as cohort_keys
from fedsus.secagg.exchange import Patience, establish, secure_sum
from fedsus.secagg.keys import Signatures
from fedsus.secagg.roster import Roster
from fedsus.secagg.server import Established, Opening, Party
from fedsus.secagg.wire import Kind
from fedsus.types import Answered, Ask, Lost, Member, Reply, Ring

MODEL = np.arange(3, dtype=np.float32)
LENGTH, BITS = 5, 32
Lose = Callable[[str, Kind], bool]


def a_plan(session: str, **changes: Any) -> Plan:
    """A plan of the run, for `MODEL`."""
    return plan_for(MODEL, session, **changes)


@dataclass
class Work:
    """A grant whose training gives the same integers for the same model."""

    ring: Ring
    bits: int = BITS

    def charge(self) -> None: ...

    def encoded(self, stop: Callable[[], bool]) -> Ring:
        return self.ring.copy()

    def sent(self) -> None: ...

    def refund(self) -> None: ...

    def certified(self) -> Callable[[int], None]:
        return indifferent


@dataclass
class Devices:
    """Four devices, and the server's side of whatever it asks them."""

    size: int = 4
    refusals: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pact = members(self.size)
        self.roster: Roster = self.pact.roster
        self.names = sorted(self.pact.identities)
        self.at = {name: self._device(name) for name in self.names}
        self.lose: Lose = lambda *_: False

    def _device(self, name: str) -> Sessions:
        marks = SessionMarks(None, lambda: 0.0)
        return Sessions(self.pact.identities[name], lambda _: self.roster, marks, lambda: 0.0)

    def integers(self, name: str) -> Ring:
        """What a device hides."""
        return np.arange(LENGTH, dtype=np.uint32) * 7 + 1000 ** self.names.index(name)

    def summed(self, *names: str) -> Ring:
        return sum((self.integers(name) for name in names), np.zeros(LENGTH, np.uint32)).astype(np.uint32)

    def answer(self, name: str, raw: bytes) -> Answer:
        """What a device answers."""

        def admit(request: Request) -> Work:
            del request
            return Work(self.integers(name))

        answer = self.at[name].answer(raw, Policy(), admit, lambda: False)
        for frame in wire.frames(answer.body):
            if frame.refused:
                self.refusals.append(str(answer.refusal))
        self.bodies.append(answer.body)
        return answer

    def opening(self, plan: Plan, **changes: Any) -> Opening:
        """The server's side of a session for the attempt of a plan."""
        fixed = {
            "run": plan.run,
            "round": plan.round,
            "attempt": plan.attempt,
            "specification": plans.specification(plan),
            "minimum": plan.cohort.minimum,
            "dropouts": 1,
        }
        session = a_session(self.pact, **fixed | changes)
        return Opening(
            Party(session, cohort_keys(session, self.pact.roster), dict(enumerate(self.names)), Signatures())
        )

    def establish(self, plan: Plan, **changes: Any) -> Established:
        """Phases 0 and 1."""
        return conduct(establish(self.opening(plan, **changes), Patience(10.0)), self)

    def sum(self, established: Established, plan: Plan, following: Opening | None = None) -> Any:
        """Phases 2 to 4, with the following session's first two."""
        raw = plans.encode(plan)
        asking = secure_sum(established, plans.digest(raw), (raw, self.model), LENGTH, BITS, Patience(10.0), following)
        return conduct(asking, self)

    def contribution(self, established: Established, index: int, plan: Plan) -> bytes:
        """A request to contribute."""
        return established.own_request(index) + established.request(plans.encode(plan), self.model)

    @property
    def model(self) -> bytes:
        return MODEL.astype("<f4").tobytes()

    def members(self) -> Sequence[Member]:
        return [Member(name, name) for name in self.names]

    def ask(self, ask: Ask) -> Iterator[Reply]:
        """As a fleet; who is lost is not asked."""
        for name in ask.requests:
            raw = ask.request(name)
            kind = next(frame.kind for frame in wire.frames(raw) if frame.kind != Kind.SEALED)
            yield Lost(name) if self.lose(name, kind) else Answered(name, self.answer(name, raw).body)


def losing(names: Collection[str], *kinds: Kind) -> Lose:
    """These names get no message of these kinds."""
    return lambda name, kind: name in names and kind in kinds


def refused(answer: Answer) -> Mapping[Kind, bool]:
    """Which phases of a message were refused."""
    return {frame.kind: frame.refused for frame in wire.frames(answer.body)}
