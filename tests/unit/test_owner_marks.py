"""Durable notes of sessions: each step once, whatever is restarted, cut off or changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pacts import a_session, members, sid_of

from fedsus.errors import CorruptionError, EnvironmentFault, ProtocolViolation, Refusal
from fedsus.owner.marks import SessionMarks
from fedsus.owner.note_file import NoteFile
from fedsus.secagg.session import Phase, Session

STEPS = (Phase.SHARE, Phase.CONTRIBUTE, Phase.CONFIRM, Phase.UNMASK)
SAME, OTHER = b"s" * 32, b"o" * 32
PACT = members(3)


def session(attempt: int = 1, **changes: object) -> Session:
    return a_session(PACT, **{"round": attempt, "attempt": attempt} | changes)


def marks(path: Path | None = None) -> SessionMarks:
    return SessionMarks(path, lambda: 5.0)


def join(notes: SessionMarks, one: Session) -> bytes:
    sid = sid_of(one)
    notes.expect(one, sid)
    notes.once(sid, Phase.ADVERTISE, SAME)
    return sid


@pytest.mark.parametrize("phase", STEPS)
@pytest.mark.parametrize("content", [SAME, OTHER])
def test_a_step_is_taken_once_whatever_with(phase: Phase, content: bytes) -> None:
    notes = marks()
    sid = join(notes, session())
    notes.once(sid, phase, SAME)
    with pytest.raises(ProtocolViolation, match=f"phase {phase.name.lower()} was answered before"):
        notes.once(sid, phase, content)


def test_a_session_is_joined_once_and_only_after_it_was_admitted() -> None:
    notes, one = marks(), session()
    with pytest.raises(ProtocolViolation, match="it was not admitted"):
        notes.once(sid_of(one), Phase.ADVERTISE, SAME)
    join(notes, one)
    with pytest.raises(Refusal, match="this session was joined before"):
        notes.expect(one, sid_of(one))
    with pytest.raises(ProtocolViolation, match="phase advertise was answered before"):
        notes.once(sid_of(one), Phase.ADVERTISE, SAME)


@pytest.mark.parametrize("phase", STEPS)
def test_no_step_of_a_session_that_was_not_joined(phase: Phase) -> None:
    with pytest.raises(ProtocolViolation, match="it was not joined"):
        marks().once(b"x" * 32, phase, SAME)


@pytest.mark.parametrize("phase", [Phase.ADVERTISE, *STEPS])
def test_a_restart_forgets_no_step(tmp_path: Path, phase: Phase) -> None:
    notes = marks(tmp_path / "notes")
    sid = join(notes, session())
    if phase != Phase.ADVERTISE:
        notes.once(sid, phase, SAME)
    notes.close()
    again = marks(tmp_path / "notes")
    with pytest.raises(ProtocolViolation, match="was answered before"):
        again.once(sid, phase, OTHER)
    with pytest.raises(Refusal, match="was joined before"):
        again.expect(session(), sid)


@pytest.mark.parametrize("restarted", [False, True])
def test_an_attempt_that_was_contributed_to_is_not_joined_again(tmp_path: Path, restarted: bool) -> None:
    notes = marks(tmp_path / "notes")
    notes.once(join(notes, session(attempt=2)), Phase.CONTRIBUTE, SAME)
    if restarted:
        notes.close()
        notes = marks(tmp_path / "notes")
    for round, attempt in ((2, 2), (3, 2), (1, 1), (1, 3)):
        again = session(attempt, round=round, nonce="8" * 64)
        with pytest.raises(Refusal, match=f"round {round}, attempt {attempt} is not after round 2, attempt 2"):
            notes.expect(again, sid_of(again))
    join(notes, session(3, round=2))  # the round again, in a new attempt
    join(notes, session(4, round=3))
    join(notes, session(1, run="another"))
    join(notes, session(1, federation="another"))


def test_two_sessions_of_one_attempt_give_one_contribution() -> None:
    """A killed server opens another for the attempt that no device contributed to; who contributed does so once."""
    notes = marks()
    first, second = join(notes, session()), join(notes, session(nonce="8" * 64))
    notes.once(second, Phase.CONTRIBUTE, SAME)
    with pytest.raises(ProtocolViolation, match="not after round 1, attempt 1, which was answered in another"):
        notes.once(first, Phase.CONTRIBUTE, SAME)


def full(path: Path) -> list[tuple[bytes, Phase]]:
    """Two whole sessions; what was noted, in order."""
    notes, taken = marks(path), []
    for attempt in (1, 2):
        sid = join(notes, session(attempt))
        taken.append((sid, Phase.ADVERTISE))
        for phase in STEPS:
            notes.once(sid, phase, SAME)
            taken.append((sid, phase))
    notes.close()
    return taken


def test_cut_off_anywhere_the_whole_lines_count(tmp_path: Path) -> None:
    """What a crash leaves: an unfinished last line was not answered, and is the only step that may be taken anew."""
    taken = full(tmp_path / "whole")
    raw = (tmp_path / "whole").read_bytes()
    for length in [*range(0, len(raw), 37), len(raw)]:
        path = tmp_path / f"cut-{length}"
        path.write_bytes(raw[:length])
        notes = marks(path)
        whole = raw[:length].count(b"\n")
        for sid, phase in taken[:whole]:
            with pytest.raises(ProtocolViolation, match="was answered before"):
                notes.once(sid, phase, OTHER)
        if whole < len(taken) and taken[whole][1] != Phase.ADVERTISE:
            notes.once(*taken[whole], OTHER)
        notes.close()
        marks(path).close()  # what is left is a whole file again


def remove(lines: list[bytes]) -> list[bytes]:
    return lines[:2] + lines[3:]


def swap(lines: list[bytes]) -> list[bytes]:
    return [lines[1], lines[0], *lines[2:]]


def double(lines: list[bytes]) -> list[bytes]:
    return [*lines, lines[-1]]


def edit(lines: list[bytes]) -> list[bytes]:
    return [lines[0].replace(b'"attempt":1', b'"attempt":0'), *lines[1:]]


def loosen(lines: list[bytes]) -> list[bytes]:
    return [lines[0].replace(b":", b": ", 1), *lines[1:]]


def spoil(lines: list[bytes]) -> list[bytes]:
    return [b"[" * 9000 + b"\n", *lines[1:]]


@pytest.mark.parametrize("change", [remove, swap, double, edit, loosen, spoil])
def test_a_changed_file_is_refused_and_left_as_it_is(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    path = tmp_path / "notes"
    full(path)
    changed = b"".join(change(path.read_bytes().splitlines(keepends=True)))
    path.write_bytes(changed)
    with pytest.raises(CorruptionError, match=r"notes: line \d+: not the next note; the file was changed"):
        marks(path)
    assert path.read_bytes() == changed
    with pytest.raises(CorruptionError):
        marks(path)  # the lock was let go


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "other", "sid": "00" * 32, "phase": 0}, "unknown entry 'other'"),
        ({"type": "joined", "sid": "00" * 32, "phase": 0}, "'federation' is missing or broken"),
        ({"type": "step", "phase": 1}, "'sid' is missing or broken"),
        ({"type": "step", "sid": "zz", "phase": 1}, "is missing or broken"),
    ],
)
def test_entries_of_another_kind_are_refused(tmp_path: Path, entry: dict[str, object], message: str) -> None:
    file = NoteFile(tmp_path / "notes")
    file.append(entry)
    file.close()
    with pytest.raises(CorruptionError, match=message):
        marks(tmp_path / "notes")


def test_nothing_is_answered_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes, real = marks(tmp_path / "notes"), os.fsync
    sid = join(notes, session())

    def full_disk(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        notes.once(sid, Phase.SHARE, SAME)
    monkeypatch.setattr(os, "fsync", real)
    notes.once(sid, Phase.SHARE, OTHER)  # it was not noted, so it was not answered
    notes.close()
    lines = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    assert [(line["phase"], line.get("content")) for line in lines] == [(0, SAME.hex()), (1, OTHER.hex())]


def test_each_note_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = marks(tmp_path / "notes")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((tmp_path / "notes").read_bytes().count(b"\n")))
    sid = join(notes, session())
    for phase in STEPS:
        notes.once(sid, phase, SAME)
    assert synced == [1, 2, 3, 4, 5]


def test_nothing_is_noted_in_a_file_that_was_closed(tmp_path: Path) -> None:
    notes = marks(tmp_path / "notes")
    sid = join(notes, session())
    notes.close()
    with pytest.raises(EnvironmentFault, match="notes: it was closed"):
        notes.once(sid, Phase.SHARE, SAME)
    again = marks(tmp_path / "notes")
    again.once(sid, Phase.SHARE, SAME)
    again.close()


def test_notes_that_were_read_are_not_kept_twice(tmp_path: Path) -> None:
    notes = marks(tmp_path / "notes")
    join(notes, session())
    notes.close()
    again = NoteFile(tmp_path / "notes")
    assert [entry["type"] for entry in again.entries()] == ["joined"]
    assert again.entries() == []
    again.close()


def test_one_agent_at_a_time(tmp_path: Path) -> None:
    notes = marks(tmp_path / "notes")
    with pytest.raises(EnvironmentFault, match="in use by another agent"):
        marks(tmp_path / "notes")
    notes.close()
    marks(tmp_path / "notes").close()


def test_nothing_secret_is_written(tmp_path: Path) -> None:
    full(tmp_path / "notes")
    known = {"type", "sid", "phase", "content", "federation", "run", "round", "attempt", "time", "v", "seq", "prev"}
    for line in (tmp_path / "notes").read_text().splitlines():
        assert json.loads(line).keys() <= known
    assert (tmp_path / "notes").stat().st_mode & 0o077 == 0
