"""Sessions opened before their model exists: revived, used twice, opened many times, older than a revocation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from secagg_devices import Devices, a_plan, losing, refused

from fedsus.errors import CohortTooSmall
from fedsus.owner.marks import SessionMarks
from fedsus.rounds.device_half.sessions import Sessions
from fedsus.secagg.roster import Roster, digest
from fedsus.secagg.server import Established
from fedsus.secagg.session import Phase
from fedsus.secagg.wire import Kind
from fedsus.types import Ring

VICTIM = "ada"
Weak = Callable[[], AbstractContextManager[Any]]


def never_retires() -> AbstractContextManager[Any]:
    """A device that keeps an older attempt's session after a newer one was answered."""
    return patch.object(Sessions, "_retire", lambda *_, **__: None)


def any_attempt() -> AbstractContextManager[Any]:
    """Notes that do not look at attempts."""

    def once(self: SessionMarks, sid: bytes, phase: Phase, content: bytes) -> None:
        self._runs.clear()
        real(self, sid, phase, content)

    real = SessionMarks.once
    return patch.object(SessionMarks, "once", once)


def both() -> AbstractContextManager[Any]:
    stack = ExitStack()
    stack.enter_context(never_retires())
    stack.enter_context(any_attempt())
    return stack


def attempt(devices: Devices, established: Established, number: int) -> Ring | None:
    """The sum of one attempt at the same model."""
    try:
        return devices.sum(established, a_plan(established.sid.hex(), attempt=number)).summed.total  # type: ignore[no-any-return]
    except CohortTooSmall:
        return None


def revived(devices: Devices) -> Ring | None:
    """Attempt 1 is established and said to be lost. Attempt 2 goes without the victim, then attempt 1 with it."""
    first = devices.establish(a_plan("0" * 64))
    second = devices.establish(a_plan("0" * 64, attempt=2), nonce="2" * 64)
    devices.lose = losing([VICTIM], Kind.CONTRIBUTE)
    without = attempt(devices, second, 2)
    devices.lose = losing([])
    everybody = attempt(devices, first, 1)
    return None if without is None or everybody is None else everybody - without


def test_a_session_of_an_abandoned_attempt_that_is_revived_gives_a_difference() -> None:
    devices = Devices()
    with both():
        assert np.array_equal(revived(devices), devices.integers(VICTIM))


@pytest.mark.parametrize(
    ("weak", "why"),
    [
        (nullcontext, "phase contribute of a session that this device is not in"),
        (never_retires, "session: round 1, attempt 1 is not after round 1, attempt 2, which was answered in another"),
        (any_attempt, "phase contribute of a session that this device is not in"),
    ],
)
def test_an_older_attempt_is_over_once_a_newer_one_is_answered(weak: Weak, why: str) -> None:
    devices = Devices()
    with weak():
        assert revived(devices) is None
    assert len(devices.refusals) == 3, "the victim alone, which answered no newer one, still answers"
    assert all(one.startswith(why) for one in devices.refusals)


def unmasked_late(devices: Devices) -> Ring | None:
    """All vectors of attempt 1 are in, and the server says that it crashed; it opens them after attempt 2."""
    first = devices.establish(a_plan("0" * 64))
    second = devices.establish(a_plan("0" * 64, attempt=2), nonce="2" * 64)
    total = None

    def late(name: str, kind: Kind) -> bool:
        nonlocal total
        if kind == Kind.CONFIRM and total is None:
            total = np.zeros(0, np.uint32)
            devices.lose = losing([VICTIM], Kind.CONTRIBUTE)
            total = attempt(devices, second, 2)
            devices.lose = losing([])
        return False

    devices.lose = late
    everybody = attempt(devices, first, 1)
    return None if total is None or everybody is None else everybody - total


def test_vectors_that_are_opened_after_a_newer_attempt_give_a_difference() -> None:
    devices = Devices()
    with never_retires():
        assert np.array_equal(unmasked_late(devices), devices.integers(VICTIM))


def test_vectors_of_an_older_attempt_are_not_opened_any_more() -> None:
    devices = Devices()
    assert unmasked_late(devices) is None
    assert devices.refusals == ["phase confirm of a session that this device is not in"] * 3


def many(devices: Devices) -> Ring | None:
    """Many sessions for one attempt, all established; two of them are asked for the same model."""
    opened = [devices.establish(a_plan("0" * 64), nonce=f"{number}" * 64) for number in (1, 2, 3)]
    devices.lose = losing([VICTIM], Kind.CONTRIBUTE)
    without = attempt(devices, opened[0], 1)
    devices.lose = losing([])
    everybody = attempt(devices, opened[1], 1)
    return None if without is None or everybody is None else everybody - without


def test_many_sessions_of_one_attempt_give_a_difference() -> None:
    devices = Devices()
    with both():
        assert np.array_equal(many(devices), devices.integers(VICTIM))


@pytest.mark.parametrize("weak", [nullcontext, never_retires, any_attempt])
def test_one_attempt_is_answered_in_one_session(weak: Weak) -> None:
    devices = Devices()
    with weak():
        assert many(devices) is None
    assert len(devices.refusals) == 3


def test_a_round_that_is_over_is_not_asked_again_in_a_session_opened_before() -> None:
    devices = Devices()
    later = devices.establish(a_plan("0" * 64, round=2, attempt=2))
    again = devices.establish(a_plan("0" * 64, round=1, attempt=3), nonce="3" * 64)
    devices.sum(later, a_plan(later.sid.hex(), round=2, attempt=2))
    assert attempt(devices, again, 3) is None
    assert all("round 1, attempt 3 is not after round 2, attempt 2" in one for one in devices.refusals)
    assert len(devices.refusals) == 4


def test_one_session_gives_one_vector_for_one_plan() -> None:
    devices = Devices()
    established = devices.establish(a_plan("0" * 64))
    sid = established.sid.hex()
    assert not refused(devices.answer(VICTIM, devices.contribution(established, 0, a_plan(sid))))[Kind.CONTRIBUTE]
    other = a_plan(sid, purpose="evaluate")
    assert refused(devices.answer(VICTIM, devices.contribution(established, 0, other)))[Kind.CONTRIBUTE]
    assert devices.refusals == ["session: phase contribute was answered before, to another request"]


def revoked(devices: Devices, weak: Weak) -> Ring | None:
    """A session of the roster before, established before a revocation was installed; used after it."""
    established = devices.establish(a_plan("0" * 64))
    old = devices.roster
    gone = old.members[3].key
    devices.roster = Roster.model_validate(
        {
            **old.model_dump(),
            "number": 2,
            "previous": digest(old).hex(),
            "members": old.members[:3],
            "revoked": (gone,),
        }
    )
    with weak():
        return attempt(devices, established, 1)


def test_a_session_older_than_a_revocation_is_refused() -> None:
    devices = Devices()
    assert revoked(devices, nullcontext) is None
    assert len(devices.refusals) == 4
    assert all("the session uses roster 1" in one and "too old" in one for one in devices.refusals)


def test_a_device_that_admits_a_session_once_sums_with_the_revoked_member() -> None:
    devices = Devices()
    found = revoked(devices, lambda: patch("fedsus.rounds.device_half.sessions.admit_session", lambda *_: 0))
    assert np.array_equal(found, devices.summed(*devices.names))


def test_phases_of_two_sessions_in_one_message_do_not_mix() -> None:
    """Confirm of one and share of the other, with their session ids exchanged: neither is answered."""
    devices = Devices()
    first = devices.establish(a_plan("0" * 64))
    following = devices.opening(a_plan("0" * 64, round=2, attempt=2), nonce="2" * 64, previous=first.sid.hex())
    crossed: list[bytes] = []
    real = devices.answer

    def exchanged(name: str, raw: bytes) -> Any:
        if name == VICTIM and first.sid in raw and following.sid in raw:
            crossed.append(raw)
            mark = b"#" * 32
            raw = raw.replace(first.sid, mark).replace(following.sid, first.sid).replace(mark, following.sid)
        return real(name, raw)

    devices.answer = exchanged  # type: ignore[method-assign]
    done = devices.sum(first, a_plan(first.sid.hex()), following)
    assert len(crossed) == 1
    assert devices.refusals
    assert all("is not the next one" in one or "and no more" in one for one in devices.refusals)
    assert np.array_equal(done.summed.total, devices.summed(*devices.names)), "the others opened the sum"
    assert VICTIM not in {devices.names[index] for index in done.following.shared}


def test_the_following_session_may_be_of_any_previous_one_for_each_stands_alone() -> None:
    """``previous`` is bound by the session's hash, so all clients see the same; nothing else rests on it."""
    devices = Devices()
    first = devices.establish(a_plan("0" * 64))
    following = devices.opening(a_plan("0" * 64, round=2, attempt=2), nonce="2" * 64, previous="9" * 64)
    done = devices.sum(first, a_plan(first.sid.hex()), following)
    total = devices.sum(done.following, a_plan(following.sid.hex(), round=2, attempt=2)).summed.total
    assert np.array_equal(total, devices.summed(*devices.names))
