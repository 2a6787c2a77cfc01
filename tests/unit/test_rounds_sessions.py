"""A device's sessions: each phase answered once, alike when asked alike, and in its turn."""

from __future__ import annotations

import threading

import pytest
from session_sites import (
    LATER,
    PHASES,
    SIZE,
    Site,
    Sites,
    a_plan,
    contribution,
    is_refused,
    kind_of,
    readable,
    state_of,
)

from fedsus.rounds.device_half.answers import Answer
from fedsus.rounds.device_half.sessions import MOST
from fedsus.secagg import wire
from fedsus.secagg.wire import Kind


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
