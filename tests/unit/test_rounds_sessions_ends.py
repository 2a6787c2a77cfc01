"""How a device's sessions end: pushed out, expired, cancelled, restarted or closed, and never with a secret left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from session_sites import (
    EXPIRES,
    LATER,
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

from fedsus import plan as plans
from fedsus.errors import Cancelled, CohortTooSmall
from fedsus.owner.policy import Policy
from fedsus.rounds.device_half.sessions import MOST
from fedsus.secagg import wire
from fedsus.secagg.wire import Kind


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


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_of_two_sessions_of_a_run_that_a_capped_device_joined_one_is_trained_for(order: tuple[int, int]) -> None:
    """The day's budget was asked for one round: else a server that prepares two at once goes over the cap by both."""
    sites = Sites(policy=Policy.model_validate({"budget": {"joules": 10.0, "missing": "assume"}}))
    plans_of = [dict[str, Any](attempt=number, round=number) for number in order]
    both = [sites.establish(a_plan(**each), nonce=f"{each['attempt']:064x}") for each in plans_of]
    with pytest.raises(CohortTooSmall):
        sites.sum(both[0], a_plan(both[0].sid.hex(), **plans_of[0]))
    assert sites.first.noted == []
    assert sites.first.refusals[-1] == "phase contribute of a session that this device is not in"
    sites.sum(both[1], a_plan(both[1].sid.hex(), **plans_of[1]))
    assert sites.first.noted == ["charged", "trained", "sent", "4 survivors"]


def test_a_restarted_device_is_a_dropout_of_its_session(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    established = sites.establish()
    sites.first.sessions.close()
    sites.first.sessions = sites.device(sites.names[0])
    answer = sites.first.answer(contribution(established, a_plan(established.sid.hex())))
    assert answer.refusal == "phase contribute of a session that this device is not in"
    assert answer.declined is None, "nobody's fault"
    body = plans.canonical(established.party.session.model_dump())
    again = sites.first.answer(wire.frame(Kind.ADVERTISE, body))
    assert is_refused(again.body)
    assert again.refusal == again.declined == "run 'run-1': this session was joined before"
    both = sites.first.answer(wire.frame(Kind.SHARE, established.sid, bytes(4)) + wire.frame(Kind.ADVERTISE, body))
    assert both.declined == "run 'run-1': this session was joined before", "not what is nobody's fault"
    summed = sites.sum(established, a_plan(established.sid.hex())).summed
    assert (summed.survivors, summed.total.tolist()) == (3, [(3 * 2**31 + 6) % 2**32] * SIZE)


def test_closing_wipes_all_secrets() -> None:
    sites = Sites()
    sites.establish()
    state = state_of(sites.first)
    assert readable(state) != []
    sites.first.sessions.close()
    assert readable(state) == []
