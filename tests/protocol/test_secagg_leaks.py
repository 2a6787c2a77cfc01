"""What stays outside the protocol: logs, errors, notes, representations and refusals tell nothing of secrets."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adversaries import MASK, OWN, Cell, integers
from secagg_devices import Devices, a_plan, refused

from fedsus.errors import BudgetExhausted, DataError, EnvironmentFault, FedsusError, ProtocolViolation, Refusal
from fedsus.owner.marks import SessionMarks
from fedsus.secagg import wire
from fedsus.secagg.client import Advertised, Opened, Shared
from fedsus.secagg.keys import Agreement
from fedsus.secagg.secret import Secret
from fedsus.secagg.session import Phase
from fedsus.secagg.shares import split
from fedsus.secagg.wire import Kind

N, VICTIM = 4, 0


@pytest.fixture
def noted(tmp_path: Path) -> Iterator[Callable[[int], SessionMarks]]:
    made: list[SessionMarks] = []

    def marks(index: int) -> SessionMarks:
        made.append(SessionMarks(tmp_path / f"{index}.jsonl", lambda: 0.0))
        return made[-1]

    yield marks
    for one in made:
        one.close()


def watched(made: Cell) -> tuple[list[bytes], list[str]]:
    """A whole round: every secret that the victim ever held, and how each of its states is shown."""
    for seat in made.seats:
        assert isinstance(seat.marks, SessionMarks)
        seat.marks.expect(made.session, made.sid)
    made.advertise()
    secrets: list[bytes] = [integers(VICTIM).tobytes()]
    shown: list[str] = []

    def look() -> None:
        state = made.states[VICTIM]
        shown.extend((repr(state), str(state), f"{state}"))
        for name in state.__slots__:
            value = getattr(state, name)
            for one in value.values() if isinstance(value, dict) else [value]:
                if isinstance(one, Secret):
                    secrets.append(one.reveal())
                if isinstance(one, Agreement):
                    secrets.append(one.secret().reveal())

    look()
    made.share()
    look()
    for index in range(N):
        made.open(index)
    look()
    for index in range(N):
        made.contribute(index)
    look()
    made.close(range(N), range(N))
    shown.append(repr(made.states[VICTIM]))
    return [one for one in secrets if one], shown


def forms(secret: bytes) -> list[str]:
    return [secret.hex(), repr(secret)[2:-1], str(int.from_bytes(secret, "big")), str(list(secret))[1:-1]]


def test_no_secret_is_shown_logged_or_noted(
    noted: Callable[[int], SessionMarks], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = Cell(N, marks=noted)
    secrets, shown = watched(made)
    assert len(secrets) > 8
    places = "\n".join([*shown, caplog.text, *(file.read_text() for file in tmp_path.glob("*.jsonl"))])
    assert "<secret>" in places
    assert made.sid.hex() in places, "the places are looked at"
    assert not [one.hex() for one in secrets for form in forms(one) if form in places]


def test_a_round_leaves_no_secret_in_the_states(noted: Callable[[int], SessionMarks]) -> None:
    made = Cell(N, marks=noted)
    before: list[Any] = []
    for seat in made.seats:
        assert isinstance(seat.marks, SessionMarks)
        seat.marks.expect(made.session, made.sid)
    made.advertise()
    before.append(made.states[VICTIM])
    made.share()
    shared = made.states[VICTIM]
    assert isinstance(shared, Shared)
    assert not works(before[0].channel), "the channel's key goes once shares are sealed"
    made.open(VICTIM)
    assert {one.size for one in shared.channels.values()} == {0}, "the channels go once shares are open"
    opened = made.states[VICTIM]
    assert isinstance(opened, Opened)
    for index in range(1, N):
        made.open(index)
    for index in range(N):
        made.contribute(index)
    assert (opened.own.size, works(opened.mask_key)) == (0, False), "b and the mask key go once the vector is masked"
    made.close(range(N), range(N))
    assert {one.size for one in opened.shares.values()} == {0}, "shares go once they are opened"


def works(key: Agreement) -> bool:
    try:
        return bool(key.secret().size)
    except ProtocolViolation:
        return False


@pytest.mark.parametrize("step", ["share", "open", "mask", "confirm", "unmask"])
def test_a_traceback_with_its_local_values_shows_no_secret(noted: Callable[[int], SessionMarks], step: str) -> None:
    """Tools print local variables of every frame; what is in them is a redacted type at each refusal."""
    made = Cell(N, marks=noted)
    for seat in made.seats:
        assert isinstance(seat.marks, SessionMarks)
        seat.marks.expect(made.session, made.sid)
    made.advertise()
    secrets = [made.states[VICTIM].mask.secret().reveal(), made.states[VICTIM].channel.secret().reveal()]  # type: ignore[union-attr]
    steps: dict[str, Callable[[], object]] = {
        "share": lambda: made.states[VICTIM].share(b"\0" * 4, 0.0),  # type: ignore[union-attr]
        "open": lambda: made.states[VICTIM].open({}, {}, b"p" * 32, 0.0),  # type: ignore[union-attr]
        "mask": lambda: made.states[VICTIM].mask(integers(VICTIM), 3, 0.0),  # type: ignore[union-attr]
        "confirm": lambda: made.states[VICTIM].confirm(b"\0", 0.0),  # type: ignore[union-attr]
        "unmask": lambda: made.states[VICTIM].unmask({}, 0.0),  # type: ignore[union-attr]
    }
    order = list(steps)
    if order.index(step) > 0:
        made.share()
        secrets.append(made.states[VICTIM].own.reveal())  # type: ignore[union-attr]
    if order.index(step) > 1:
        for index in range(N):
            made.open(index)
        secrets += [one.reveal() for one in made.states[VICTIM].shares.values()]  # type: ignore[union-attr]
    if order.index(step) > 2:
        for index in range(N):
            made.contribute(index)
    if order.index(step) > 3:
        made.confirm(VICTIM, range(N))
    with pytest.raises(FedsusError) as caught:
        steps[step]()
    caught.value.__traceback__ = caught.tb.tb_next  # this test's own frame holds them
    text = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "self = " in text
    assert not [one.hex() for one in secrets for form in forms(one) if form in text]


ERRORS = [
    DataError("row 17 has age 61"),
    Refusal("the policy does not allow it"),
    BudgetExhausted("epsilon 3.1 of 3"),
    ValueError("private 4711"),
    MemoryError(),
    ProtocolViolation("x" * 10_000),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda one: type(one).__name__)
def test_all_refusals_are_the_same_bytes(error: Exception) -> None:
    """The server learns that, and not why: of data, policy, budget or protocol."""
    devices = Devices()
    established = devices.establish(a_plan("0" * 64))
    raw = devices.contribution(established, 0, a_plan(established.sid.hex()))

    def fail(request: object) -> Any:
        raise error

    answer = devices.at["ada"].answer(raw, None, fail, lambda: False)  # type: ignore[arg-type]
    assert answer.body == wire.frame(Kind.CONTRIBUTE, refused=True)
    nowhere = devices.at["ben"].answer(wire.frame(Kind.CONTRIBUTE, bytes(64)), None, fail, lambda: False)  # type: ignore[arg-type]
    assert nowhere.body == answer.body, "nor whether the session is known"


def test_every_answer_but_the_masked_vector_is_the_same_size_whatever_the_data() -> None:
    """And the vector's own: sizes and order of messages depend on the session alone."""
    seen = []
    for power in (0, 2**31):
        devices = Devices()
        devices.integers = lambda name, power=power: np.full(5, power, np.uint32)  # type: ignore[method-assign,misc]
        established = devices.establish(a_plan("0" * 64))
        devices.sum(established, a_plan(established.sid.hex()))
        seen.append([len(body) for body in devices.bodies])
    assert seen[0] == seen[1]


def test_the_adversarys_own_view_of_a_whole_round_opens_nobody(noted: Callable[[int], SessionMarks]) -> None:
    """The measure of all attacks, on a round without any: every b is known, no mask key, no update."""
    made = Cell(N, [3], marks=noted)
    watched(made)
    assert all(made.secret(index, OWN) is not None for index in range(N))
    assert all(made.secret(index, MASK) is None for index in made.honest)
    assert all(made.reveal(index) is None for index in made.honest)


def test_the_agents_words_for_a_bad_request_name_no_other_clients_data() -> None:
    devices = Devices()
    established = devices.establish(a_plan("0" * 64))
    answer = devices.answer("ada", devices.contribution(established, 1, a_plan(established.sid.hex())))
    assert refused(answer)[Kind.CONTRIBUTE]
    assert answer.refusal == "shares: client 0 is no neighbour of ours"
    assert Phase.CONTRIBUTE.name.lower() not in answer.refusal


def test_notes_that_cannot_be_written_show_no_share(noted: Callable[[int], SessionMarks]) -> None:
    """The note is the last step of `share`, when all shares were made."""
    made = Cell(N, marks=noted)
    for seat in made.seats:
        assert isinstance(seat.marks, SessionMarks)
        seat.marks.expect(made.session, made.sid)
    made.advertise()
    state, marks, drawn = made.states[VICTIM], made.seats[VICTIM].marks, []

    def draw(count: int) -> bytes:
        drawn.append(bytes([len(drawn) + 1]) * count)
        return drawn[-1]

    def full(sid: bytes, phase: Phase, content: bytes) -> None:
        raise EnvironmentFault("the disk is full")

    marks.once = full  # type: ignore[method-assign]
    assert isinstance(state, Advertised)
    secret = state.mask.secret().reveal()
    raw = wire.encode_adverts([made.adverts[index] for index in range(N)])
    with pytest.raises(EnvironmentFault) as caught:
        state.share(raw, 0.0, draw)
    caught.value.__traceback__ = caught.tb.tb_next
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack
    own = drawn[0]
    points = list(range(1, N + 1))
    shares = []
    for one, first in ((own, 1), (secret, 1 + len(drawn) // 2)):
        again = iter(drawn[first:])
        shares += split(one, made.session.threshold, points, lambda _, again=again: next(again))  # type: ignore[misc]
    shown = [value for frame in frames if "fedsus" in frame.filename for value in (frame.locals or {}).values()]
    assert "<secret>" in "".join(shown)
    assert not [one.hex() for one in (own, secret, *shares) for form in forms(one) if form in "".join(shown)]


def test_what_has_expired_is_wiped_at_the_next_message_of_any_kind() -> None:
    devices = Devices()
    devices.establish(a_plan("0" * 64))
    sessions = devices.at["ada"]
    (live,) = sessions._live.values()
    state = live.state
    assert isinstance(state, Shared)
    sessions.clock = lambda: 1000.0
    devices.answer("ada", wire.frame(Kind.SHARE, bytes(64)))
    assert not sessions._live
    assert state.own.size == 0
    assert not works(state.mask_key)
