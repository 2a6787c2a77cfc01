"""A device whose process, memory or disk is put back: nothing is answered twice with other input.

A fork of the test's process is a snapshot of a device's memory: it goes on from there, while the notes on the disk have
moved on. What a client without notes gives away is shown first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import adversaries
import numpy as np
import pytest
import weaker
from adversaries import OWN, PLAN, Cell, integers

from fedsus.encoding.packing import unpack
from fedsus.errors import CorruptionError, FedsusError, ProtocolViolation, Refusal
from fedsus.owner.marks import SessionMarks
from fedsus.secagg import client as clients
from fedsus.secagg import wire
from fedsus.secagg.client import Advertised, Confirmed, Masked, Opened
from fedsus.secagg.session import Phase

N, VICTIM, COLLUDER = 5, 0, 4
REFUSED = b"refused: "


class Snapshot:
    """A copy of this process, made now; `restore` lets it go on from here and gives what it answered."""

    def __init__(self, go_on: Callable[[], bytes]) -> None:
        wake, self._wake = os.pipe()
        self._read, answer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.read(wake, 1)
                try:
                    said = go_on()
                except FedsusError as error:
                    said = REFUSED + str(error).encode()
                os.write(answer, said)
            finally:
                os._exit(0)
        os.close(wake)
        os.close(answer)

    def restore(self) -> bytes:
        os.write(self._wake, b"!")
        said = b"".join(iter(lambda: os.read(self._read, 65536), b""))
        os.waitpid(self._pid, 0)
        os.close(self._wake)
        os.close(self._read)
        return said


@pytest.fixture
def noted(tmp_path: Path) -> Iterator[Callable[[int], SessionMarks]]:
    """Durable notes of each client."""
    made: list[SessionMarks] = []

    def marks(index: int) -> SessionMarks:
        made.append(SessionMarks(tmp_path / f"{index}.jsonl", lambda: 0.0))
        return made[-1]

    yield marks
    for one in made:
        one.close()


def cell(noted: Callable[[int], SessionMarks]) -> Cell:
    """Everybody joined; one colluder."""
    made = Cell(N, [COLLUDER], dropouts=1, marks=noted)
    for seat in made.seats:
        assert isinstance(seat.marks, SessionMarks)
        seat.marks.expect(made.session, made.sid)
    made.advertise()
    return made


def opened(noted: Callable[[int], SessionMarks]) -> Cell:
    made = cell(noted)
    made.share()
    for index in range(N):
        made.open(index)
    return made


def masked_twice(noted: Callable[[int], SessionMarks]) -> bytes | adversaries.Ring:
    """Memory put back to where the victim trained: it trains again, on other batches, and masks with the same masks."""
    attacked = opened(noted)
    state = attacked.states[VICTIM]
    assert isinstance(state, Opened)
    snapshot = Snapshot(lambda: state.mask(integers(VICTIM, "again"), 32, 0.0)[1])
    first = attacked.contribute(VICTIM)
    second = snapshot.restore()
    assert first is not None
    if second.startswith(REFUSED):
        return second
    return first - unpack(wire.split_signature(second)[1], len(first), 32)


def test_memory_put_back_to_the_training_masks_nothing_again(noted: Callable[[int], SessionMarks]) -> None:
    found = masked_twice(noted)
    assert isinstance(found, bytes)
    assert b"restart the agent" in found


@pytest.mark.parametrize(
    "weak", [lambda: weaker.without_step_notes(Phase.MASK), weaker.with_unchecked_file], ids=["note", "file"]
)
def test_without_the_note_the_difference_of_two_updates_is_in_clear(
    noted: Callable[[int], SessionMarks], weak: Callable[[], AbstractContextManager[None]]
) -> None:
    with weak():
        found = masked_twice(noted)
    assert np.array_equal(found, integers(VICTIM) - integers(VICTIM, "again"))


def confirmed_twice(noted: Callable[[int], SessionMarks]) -> Cell:
    """All memories put back to before `confirm`: the victim is alive in one set of survivors, dead in the other."""
    attacked = opened(noted)
    for index in range(N):
        attacked.contribute(index)
    alive, dead = set(range(N)), set(range(N)) - {VICTIM}

    def confirm(index: int, raw: bytes) -> bytes:
        state = attacked.states[index]
        assert isinstance(state, Masked)
        attacked.states[index], signature = state.confirm(raw, 0.0)
        return signature

    snapshots: dict[int, Snapshot] = {}

    def rest(index: int) -> bytes:
        """What the memory of one client does from there on, with the colluder's and everybody's signatures at hand."""
        signature = confirm(index, attacked.survivors(dead))
        # Each snapshot signs; the certificate is made by those that did. Ask for the opening without waiting for it.
        state = attacked.states[index]
        assert isinstance(state, Confirmed)
        return signature + state._openings()

    for index in range(1, COLLUDER):
        snapshots[index] = Snapshot(lambda index=index: rest(index))  # type: ignore[misc]
    attacked.close(alive, range(N))
    for index, snapshot in snapshots.items():
        said = snapshot.restore()
        if said.startswith(REFUSED):
            attacked.refusals.append(said.decode())
            continue
        rows = wire.decode_rows(said[2 * wire.SIGNATURE_BYTES :], wire.SHARE_BYTES, N, "openings")
        attacked.learn(VICTIM, adversaries.MASK, index, rows[VICTIM])
    return attacked


def test_memory_put_back_to_before_confirm_opens_no_second_secret(noted: Callable[[int], SessionMarks]) -> None:
    attacked = confirmed_twice(noted)
    assert attacked.secret(VICTIM, OWN) is not None
    assert not attacked.both(VICTIM)
    assert len(attacked.refusals) == 3
    assert all("put back from an older copy" in one for one in attacked.refusals)


def test_without_looking_at_the_file_memory_put_back_opens_both_secrets(noted: Callable[[int], SessionMarks]) -> None:
    with weaker.with_unchecked_file():
        attacked = confirmed_twice(noted)
    assert attacked.both(VICTIM)
    assert np.array_equal(attacked.reveal(VICTIM), integers(VICTIM))


def test_shares_are_noted_after_everything_random(noted: Callable[[int], SessionMarks]) -> None:
    """A snapshot between note and randomness would share out two secrets b under one key of the channel."""
    attacked = cell(noted)
    state = attacked.states[VICTIM]
    assert isinstance(state, Advertised)
    order: list[str] = []
    marks = state.seat.marks
    real = marks.once

    def draw(count: int) -> bytes:
        order.append("draw")
        return os.urandom(count)

    def once(sid: bytes, phase: Phase, content: bytes) -> None:
        order.append("note")
        real(sid, phase, content)

    marks.once = once  # type: ignore[method-assign]
    raw = wire.encode_adverts([attacked.adverts[index] for index in range(N)])
    state.share(raw, 0.0, draw)
    assert order.count("note") == 1
    assert order[-1] == "note"


STEPS: dict[Phase, Callable[[Cell], object]] = {
    Phase.ADVERTISE: lambda made: clients.advertise(made.seats[VICTIM], 0.0),
    Phase.SHARE: lambda made: made.seats[VICTIM].marks.once(made.sid, Phase.SHARE, bytes(32)),
    Phase.CONTRIBUTE: lambda made: made.seats[VICTIM].marks.once(made.sid, Phase.CONTRIBUTE, PLAN),
    Phase.MASK: lambda made: made.seats[VICTIM].marks.once(made.sid, Phase.MASK, PLAN),
    Phase.CONFIRM: lambda made: made.seats[VICTIM].marks.once(made.sid, Phase.CONFIRM, bytes(32)),
    Phase.UNMASK: lambda made: made.seats[VICTIM].marks.once(made.sid, Phase.UNMASK, bytes(32)),
}


def whole(noted: Callable[[int], SessionMarks]) -> Cell:
    attacked = opened(noted)
    for index in range(N):
        attacked.contribute(index)
    attacked.close(range(N), range(N))
    assert np.array_equal(attacked.reveal(*range(N)), adversaries.summed(*range(N)))
    return attacked


@pytest.mark.parametrize("phase", STEPS)
def test_after_a_restart_every_step_is_noted(
    noted: Callable[[int], SessionMarks], tmp_path: Path, phase: Phase
) -> None:
    attacked = whole(noted)
    before = attacked.seats[VICTIM].marks
    assert isinstance(before, SessionMarks)
    before.close()
    after = SessionMarks(tmp_path / f"{VICTIM}.jsonl", lambda: 0.0)
    attacked.seats[VICTIM] = replace(attacked.seats[VICTIM], marks=after)
    with pytest.raises(Refusal, match="was joined before"):
        after.expect(attacked.session, attacked.sid)
    with pytest.raises(ProtocolViolation, match="was answered before"):
        STEPS[phase](attacked)
    after.close()


@pytest.mark.parametrize("phase", STEPS)
def test_notes_put_back_on_the_disk_do_not_make_the_memory_forget(
    noted: Callable[[int], SessionMarks], tmp_path: Path, phase: Phase
) -> None:
    file = tmp_path / f"{VICTIM}.jsonl"
    attacked = cell(noted)
    shutil.copy(file, tmp_path / "old")
    attacked.share()
    for index in range(N):
        attacked.open(index)
    for index in range(N):
        attacked.contribute(index)
    attacked.close(range(N), range(N))
    file.write_bytes((tmp_path / "old").read_bytes())
    with pytest.raises(ProtocolViolation, match="was answered before"):
        STEPS[phase](attacked)
    other = attacked.session.model_copy(update={"attempt": 2, "nonce": "1" * 64})
    marks = attacked.seats[VICTIM].marks
    assert isinstance(marks, SessionMarks)
    marks.expect(other, b"s" * 32)
    with pytest.raises(CorruptionError, match="put back from an older copy"):
        marks.once(b"s" * 32, Phase.ADVERTISE, bytes(32))


def test_rounds_do_not_go_back(noted: Callable[[int], SessionMarks]) -> None:
    """Both sessions are joined before either is answered; a round that is over is not asked again."""
    attacked = cell(noted)
    marks = attacked.seats[VICTIM].marks
    assert isinstance(marks, SessionMarks)
    newer = attacked.session.model_copy(update={"round": 2, "attempt": 2})
    older = attacked.session.model_copy(update={"round": 1, "attempt": 3})
    for sid, session in ((b"n" * 32, newer), (b"o" * 32, older)):
        marks.expect(session, sid)
        marks.once(sid, Phase.ADVERTISE, bytes(32))
    marks.once(b"n" * 32, Phase.CONTRIBUTE, PLAN)
    with pytest.raises(ProtocolViolation, match="round 1, attempt 3 is not after round 2, attempt 2"):
        marks.once(b"o" * 32, Phase.CONTRIBUTE, PLAN)
