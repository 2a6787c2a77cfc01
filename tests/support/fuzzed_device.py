"""A whole device that was asked for a recorded round, for tests that spoil its messages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from recorded_round import BITS, FED, SIGNATURES, SIZE, N
from secagg_mutations import Frozen
from secagg_parties import PATIENCE, LossyFleet, clients

from fedsus import plan as plans
from fedsus.owner.policy import Policy
from fedsus.plan import Plan
from fedsus.rounds.device_half import sessions as device_sessions
from fedsus.rounds.device_half.answers import Answer, indifferent
from fedsus.rounds.device_half.sessions import Sessions
from fedsus.rounds.messages import model_hash
from fedsus.rounds.server_half.exchange import conduct
from fedsus.secagg.exchange import establish, secure_sum
from fedsus.secagg.keys import Identity
from fedsus.secagg.roster import Roster, RosterMember, digest
from fedsus.secagg.session import Session
from fedsus.types import Answered, Reply
from fedsus_simulations.whole.secure_clients import Federation, MemoryMarks, random_rings


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
