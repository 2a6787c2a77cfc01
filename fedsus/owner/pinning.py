"""Which roster counts on this device: signed by the pinned keys, and never an older one than before.

The newest number and digest ever accepted lie in the state folder, durable before a roster is used. Someone who
replaces the whole state folder by an older copy is not detected; the ledger has the same limit.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from fedsus.errors import ConfigError, CorruptionError, EnvironmentFault, ProtocolViolation, Refusal
from fedsus.plan import Hash, Name, Strict, canonical, strictly
from fedsus.secagg.roster import MAX_BYTES, Pins, Roster, SignedRoster, decode, digest

_NOTES_BYTES: Final = 64 * 2**20
_NEWEST: Final = "ask the owners who sign for the newest roster"
_Mark: TypeAlias = tuple[int, int, int, int]


class Note(Strict):
    """The newest roster that was accepted of one federation, and every key that was ever revoked in it."""

    number: Annotated[int, Field(ge=1)]
    digest: Hash
    revoked: tuple[Hash, ...]


class _Notes(Strict):
    version: Literal[1] = 1
    federations: Annotated[dict[Name, Note], Field(max_length=1000)] = Field(default={})


class RosterBook:
    """The rosters that this device accepts. Safe to share between threads and processes.

    Args:
        file: the roster in use (``[federation] roster`` of agent.toml); it is read again when it was changed.
        notes: what was accepted before, in the state folder; made when it is missing.
        pins: from the owner's policy; another policy, another book.
    """

    def __init__(self, file: Path, notes: Path, pins: Pins) -> None:
        self.file, self.pins = file, pins
        self._notes = notes
        self._guard = threading.Lock()
        self._mark: _Mark | None = None
        self._roster: Roster | None = None

    def current(self) -> Roster | None:
        """The roster that the file holds now, accepted; None where there is no file.

        Raises:
            UserError, Refusal, CorruptionError: as `accept`. No older roster is used instead.
        """
        with self._guard:
            if self._mark is not None and _mark(self.file) == self._mark:
                return self._roster
            self._mark = None
            found = read(self.file)
            if found is None:
                return None
            self._roster, mark = self.accept(found[0], str(self.file)), found[1]
            self._mark = mark
            return self._roster

    def accept(self, raw: bytes, where: str = "roster") -> Roster:
        """The roster of these bytes; from now on no older one is accepted, also after a crash.

        Args:
            where: names the bytes in errors.

        Raises:
            ConfigError: not a roster.
            Refusal: of another federation, too few pinned keys signed it, older than one accepted before, another of
                the same number, not the successor of the one before, or a key that was revoked is back.
            CorruptionError: the notes were changed.
            EnvironmentFault: they cannot be read or written.
        """
        with self._locked():
            roster = self.look(raw, where)
            notes = self._read_notes()
            note = Note(number=roster.number, digest=digest(roster).hex(), revoked=roster.revoked)
            if notes.federations.get(roster.federation) != note:
                self._write_notes(_Notes(federations={**notes.federations, roster.federation: note}))
        return roster

    def look(self, raw: bytes, where: str = "roster") -> Roster:
        """As `accept`, and nothing is written."""
        try:
            roster = decode(raw).verified(self.pins)
        except ProtocolViolation as error:
            raise ConfigError(f"{where}: not a roster: {error}") from None
        except Refusal as error:
            raise Refusal(f"{where}: {error} ([federation] of policy.toml)") from None
        last = self.newest()
        if last is not None:
            _follows(roster, last, where)
        return roster

    def newest(self) -> Note | None:
        """What was accepted last of the pinned federation; None if nothing was."""
        return self._read_notes().federations.get(self.pins.federation)

    def _read_notes(self) -> _Notes:
        found = read(self._notes, _NOTES_BYTES)
        if found is None:
            return _Notes()
        try:
            return strictly(found[0], _Notes, "notes", _NOTES_BYTES)
        except ProtocolViolation as error:
            raise CorruptionError(
                f"{self._notes}: {error}; it keeps old rosters out: put back the newest copy of the whole state folder"
            ) from None

    def _write_notes(self, notes: _Notes) -> None:
        write(self._notes, canonical(notes.model_dump(mode="json")), 0o600)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time between reading the notes and writing them."""
        lock = self._notes.with_name(self._notes.name + ".lock")
        try:
            self._notes.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise EnvironmentFault(f"{lock}: {error.strerror}; the agent's user must be able to write there") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _follows(roster: Roster, last: Note, where: str) -> None:
    """Raise unless a roster may come after what was accepted last."""
    about = f"{where}: roster {roster.number} of '{roster.federation}'"
    if roster.number < last.number:
        raise Refusal(f"{about}: {last.number} was accepted before, and an older one never is again; {_NEWEST}")
    if roster.number == last.number and digest(roster).hex() != last.digest:
        raise Refusal(
            f"{about}: another roster {last.number} was accepted before: its owners signed two; "
            f"ask them which is right, and for a roster {last.number + 1}"
        )
    if roster.number == last.number + 1 and roster.previous != last.digest:
        raise Refusal(
            f"{about}: it follows another roster {last.number} than the one that was accepted here; "
            f"ask the owners why, and for a roster {roster.number + 1}"
        )
    back = set(last.revoked) & {member.key for member in roster.members}
    if back:
        names = ", ".join(f"'{member.name}'" for member in roster.members if member.key in back)
        raise Refusal(f"{about}: the key of {names} was revoked before; {_NEWEST}, with a new key for that member")
    if not set(last.revoked) <= set(roster.revoked):
        raise Refusal(f"{about}: it forgets keys that were revoked before; {_NEWEST}")


def read(file: Path, limit: int = MAX_BYTES) -> tuple[bytes, _Mark] | None:
    """A file's bytes, at most ``limit`` + 1, and its mark; None where there is none.

    Raises:
        EnvironmentFault: it cannot be read, or is no regular file.
    """
    try:
        # A pipe would otherwise wait for a writer for ever.
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise EnvironmentFault(f"{file}: not a regular file")
            with os.fdopen(handle, "rb", closefd=False) as opened:
                return opened.read(limit + 1), _of(found)
        finally:
            os.close(handle)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EnvironmentFault(f"{file}: cannot be read: {error.strerror}") from None


def read_roster(file: Path) -> SignedRoster:
    """The signed roster in a file; nothing is verified.

    Raises:
        ConfigError: missing, or not a roster.
        EnvironmentFault: it cannot be read.
    """
    found = read(file)
    if found is None:
        raise ConfigError(f"{file}: no such file")
    try:
        return decode(found[0])
    except ProtocolViolation as error:
        raise ConfigError(f"{file}: not a roster: {error}") from None


def write(file: Path, content: bytes, mode: int) -> None:
    """Replace a file at once or not at all; it is on the disk when this returns.

    Raises:
        EnvironmentFault: it cannot be written.
    """
    temporary = file.with_name(f"{file.name}.{os.getpid()}.new")
    try:
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        try:
            with os.fdopen(handle, "wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise EnvironmentFault(f"{file}: cannot be written: {error.strerror}") from None


def _mark(file: Path) -> _Mark | None:
    try:
        return _of(file.stat())
    except OSError:
        return None


def _of(found: os.stat_result) -> _Mark:
    """What changes when a file is edited or replaced."""
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
