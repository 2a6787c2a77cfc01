"""A device's part in secure aggregation: which sessions it is in, and what it answers in each. No sockets, no torch.

A message may hold phases of two sessions, for the next one's first phases ride on this one's last: each is answered or
refused on its own. A session lives in memory alone; after a restart the device is a dropout of it.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fedsus import plan as plans
from fedsus.errors import Cancelled, ProtocolViolation, Refusal
from fedsus.owner.cohorts import NotInCohort, admit_session
from fedsus.owner.consumption import NO_CONSUMPTION, Consumption
from fedsus.owner.marks import SessionMarks
from fedsus.owner.policy import Policy
from fedsus.plan import Plan
from fedsus.rounds.device_half.answers import Answer, Granted, hour_of, indifferent, nothing, refused
from fedsus.rounds.messages import Request, request_of
from fedsus.rounds.models import Held, Unheld
from fedsus.rounds.phases import check_plan, phases_of
from fedsus.secagg import session as sessions
from fedsus.secagg import wire
from fedsus.secagg.client import Advertised, Confirmed, Masked, Opened, Shared, State, advertise
from fedsus.secagg.cohort import keys as cohort_keys
from fedsus.secagg.keys import Identity, Signatures
from fedsus.secagg.roster import Roster
from fedsus.secagg.seat import Seat
from fedsus.secagg.session import NO_SERVER, Session
from fedsus.secagg.wire import Frame, Kind
from fedsus.types import Clock, Ring, Stop

log = logging.getLogger("fedsus.device")

MOST: Final = 4
"""Sessions in memory: one under way and the next, of two runs. The oldest is dropped for another."""

_NEXT: Final[Mapping[type, Kind]] = {
    Advertised: Kind.SHARE,
    Shared: Kind.CONTRIBUTE,
    Masked: Kind.CONFIRM,
    Confirmed: Kind.UNMASK,
}
"""The one phase that each state can take."""

Admit = Callable[[Request], Granted]


class NotHere(Refusal):
    """The message is for clients of a session that this device is not in, as after a restart: nobody's fault."""


@dataclass(slots=True)
class _Live:
    """One session, where it stands, and what was answered: an equal request gets an equal answer."""

    session: Session
    state: State | None
    given: dict[Kind, tuple[bytes, bytes]] = field(default_factory=dict)
    certified: Callable[[int], None] = indifferent

    def wipe(self) -> None:
        if self.state is not None:
            self.state.wipe()
        self.state = None


@dataclass(slots=True)
class Sessions:
    """The sessions of one device. One message is answered at a time, whichever threads bring them.

    Args:
        identity: its signing key.
        roster: the roster that is accepted now.
        marks: its durable notes.
        clock: seconds since the epoch.
        server: SHA-256 (hex) of the certificate authority that the device pins; zeros where there is none.
        signatures: checks the others'.
        workers: threads for masks.
        held: the models that differences start from.
        consumption: what this device uses, and what it may.
    """

    identity: Identity
    roster: Callable[[Policy], Roster | None]
    marks: SessionMarks
    clock: Clock
    server: str = NO_SERVER
    signatures: Signatures = field(default_factory=Signatures)
    workers: int = 1
    held: Held = field(default_factory=Held)
    consumption: Consumption = NO_CONSUMPTION
    _live: dict[bytes, _Live] = field(default_factory=dict, init=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)

    def answer(self, raw: bytes, policy: Policy, admit: Admit, stop: Stop) -> Answer:
        """Answer each phase that a message asks for.

        Raises:
            Cancelled: ``stop`` said so while training; nothing was released.
        """
        try:
            asked = phases_of(wire.frames(raw))
        except ProtocolViolation as error:
            return refused(error)
        # Guarded, for a state that another thread could wipe or replace while it trains would be none.
        with self._guard, self.consumption.phase("crypto"):
            answer = self._joined([self._one(frames, len(asked), policy, admit, stop) for frames in asked])
            self._forget(self.clock(), MOST + 1)  # no server asks for what has expired, and its secrets would stay
        return answer

    def close(self) -> None:
        """Drop all secrets and let another agent use the notes."""
        with self._guard:
            for live in self._live.values():
                live.wipe()
            self._live.clear()
            self.marks.close()

    def _one(self, asked: Sequence[Frame], phases: int, policy: Policy, admit: Admit, stop: Stop) -> Answer:
        """Answer one phase of so many."""
        kind = asked[-1].kind
        try:
            if kind == Kind.ADVERTISE:
                return self._advertise(bytes(asked[0].body), policy)
            sid, body = wire.split_sid(asked[-1].body)
            live = self._live.get(sid)
            if live is None:
                raise NotHere(f"phase {kind.name.lower()} of a session that this device is not in")
            content = hashlib.sha256(b"".join(hashlib.sha256(frame.body).digest() for frame in asked)).digest()
            if kind in live.given:
                return self._again(live, kind, content)
            return self._next(live, kind, asked, body, content, policy, admit, stop)
        except Cancelled:
            raise
        except Unheld as error:
            log.info("%s", error)
            return Answer(wire.frame(kind, wanting=True), nothing)
        except (NotHere, NotInCohort) as error:
            log.info("%s", error)
            declined = str(error) if isinstance(error, NotInCohort) and phases == 1 else None
            return Answer(wire.frame(kind, refused=True), nothing, str(error), declined=declined)
        except Exception as error:  # also what nobody thought of: no request may end the agent
            return refused(error, wire.frame(kind, hour_of(error), refused=True))

    @staticmethod
    def _again(live: _Live, kind: Kind, content: bytes) -> Answer:
        """A lost answer is sent again byte for byte; another question gets none."""
        asked, answered = live.given[kind]
        if asked != content:
            raise ProtocolViolation(f"session: phase {kind.name.lower()} was answered before, to another request")
        return Answer(answered, nothing)

    def _advertise(self, raw: bytes, policy: Policy) -> Answer:
        session, sid, now = sessions.decode(raw), sessions.session_id(raw), self.clock()
        content = hashlib.sha256(hashlib.sha256(raw).digest()).digest()
        if sid in self._live:
            return self._again(self._live[sid], Kind.ADVERTISE, content)
        roster = self.roster(policy)
        index = admit_session(session, roster, policy, self.identity.public, self.server, now)
        if roster is None:
            raise Refusal("no roster is installed")
        self.consumption.working(session.run, session.round, session.attempt)
        self.consumption.join(policy.budget, session.run, self._others(session))
        self.marks.expect(session, sid)
        keys = cohort_keys(session, roster)
        seat = Seat(session, sid, keys, index, self.identity, self.signatures, self.marks, self.workers)
        state, advert = advertise(seat, now)
        # The one before may be under way still: this one rides on it.
        self._retire(session, session.attempt - 2, untrained=policy.budget.capped)
        self._forget(now, MOST)
        answered = wire.frame(Kind.ADVERTISE, advert)
        self._live[sid] = _Live(session, state, {Kind.ADVERTISE: (content, answered)})
        return Answer(answered, nothing)

    def _next(
        self,
        live: _Live,
        kind: Kind,
        asked: Sequence[Frame],
        body: memoryview,
        content: bytes,
        policy: Policy,
        admit: Admit,
        stop: Stop,
    ) -> Answer:
        """The step that a request asks of a session, which it uses up: what fails is not tried again."""
        state, size, now = live.state, live.session.size, self.clock()
        if _NEXT.get(type(state)) != kind:  # twice delivered, or too late: it costs the session nothing
            raise ProtocolViolation(f"session: phase {kind.name.lower()} is not the next one")
        live.state = None
        self.consumption.working(live.session.run, live.session.round, live.session.attempt)
        plan, sent = None, nothing
        try:
            match kind, state:
                case Kind.SHARE, Advertised():
                    live.state, answered = state.share(body, now)
                case Kind.CONTRIBUTE, Shared():
                    answered, plan, sent = self._contribute(live, state, asked, body, policy, admit, stop)
                case Kind.CONFIRM, Masked():
                    live.state, answered = state.confirm(body, now)
                case Kind.UNMASK, Confirmed():
                    answered = state.unmask(wire.decode_rows(body, wire.SIGNATURE_BYTES, size, "certificate"), now)
                    live.certified(len(state.members))
                case _:
                    raise ProtocolViolation(f"session: phase {kind.name.lower()} is not the next one")
        except Unheld:
            live.state = state  # before anything was looked at or fixed: it is asked again, with the whole model
            raise
        except BaseException:
            if state is not None:
                state.wipe()
            raise
        framed = wire.frame(kind, answered)
        live.given[kind] = content, framed
        if kind != Kind.CONTRIBUTE:
            live.given.pop(Kind.CONTRIBUTE, None)  # the vector arrived, and is large
        return Answer(framed, sent, plan=plan)

    def _contribute(
        self,
        live: _Live,
        state: Shared,
        asked: Sequence[Frame],
        body: memoryview,
        policy: Policy,
        admit: Admit,
        stop: Stop,
    ) -> tuple[bytes, Plan, Callable[[], None]]:
        """Check the plan against session and policy, charge, train, mask."""
        session = live.session
        sid, rows = wire.split_sid(asked[0].body)
        if len(asked) != 2 or sid != state.seat.sid:
            raise ProtocolViolation("contribute: without the shares of the same session")
        sealed = wire.decode_rows(rows, wire.SEALED_BYTES, session.size, "shares")
        certificate, raw_plan, raw_model = wire.decode_contribute(body, session.size)
        request = request_of(bytes(raw_plan), raw_model, self.held)
        check_plan(request.plan, session, sid)
        admit_session(session, self.roster(policy), policy, self.identity.public, self.server, self.clock())
        granted = admit(request)
        self.held.keep(request.plan, request.model)
        opened = state.open(sealed, certificate, plans.digest(request.raw_plan), self.clock())
        try:
            granted.charge()
            ring = granted.encoded(stop)
            live.state, answered = self._masked(opened, ring, granted)
        except BaseException:
            opened.wipe()
            raise
        live.certified = granted.certified()
        self._retire(session, session.attempt, live)
        return answered, request.plan, granted.sent

    def _masked(self, opened: Opened, ring: Ring, granted: Granted) -> tuple[Masked, bytes]:
        try:
            return opened.mask(ring, granted.bits, self.clock())
        except BaseException:
            granted.refund()
            raise

    def _others(self, session: Session) -> int:
        """Other runs whose session was joined and is still to be trained for: the day's budget counts a round each."""
        waiting = {live.session.run for live in self._live.values() if isinstance(live.state, Advertised | Shared)}
        return len(waiting - {session.run})

    def _retire(self, session: Session, newest: int, kept: _Live | None = None, *, untrained: bool = False) -> None:
        """Attempts up to ``newest`` of a session's run are over; but for them, they would push out another run's.
        So are those still to be trained for, if ``untrained``: the day's budget was asked for one round of a run."""
        for sid, other in list(self._live.items()):
            same = (other.session.federation, other.session.run) == (session.federation, session.run)
            over = other.session.attempt <= newest or (untrained and isinstance(other.state, Advertised | Shared))
            if other is not kept and same and over:
                self._live.pop(sid).wipe()

    def _forget(self, now: float, many: int) -> None:
        """Wipe what has expired, and the oldest of ``many`` or more."""
        for sid, live in list(self._live.items()):
            if now >= live.session.expires or len(self._live) >= many:
                self._live.pop(sid).wipe()

    @staticmethod
    def _joined(answers: Sequence[Answer]) -> Answer:
        """One message of all answers; told to the owner as the one that had a plan, or refused."""
        told = next((one for one in answers if one.plan is not None), None)
        why = [one.refusal for one in answers if one.refusal is not None]

        def sent() -> None:
            for one in answers:
                one.sent()

        body = b"".join(one.body for one in answers) if len(answers) > 1 else answers[0].body
        reason = why[0] if len(why) == len(answers) else None
        declined = next((one.declined for one in answers if one.declined is not None), None)
        return Answer(body, sent, reason, told.plan if told else None, declined)
