"""A device's sessions refuse a plan that is another, what is malformed, and what the owner denies."""

from __future__ import annotations

from typing import Any

import pytest
from session_sites import MODEL, NOW, SIZE, Sites, a_plan, contribution, is_refused, readable, state_of

from fedsus import plan as plans
from fedsus.errors import CohortTooSmall, DataError
from fedsus.learning.settings import Compute
from fedsus.owner.ledger import Ledger
from fedsus.owner.policy import Policy
from fedsus.privacy.noise import SeededNoise
from fedsus.rounds.device_half.answers import refusal_of
from fedsus.rounds.device_half.device import Device
from fedsus.rounds.device_half.sessions import Sessions
from fedsus.rounds.messages import REFUSAL, encode_request
from fedsus.secagg import wire
from fedsus.secagg.wire import Kind


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
