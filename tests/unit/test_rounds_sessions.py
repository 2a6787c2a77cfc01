"""A device's sessions: each phase answered once, alike when asked alike, and nothing of a plan that is another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pacts import a_session, members, plan_for

from fedsus import plan as plans
from fedsus.errors import Cancelled, CohortTooSmall, DataError
from fedsus.learning.settings import Compute
from fedsus.owner.ledger import Ledger
from fedsus.owner.marks import SessionMarks
from fedsus.owner.policy import Policy
from fedsus.plan import Plan
from fedsus.privacy.noise import SeededNoise
from fedsus.rounds.answers import Answer, refusal_of
from fedsus.rounds.device import Device
from fedsus.rounds.exchange import conduct
from fedsus.rounds.messages import REFUSAL, Request, encode_request
from fedsus.rounds.sessions import MOST, Sessions
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

    def admit(self, request: Request) -> Work:
        self.plans.append(request.plan)
        if self.denied is not None:
            raise self.denied
        return Work(np.full(SIZE, 2**31 + self.number, np.uint32), self.noted, self.fails)

    def answer(self, raw: bytes) -> Answer:
        answer = self.sessions.answer(raw, Policy(), self.admit, lambda: False)
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

    def __post_init__(self) -> None:
        self.pact = members(4)
        self.names = sorted(self.pact.identities)
        self.sites = {name: Site(self.device(name), number) for number, name in enumerate(self.names)}
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


def test_a_session_gives_the_exact_sum_and_is_charged_and_released_once() -> None:
    sites = Sites()
    summed = sites.whole().summed
    assert summed.total.tolist() == [(4 * 2**31 + 0 + 1 + 2 + 3) % 2**32] * SIZE
    assert (summed.survivors, summed.refused, summed.lost) == (4, 0, 0)
    for site in sites.sites.values():
        assert site.noted == ["charged", "trained", "sent", "4 survivors"]
        assert site.refusals == []
    assert sites.asked == [[kind] for kind in PHASES]


def test_asked_again_alike_it_answers_byte_for_byte_and_does_nothing_twice() -> None:
    sites, compared = Sites(), []

    def again(site: Site, raw: bytes) -> None:
        noted = list(site.noted)
        twice = [site.answer(raw) for _ in range(2)]
        for one in twice:
            one.sent()
        compared.append((kind_of(raw), twice[0].body == twice[1].body, is_refused(twice[0].body)))
        assert site.noted == noted

    sites.after = again
    first = sites.whole().summed.total
    assert first.tolist() == [6] * SIZE
    assert compared == [(kind, True, False) for kind in PHASES for _ in range(4)]


def test_what_is_sent_again_is_what_was_sent() -> None:
    sites, sent = Sites(), {}
    honest = Site.answer

    def noted(site: Site, raw: bytes) -> Answer:
        answer = honest(site, raw)
        key = site.number, raw
        assert sent.setdefault(key, answer.body) == answer.body
        return answer

    for site in sites.sites.values():
        site.answer = lambda raw, site=site: noted(site, raw)  # type: ignore[method-assign,misc]
    sites.after = lambda site, raw: site.answer(raw) and None
    sites.whole()
    assert len(sent) == 5 * 4


@pytest.mark.parametrize("phase", LATER)
def test_another_question_for_a_phase_that_was_answered_gets_nothing(phase: Kind) -> None:
    sites, refused = Sites(), []

    def otherwise(site: Site, raw: bytes) -> None:
        if kind_of(raw) == phase:
            answer = site.answer(raw[:-1] + bytes([raw[-1] ^ 1]))
            refused.append(is_refused(answer.body) and answer.refusal)

    sites.after = otherwise
    assert sites.whole().summed.survivors == 4, "and it disturbs nothing"
    assert refused == [f"session: phase {phase.name.lower()} was answered before, to another request"] * 4


@pytest.mark.parametrize(
    ("phase", "survivors"), [(Kind.SHARE, 3), (Kind.CONTRIBUTE, 3), (Kind.CONFIRM, 4), (Kind.UNMASK, 4)]
)
def test_a_wrong_question_uses_the_session_up(phase: Kind, survivors: int) -> None:
    """A client that was lied to once is a dropout: the honest question comes too late, and its secrets are gone."""
    sites, states = Sites(), []

    def lie(site: Site, raw: bytes) -> None:
        if kind_of(raw) == phase and site is sites.first:
            states.append(state_of(site))
            assert is_refused(site.answer(raw[:-1] + bytes([raw[-1] ^ 1])).body)

    sites.before = lie
    summed = sites.whole().summed
    inside = range(4 - survivors, 4)
    assert summed.total.tolist() == [(survivors * 2**31 + sum(inside)) % 2**32] * SIZE
    assert sites.first.refusals[1] == f"session: phase {phase.name.lower()} is not the next one"
    assert readable(states[0]) == []
    assert state_of(sites.first) is None


@pytest.mark.parametrize("phase", [phase for phase in LATER if phase != Kind.SHARE])
def test_a_phase_out_of_turn_is_refused_and_costs_the_session_nothing(phase: Kind) -> None:
    sites = Sites()
    opening = sites.opening(sites.session(a_plan()))
    assert not is_refused(sites.first.answer(opening.request()).body)
    state = state_of(sites.first)
    assert readable(state) == ["channel", "mask"]
    parts = (opening.sid, b"\x00" * 8)
    raw = wire.frame(phase, *parts)
    if phase == Kind.CONTRIBUTE:
        raw = wire.frame(Kind.SEALED, *parts) + raw
    assert is_refused(sites.first.answer(raw).body)
    assert state_of(sites.first) is state
    assert readable(state) == ["channel", "mask"]


@pytest.mark.parametrize(
    ("session", "plan", "word"),
    [
        ({}, {"session": "1" * 64}, "session"),
        ({}, {"session": None, "exchange": "clear_sum"}, "exchange"),
        ({}, {"run": "run-2"}, "run"),
        ({}, {"round": 2}, "round"),
        ({}, {"attempt": 2}, "attempt"),
        ({}, {"training": {"local_epochs": 2}}, "specification"),
        ({}, {"task": {"name": "heart", "settings": {"hidden": 4}}}, "specification"),
        ({}, {"encoding": {"value_range": 8.0}}, "specification"),
        ({}, {"deadline": 61.0}, "specification"),
        ({}, {"rounds": 4}, "specification"),
        ({}, {"spare_attempts": 4}, "specification"),
        ({"specification": "1" * 64}, {}, "specification"),
        ({}, {"cohort": {"size": 4, "minimum": 2}}, "specification"),
        ({}, {"cohort": {"size": 5, "minimum": 3}}, "cohort.size"),
        ({"minimum": 2}, {}, "cohort.minimum"),
    ],
)
def test_a_plan_that_is_not_its_sessions_is_refused_before_anything_is_charged(
    session: dict[str, Any], plan: dict[str, Any], word: str
) -> None:
    sites = Sites()
    # A session may be opened for a specification that fits the plan, and lie about the cohort alone.
    fitting = a_plan(**{"cohort": plan["cohort"]} if word == "cohort.size" else {})
    established = sites.establish(fitting, **session)
    state = state_of(sites.first)
    asked = a_plan(**{"session": established.sid.hex()} | plan)
    answer = sites.first.answer(contribution(established, asked))
    assert is_refused(answer.body)
    assert str(answer.refusal).startswith(f"plan: its {word} ")
    assert sites.first.plans == [], "the policy was not even asked"
    assert sites.first.noted == []
    assert readable(state) == []


def test_a_model_that_is_not_the_plans_is_refused() -> None:
    sites = Sites()
    established = sites.establish()
    raw = bytearray(contribution(established, a_plan(established.sid.hex())))
    raw[-1] ^= 1
    answer = sites.first.answer(bytes(raw))
    assert is_refused(answer.body)
    assert answer.refusal == "request: the model is not the one that the plan names"
    assert sites.first.noted == []


def test_a_plan_that_the_owner_refuses_is_not_charged_and_costs_its_update_only() -> None:
    sites = Sites()
    sites.first.denied = DataError("row 17 is broken")
    summed = sites.whole().summed
    assert (summed.survivors, summed.refused) == (3, 1)
    assert summed.total.tolist() == [(3 * 2**31 + 1 + 2 + 3) % 2**32] * SIZE
    assert (sites.first.noted, sites.first.refusals[0]) == ([], "row 17 is broken")


def device(sessions: Sessions | None) -> Device:
    return Device(
        policy=Policy.model_validate({"exchange": {"clear_sum": True}}),
        ledger=Ledger(None, lambda: NOW),
        tasks={"heart": "heart"},
        sources={},
        compute=Compute("cpu", 1),
        noise=SeededNoise(1),
        sessions=sessions,
    )


def test_a_secure_plan_in_a_clear_request_is_refused() -> None:
    answer = device(None).answer(encode_request(a_plan(), MODEL), lambda: False)
    assert answer.body == REFUSAL
    assert answer.refusal == "request: in clear, and its plan says 'secure_sum'"


def test_a_device_without_identity_or_roster_refuses_secure_sums() -> None:
    sites = Sites()
    raw = sites.opening(sites.session(a_plan())).request()
    answer = device(None).answer(raw, lambda: False)
    assert wire.frames(answer.body) == [wire.Frame(Kind.ADVERTISE, b"", refused=True)]
    assert answer.refusal == "secure sum: this device has no identity; run: fedsus client enroll"
    joined = device(sites.first.sessions).answer(raw, lambda: False)
    assert (joined.refusal, is_refused(joined.body)) == (None, False)
    sites.first.sessions.roster = lambda _: None
    other = sites.opening(sites.session(a_plan(), nonce="8" * 64)).request()
    assert "no roster is installed" in str(device(sites.first.sessions).answer(other, lambda: False).refusal)


def test_only_so_many_sessions_are_kept_and_the_oldest_is_wiped() -> None:
    sites, sids = Sites(), []
    for number in range(MOST + 1):
        opening = sites.opening(sites.session(a_plan(run=f"run-{number}")))
        assert not is_refused(sites.first.answer(opening.request()).body)
        sids.append(opening.sid)
        if number == 0:
            oldest = state_of(sites.first)
    assert list(sites.first.sessions._live) == sids[1:]
    assert readable(oldest) == []
    answer = sites.first.answer(wire.frame(Kind.SHARE, sids[0], b"\x00" * 4))
    assert is_refused(answer.body)
    assert answer.refusal == "phase share of a session that this device is not in"


def test_a_run_that_abandons_attempt_after_attempt_pushes_no_other_run_out() -> None:
    sites = Sites()
    first = sites.opening(sites.session(a_plan()))
    sites.first.answer(first.request())
    state = state_of(sites.first)
    opened = []
    for attempt in range(1, 4 * MOST):
        again = sites.opening(sites.session(a_plan(run="other", attempt=attempt, spare_attempts=99)))
        assert not is_refused(sites.first.answer(again.request()).body)
        opened.append(again.sid)
    assert list(sites.first.sessions._live) == [first.sid, *opened[-2:]]
    assert readable(state) == ["channel", "mask"]


@pytest.mark.parametrize("phase", LATER)
def test_nothing_is_answered_once_a_session_has_expired(phase: Kind) -> None:
    sites, states = Sites(), []

    def late(site: Site, raw: bytes) -> None:
        if kind_of(raw) == phase:
            states.append(state_of(site))
            sites.now = float(EXPIRES)

    sites.before = late
    with pytest.raises(CohortTooSmall):
        sites.whole()
    for site, state in zip(sites.sites.values(), states, strict=True):
        expired = [why for why in site.refusals if "it has expired" in why or "the session ends in 0 s" in why]
        assert len(expired) == 1, site.refusals
        assert readable(state) == []
        assert site.noted == (["charged", "trained", "sent"] if phase > Kind.CONTRIBUTE else [])
    fresh = sites.opening(sites.session(a_plan(), nonce="8" * 64, expires=2000, attempt=2, round=2))
    assert not is_refused(sites.first.answer(fresh.request()).body)
    assert list(sites.first.sessions._live) == [fresh.sid], "what has expired is forgotten"


def test_training_that_outlasts_the_session_is_refunded() -> None:
    sites = Sites()

    def slow() -> None:
        sites.now = float(EXPIRES)

    sites.first.fails = slow
    established = sites.establish()
    answer = sites.first.answer(contribution(established, a_plan(established.sid.hex())))
    assert is_refused(answer.body)
    assert sites.first.noted == ["charged", "trained", "refunded"]


class Watched:
    """A lock that says when somebody has to wait for it."""

    def __init__(self) -> None:
        self.lock, self.waited = threading.Lock(), threading.Event()

    def __enter__(self) -> None:
        if not self.lock.acquire(blocking=False):
            self.waited.set()
            self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_a_message_that_comes_while_another_is_answered_waits_for_it() -> None:
    """Sessions that a second thread opens push out the oldest: never one that trains, whose secrets they would miss."""
    sites, guard = Sites(), Watched()
    sites.first.sessions._guard = guard  # type: ignore[assignment]
    established = sites.establish()

    def open_more() -> None:
        for number in range(MOST):
            sites.first.answer(sites.opening(sites.session(a_plan(run=f"other-{number}"))).request())

    other = threading.Thread(target=open_more)

    def train() -> None:
        other.start()
        assert guard.waited.wait(60), "answered beside the training"
        assert list(sites.first.sessions._live) == [established.sid]

    sites.first.fails = train
    answer = sites.first.answer(contribution(established, a_plan(established.sid.hex())))
    other.join(60)
    assert sites.first.refusals == []
    assert not is_refused(answer.body)
    assert established.sid not in sites.first.sessions._live, "the oldest, once it was answered"


def test_training_that_is_cancelled_leaves_no_secret_and_cannot_be_asked_again() -> None:
    sites = Sites()

    def stop() -> None:
        raise Cancelled("stopped")

    sites.first.fails = stop
    established = sites.establish()
    state, raw = state_of(sites.first), contribution(established, a_plan(established.sid.hex()))
    with pytest.raises(Cancelled):
        sites.first.answer(raw)
    assert readable(state) == []
    answer = sites.first.answer(raw)
    assert is_refused(answer.body)
    assert answer.refusal == "session: phase contribute is not the next one"
    assert sites.first.noted == ["charged", "trained"]


def test_the_next_session_rides_on_this_one_and_the_older_is_retired() -> None:
    sites = Sites()
    established = sites.establish()
    following = sites.opening(sites.session(a_plan(attempt=2, round=2), nonce="8" * 64))
    done = sites.sum(established, a_plan(established.sid.hex()), following)
    assert done.following is not None
    assert sites.asked[2:] == [[Kind.CONTRIBUTE], [Kind.CONFIRM, Kind.ADVERTISE], [Kind.UNMASK, Kind.SHARE]]
    assert list(sites.first.sessions._live) == [established.sid, following.sid]
    again = sites.sum(done.following, a_plan(following.sid.hex(), attempt=2, round=2))
    assert again.summed.total.tolist() == done.summed.total.tolist()
    assert list(sites.first.sessions._live) == [following.sid]
    assert sites.first.noted == ["charged", "trained", "sent", "4 survivors"] * 2


def test_each_phase_of_a_message_is_answered_or_refused_on_its_own() -> None:
    sites = Sites()
    good = sites.opening(sites.session(a_plan())).request()
    answer = sites.first.answer(wire.frame(Kind.UNMASK, b"\x00" * 36) + good)
    assert [(frame.kind, frame.refused) for frame in wire.frames(answer.body)] == [
        (Kind.UNMASK, True),
        (Kind.ADVERTISE, False),
    ]
    assert answer.refusal is None, "the message was not refused as a whole"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"fdsS", "message: truncated frame"),
        (wire.frame(Kind.SHARE, b"\x00" * 36, refused=False)[:-1], "message: lengths do not add up"),
        (wire.frame(Kind.SHARE, refused=True), "message: a refusal asks nothing"),
        (wire.frame(Kind.SHARE, b"\x00" * 36) * 2, "message: a phase twice, or sealed shares alone"),
        (wire.frame(Kind.SEALED, b"\x00" * 36), "message: a phase twice, or sealed shares alone"),
        (
            wire.frame(Kind.SEALED, b"\x00" * 36) + wire.frame(Kind.SHARE, b"\x00" * 36),
            "message: sealed shares without a request to contribute",
        ),
        (wire.frame(Kind.SHARE, b"\x00" * 36) * 5, "message: more than 4 frames"),
    ],
)
def test_a_malformed_message_is_refused_whole(raw: bytes, reason: str) -> None:
    sites = Sites()
    answer = sites.first.answer(raw)
    assert (answer.body, answer.refusal) == (REFUSAL, reason)


def test_a_contribution_without_its_sealed_shares_is_refused() -> None:
    sites = Sites()
    established = sites.establish()
    raw = established.request(plans.encode(a_plan(established.sid.hex())), MODEL.astype("<f4").tobytes())
    answer = sites.first.answer(raw)
    assert is_refused(answer.body)
    assert answer.refusal == "contribute: without the shares of the same session"


def test_a_restarted_device_is_a_dropout_of_its_session(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    established = sites.establish()
    sites.first.sessions.close()
    sites.first.sessions = sites.device(sites.names[0])
    answer = sites.first.answer(contribution(established, a_plan(established.sid.hex())))
    assert answer.refusal == "phase contribute of a session that this device is not in"
    again = sites.first.answer(wire.frame(Kind.ADVERTISE, plans.canonical(established.party.session.model_dump())))
    assert is_refused(again.body)
    assert again.refusal == "run 'run-1': this session was joined before"
    summed = sites.sum(established, a_plan(established.sid.hex())).summed
    assert (summed.survivors, summed.total.tolist()) == (3, [(3 * 2**31 + 6) % 2**32] * SIZE)


def test_closing_wipes_all_secrets() -> None:
    sites = Sites()
    sites.establish()
    state = state_of(sites.first)
    assert readable(state) != []
    sites.first.sessions.close()
    assert readable(state) == []


def test_a_second_contribution_to_an_attempt_in_another_session_is_refused() -> None:
    """A server that opens two sessions for one attempt gets one sum."""
    sites = Sites()
    one, two = sites.establish(), sites.establish(nonce="8" * 64)
    sites.sum(one, a_plan(one.sid.hex()))
    answer = sites.first.answer(contribution(two, a_plan(two.sid.hex())))
    assert is_refused(answer.body)
    assert sites.first.noted == ["charged", "trained", "sent", "4 survivors"]


def test_a_message_is_refused_phase_by_phase() -> None:
    """What a paused device answers: the server counts a refusal, and no nonsense."""
    two = wire.frame(Kind.CONFIRM, b"\x00" * 36) + wire.frame(Kind.ADVERTISE, b"{}")
    own = wire.frame(Kind.SEALED, b"\x00" * 36) + wire.frame(Kind.CONTRIBUTE, b"\x00" * 36)
    for raw, kinds in ((two, [Kind.CONFIRM, Kind.ADVERTISE]), (own, [Kind.CONTRIBUTE])):
        assert [(frame.kind, frame.refused) for frame in wire.frames(refusal_of(raw))] == [(k, True) for k in kinds]
    for raw in (encode_request(a_plan(None), MODEL), b"", two[:-1], wire.frame(Kind.SEALED, b"")):
        assert refusal_of(raw) == REFUSAL


def test_who_refuses_before_there_is_a_plan_is_counted_in_the_reason() -> None:
    sites = Sites()
    for name in sites.names[:2]:
        sites.sites[name].sessions.roster = lambda _: None
    with pytest.raises(CohortTooSmall, match=r"2 refused; the owners see why with: fedsus client status"):
        sites.establish()
