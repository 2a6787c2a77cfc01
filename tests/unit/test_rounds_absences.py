"""Devices that sit out, and say until when: the server waits, believes a day at most, and spends no spare attempt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clear_runs import DIMENSION, FakeFleet, config
from hours import BEGAN, HOUR, Time
from hypothesis import given
from hypothesis import strategies as st

from fedsus.config import RunConfig, ServerConfig
from fedsus.errors import ProtocolViolation, RunFailed
from fedsus.journal import AttemptAbandoned, AttemptOpened, Entry, RoundReleased, RunClosed
from fedsus.reporting import read
from fedsus.rounds.messages import REFUSAL, WANTED, declined, decode_answer, encode_answer, encode_hour, refusal
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.absences import LONGEST_SECONDS, SKEW_SECONDS, Absences, ration
from fedsus.rounds.server_half.server import RunLoop
from fedsus.secagg import wire
from fedsus.secagg.wire import Kind
from fedsus.types import Answered, Ask, Lost, Member, Refused, Reply

MIDNIGHT = math.ceil(BEGAN / 86_400) * 86_400.0
HOURS = int(MIDNIGHT / HOUR)
THREE = [Member(str(number), f"h{number}") for number in range(3)]


class Sitting(FakeFleet):
    """Whoever is named in ``until`` refuses before that time, saying ``told`` or, where that is None, nothing."""

    def __init__(self, time: Time, until: dict[str, float], told: dict[str, int | None] | None = None) -> None:
        super().__init__()
        self.time, self.until = time, until
        self.told = {name: int(end / HOUR) for name, end in until.items()} if told is None else told
        self.looks = 0

    def members(self) -> Sequence[Member]:
        self.looks += 1
        return super().members()

    def ask(self, ask: Ask) -> Iterator[Reply]:
        for reply in super().ask(ask):
            if self.time.now >= self.until.get(reply.client, 0.0):
                yield reply
            elif (hour := self.told[reply.client]) is None:
                yield Answered(reply.client, REFUSAL)
            else:
                yield Answered(reply.client, refusal(encode_hour(hour)))


class Waiting:
    """What a loop told of its waits."""

    def __init__(self) -> None:
        self.told: list[tuple[float | None, str]] = []

    def __call__(self, until: float | None, why: str) -> None:
        self.told.append((until, why))


def run(
    folder: Path, fleet: FakeFleet, time: Time, asked: RunConfig | None = None, wait: float = 3600.0
) -> tuple[list[Entry], Waiting]:
    """A run to its end; its journal and its waits."""
    found = (asked or config(rounds=3)).model_copy(update={"server": ServerConfig(wait_for_devices=wait)})
    open_run(folder, "r", found, np.zeros(DIMENSION, np.float32), lambda: BEGAN)
    waiting = Waiting()
    RunLoop(folder, fleet, clock=time, sleep=time.sleep, waits=waiting).run()
    return read(folder), waiting


def attempts(entries: list[Entry]) -> tuple[int, int]:
    """How many were opened, and how many abandoned."""
    kinds = [type(entry) for entry in entries]
    return kinds.count(AttemptOpened), kinds.count(AttemptAbandoned)


def test_two_that_sit_out_until_midnight_cost_one_attempt_and_the_run_waits(tmp_path: Path) -> None:
    time = Time()
    fleet = Sitting(time, {"0": MIDNIGHT, "1": MIDNIGHT + 2 * HOUR})
    entries, waiting = run(tmp_path, fleet, time)
    assert attempts(entries) == (3 + 1 + 1, 1), "with the last evaluation"
    released = [entry for entry in entries if isinstance(entry, RoundReleased)]
    assert [entry.survivors for entry in released] == [2, 2, 2, 2], "the third is asked, and not waited for"
    assert MIDNIGHT + SKEW_SECONDS <= time.now < MIDNIGHT + SKEW_SECONDS + 60
    until, why = waiting.told[0]
    assert until == MIDNIGHT + SKEW_SECONDS
    assert why == "for 2 of 3 devices, whose day's budget is spent,"
    assert waiting.told[1:] == [(None, "")], "told once"
    assert fleet.looks < (MIDNIGHT - BEGAN) / 10 + 60, "the fleet is looked at ever more seldom"


def test_who_sits_out_is_not_waited_for_where_the_others_are_enough(tmp_path: Path) -> None:
    time = Time()
    entries, waiting = run(tmp_path, Sitting(time, {"0": MIDNIGHT}), time)
    assert attempts(entries) == (4, 0)
    assert (waiting.told, time.slept) == ([], 0.0)


def test_nobody_is_waited_for_once_others_come(tmp_path: Path) -> None:
    time = Time()
    fleet = Sitting(time, {"0": MIDNIGHT, "1": MIDNIGHT})
    few = fleet.members

    def members() -> Sequence[Member]:
        return [*few(), Member("3", "h3")] if time.now > BEGAN + HOUR else few()

    fleet.members = members  # type: ignore[method-assign]
    entries, waiting = run(tmp_path, fleet, time, config(rounds=1, spare=9))
    assert BEGAN + HOUR < time.now < BEGAN + 2 * HOUR
    assert any(isinstance(entry, RoundReleased) for entry in entries)
    assert waiting.told[-1] == (None, "")


@pytest.mark.parametrize("raised", [True, False])
def test_who_leaves_and_comes_back_is_asked_again_once_for_its_owner_may_have_raised_the_cap(
    tmp_path: Path, raised: bool
) -> None:
    time = Time()
    fleet = Sitting(time, {"0": MIDNIGHT, "1": MIDNIGHT})
    everyone = fleet.members

    def members() -> Sequence[Member]:
        away = int((time.now - BEGAN) / 15) in (40, 60, 80, 100)  # for 15 s, again and again
        if raised and time.now > BEGAN + 600:
            fleet.until.pop("0", None)
        return [member for member in everyone() if member.id != "0" or not away]

    fleet.members = members  # type: ignore[method-assign]
    entries, _ = run(tmp_path, fleet, time, config(rounds=1, spare=9))
    if raised:
        assert BEGAN + 600 < time.now < BEGAN + 700
        assert attempts(entries)[1] == 1
    else:
        assert time.now >= MIDNIGHT
        assert attempts(entries)[1] == 2, "a device that flaps costs one attempt more, however often it does"


def test_a_device_that_says_so_for_ever_delays_each_spare_attempt_by_a_day_at_most(tmp_path: Path) -> None:
    time = Time()
    fleet = Sitting(time, dict.fromkeys("012", math.inf), dict.fromkeys("012", 0))
    answer = fleet.ask

    def later(ask: Ask) -> Iterator[Reply]:
        fleet.told = dict.fromkeys("012", int((time.now + LONGEST_SECONDS - SKEW_SECONDS) / HOUR))
        return answer(ask)

    fleet.ask = later  # type: ignore[method-assign]
    with pytest.raises(RunFailed, match="all 5 attempts of the run are spent"):
        run(tmp_path, fleet, time)
    assert 4 * 24 * HOUR < time.now - BEGAN <= 4 * (LONGEST_SECONDS + 120) + 120


@pytest.mark.parametrize("hours", [-1, 0, 27, 400, 2**32 - 1 - HOURS])
def test_an_hour_that_is_over_or_beyond_a_day_is_not_believed(tmp_path: Path, hours: int) -> None:
    """And a refusal that is not believed is one like any other."""
    time = Time()
    fleet = Sitting(time, dict.fromkeys("012", math.inf), dict.fromkeys("012", int(BEGAN / HOUR) + hours))
    with pytest.raises(RunFailed):
        run(tmp_path, fleet, time, config(rounds=1), wait=0.0)
    assert time.slept == 1 + 2 + 4


def test_who_says_no_hour_is_asked_ever_more_slowly_and_the_last_spare_attempt_is_kept_for_later(
    tmp_path: Path,
) -> None:
    time = Time()
    fleet = Sitting(time, dict.fromkeys("012", BEGAN + 1000), dict.fromkeys("012", None))
    entries, waiting = run(tmp_path, fleet, time, config(rounds=3, spare=3))
    assert attempts(entries) == (3 + 3 + 1, 3)
    assert time.slept == 1 + 900 / 8 + 900
    declined = "after devices declined (their owners see why: fedsus client status; {} left)"
    assert [(until, why) for until, why in waiting.told if until is not None] == [
        (BEGAN + 1 + 112.5, declined.format("1 spare attempt is")),
        (BEGAN + 1 + 112.5 + 900, declined.format("no spare attempt is")),
    ]
    closed = entries[-1]
    assert isinstance(closed, RunClosed) and closed.reason == "completed"


def test_lost_devices_are_asked_again_as_before(tmp_path: Path) -> None:
    time = Time()
    run(tmp_path, FakeFleet({1: dict.fromkeys("012", "lost"), 2: dict.fromkeys("012", "lost")}), time)
    assert time.slept == 1 + 2


def test_the_last_evaluation_is_left_out_where_devices_sit_out(tmp_path: Path) -> None:
    time = Time()
    fleet = Sitting(time, {})
    release = fleet.ask

    def spent(ask: Ask) -> Iterator[Reply]:
        yield from release(ask)
        fleet.until, fleet.told = dict.fromkeys("01", MIDNIGHT), dict.fromkeys("01", HOURS)

    fleet.ask = spent  # type: ignore[method-assign]
    entries, waiting = run(tmp_path, fleet, time, config(rounds=1))
    assert [type(entry) for entry in entries[-2:]] == [AttemptAbandoned, RunClosed]
    assert time.slept == 0.0, "the run is complete"
    assert waiting.told == []


def heard(now: float = BEGAN, **bodies: bytes) -> Absences:
    absences = Absences(lambda: now)
    for client, body in bodies.items():
        absences.hear(Answered(client[1:], body))
    return absences


def joined(*frames: bytes) -> bytes:
    return b"".join(frames)


def advertise(hour: int | None) -> bytes:
    return wire.frame(Kind.ADVERTISE, b"" if hour is None else encode_hour(hour), refused=True)


def test_a_phase_of_the_next_session_tells_it_before_any_attempt_is_opened() -> None:
    done = wire.frame(Kind.CONFIRM, bytes(64))
    absences = heard(c0=joined(done, advertise(HOURS)), c1=joined(done, advertise(None)), c2=done)
    assert absences.until(THREE, 2) is None
    assert absences.until(THREE, 3) == MIDNIGHT + SKEW_SECONDS
    assert (absences.out(THREE), absences.declined) == (1, 1)
    absences.hear(Answered("0", wire.frame(Kind.UNMASK, bytes(64))))
    assert absences.known, "the rest of the session before says nothing of the next one"
    absences.hear(Answered("0", wire.frame(Kind.ADVERTISE, bytes(64))))
    assert not absences.known, "it takes part again"


def test_what_is_no_answer_says_nothing() -> None:
    absences = heard(
        c0=b"", c1=b"garbage", c2=REFUSAL + b"x", c3=wire.frame(Kind.CONFIRM, encode_hour(HOURS)), c4=advertise(0)[:-1]
    )
    absences.hear(Lost("5"))
    assert not absences.known
    assert absences.declined == 0
    absences.hear(Refused("6"))
    assert absences.declined == 1
    absences.begin()
    assert absences.declined == 0


@given(st.binary(max_size=80))
def test_whatever_is_answered_is_heard_or_not(body: bytes) -> None:
    for magic in (b"", b"fdsS\x01", b"fdsA\x01\x01"):
        absences = heard(c0=magic + body)
        until = absences.until(THREE[:1], 1)
        assert until is None or BEGAN < until <= BEGAN + LONGEST_SECONDS


def test_nobody_is_waited_for_where_too_few_are_connected_anyway() -> None:
    absences = heard(c0=refusal(encode_hour(HOURS)))
    assert absences.until(THREE[:1], 2) is None, "whoever is missing is waited for first"
    assert absences.until(THREE[:2], 2) == MIDNIGHT + SKEW_SECONDS


def test_an_hour_is_over_after_it_and_when_the_clock_was_wrong() -> None:
    now = [BEGAN]
    absences = Absences(lambda: now[0])
    absences.hear(Answered("0", refusal(encode_hour(HOURS))))
    now[0] = MIDNIGHT + SKEW_SECONDS
    assert absences.until(THREE, 3) is None
    now[0] = BEGAN
    absences.hear(Answered("0", refusal(encode_hour(HOURS))))
    now[0] = BEGAN - 365 * 86_400.0
    assert absences.until(THREE, 3) is None, "the server's clock was mended: no year is waited for"


@pytest.mark.parametrize(
    ("body", "hour"),
    [(REFUSAL, 0), (refusal(encode_hour(7)), 7), (encode_answer(b"x"), None), (WANTED, None)],
)
def test_the_refusal_in_clear(body: bytes, hour: int | None) -> None:
    assert declined(body) == hour
    if hour is not None:
        assert decode_answer(body, 4) is None
    for bad in (body[:-1], body + b"x") if hour is not None else ():
        with pytest.raises(ProtocolViolation):
            declined(bad)
        with pytest.raises(ProtocolViolation):
            decode_answer(bad, 4)


def test_a_frame_carries_an_hour_where_a_session_is_refused_and_nowhere_else() -> None:
    (frame,) = wire.frames(advertise(7))
    assert (frame.refused, bytes(frame.body)) == (True, encode_hour(7))
    for bad in (
        *(wire.frame(kind, encode_hour(7), refused=True) for kind in Kind if kind != Kind.ADVERTISE),
        wire.frame(Kind.ADVERTISE, bytes(3), refused=True),
        wire.frame(Kind.ADVERTISE, bytes(5), refused=True),
        wire.frame(Kind.CONTRIBUTE, encode_hour(7), wanting=True),
    ):
        with pytest.raises(ProtocolViolation, match="lengths do not add up"):
            wire.frames(bad)


def test_rations_grow_and_are_bounded() -> None:
    found: list[Any] = [ration(left, 3600.0) for left in (9, 2, 1, 0)]
    assert found == sorted(found) and found[-3:] == [900 / 64, 900 / 8, 900]
    assert ration(0, 20.0) == 20, "the operator's own patience"
