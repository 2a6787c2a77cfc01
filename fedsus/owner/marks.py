"""What a device did in each session of secure aggregation, on the owner's disk: so that it does it once.

The secrets of a session are in memory alone; what is kept here says nothing about them. A device that was restarted, or
whose memory was put back from a snapshot, finds the step noted and refuses to take it again with other input.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedsus.errors import CorruptionError, ProtocolViolation, Refusal
from fedsus.owner.note_file import NoteFile
from fedsus.secagg.session import Phase, Session
from fedsus.types import Clock

_JOINED: Final = "joined"
_STEP: Final = "step"


@dataclass(slots=True)
class _Run:
    """The newest attempt of a run that this device contributed to."""

    attempt: int = 0
    round: int = 0


class SessionMarks:
    """Durable notes of sessions; implements `fedsus.secagg.seat.Marks`.

    Args:
        path: the file; None keeps it in memory, for simulations.
        clock: time of the entries.

    Raises:
        CorruptionError: the file was changed.
        EnvironmentFault: another agent uses it, or the disk is full.
    """

    def __init__(self, path: Path | None, clock: Clock) -> None:
        self._clock, self._guard = clock, threading.Lock()
        self._runs: dict[tuple[str, str], _Run] = {}
        self._sessions: dict[bytes, tuple[str, str, int, int]] = {}
        self._taken: set[tuple[bytes, int]] = set()
        self._expected: dict[bytes, Session] = {}
        self._file = NoteFile(path)
        try:
            for entry in self._file.entries():
                self._fold(entry)
        except BaseException:
            self._file.close()
            raise

    def expect(self, session: Session, sid: bytes) -> None:
        """Say what a session is, before it is joined by `once` with `Phase.ADVERTISE`.

        Raises:
            Refusal: it was joined before, or its attempt is not newer than the last that this device contributed to.
        """
        with self._guard:
            if sid in self._sessions:
                raise Refusal(f"run '{session.run}': this session was joined before")
            last = self._runs.get((session.federation, session.run), _Run())
            if session.attempt <= last.attempt or session.round < last.round:
                raise Refusal(
                    f"run '{session.run}': round {session.round}, attempt {session.attempt} is not after "
                    f"round {last.round}, attempt {last.attempt}; each attempt is answered once"
                )
            self._expected = {sid: session}

    def once(self, sid: bytes, phase: Phase, content: bytes) -> None:
        """Note one step, durable when this returns.

        Raises:
            ProtocolViolation: it was noted before, the session was not joined, or another session of the run has come
                further since.
            CorruptionError: memory and file differ.
        """
        with self._guard:
            if (sid, int(phase)) in self._taken:
                raise ProtocolViolation(f"session: phase {phase.name.lower()} was answered before")
            if phase == Phase.ADVERTISE:
                self._join(sid, content)
                return
            known = self._sessions.get(sid)
            if known is None:
                raise ProtocolViolation("session: it was not joined")
            last = self._runs.get(known[:2], _Run())
            if phase == Phase.CONTRIBUTE and (known[2] <= last.attempt or known[3] < last.round):
                raise ProtocolViolation(
                    f"session: round {known[3]}, attempt {known[2]} is not after round {last.round}, "
                    f"attempt {last.attempt}, which was answered in another session"
                )
            self._append(type=_STEP, sid=sid.hex(), phase=int(phase), content=content.hex())

    def close(self) -> None:
        """Let another agent use the file."""
        with self._guard:
            self._file.close()

    def _join(self, sid: bytes, content: bytes) -> None:
        session = self._expected.pop(sid, None)
        if session is None:
            raise ProtocolViolation("session: it was not admitted")
        self._append(
            type=_JOINED,
            sid=sid.hex(),
            phase=int(Phase.ADVERTISE),
            content=content.hex(),
            federation=session.federation,
            run=session.run,
            round=session.round,
            attempt=session.attempt,
        )

    def _append(self, **entry: Any) -> None:
        full = {**entry, "time": self._clock()}
        self._file.append(full)
        self._fold(full)

    def _fold(self, entry: dict[str, Any]) -> None:
        """Take one entry into the state.

        Raises:
            CorruptionError: a type that this version does not know, or a field missing.
        """
        try:
            sid, phase = bytes.fromhex(entry["sid"]), int(entry["phase"])
            if entry["type"] == _JOINED:
                self._sessions[sid] = (entry["federation"], entry["run"], entry["attempt"], entry["round"])
            elif entry["type"] != _STEP:
                raise CorruptionError(f"sessions: unknown entry '{entry['type']}'")
            self._taken.add((sid, phase))
            if phase == Phase.CONTRIBUTE:
                federation, run, attempt, round = self._sessions[sid]
                self._runs[(federation, run)] = _Run(attempt, round)
        except (KeyError, ValueError) as error:
            raise CorruptionError(f"sessions: {error} is missing or broken") from None
