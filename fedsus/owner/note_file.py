"""An append-only file of hash-chained lines, each on the disk before `NoteFile.append` returns: one write, one sync.

For notes that are made several times a round, where the ledger's database would cost ten times as much. ``<file>.lock``
is held by the one writer. A crash may leave one unfinished last line: what it was to note was not answered yet, so it
is cut off at opening, and the log says so. Any other fault is an error and left as it is. (!) A process whose memory
was put back from a snapshot finds more in the file than it knows of, and notes nothing any more. An older copy of the
file that was put back before a start is not detected here: the ledger, which every answer with data passes, detects it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fedsus.errors import CorruptionError, EnvironmentFault
from fedsus.plan import canonical

VERSION: Final = 1
GENESIS: Final = "0" * 64

log = logging.getLogger("fedsus.device")


class NoteFile:
    """The lines of one file; ``path`` None keeps nothing, for simulations.

    Raises:
        CorruptionError: a line is not one, or does not follow the line before; names file and line.
        EnvironmentFault: locked by another process, not accessible, or the disk is full.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._handle: int | None = None
        self._lock: int | None = None
        self._seq, self._hash, self._length = 0, GENESIS, 0
        self._entries: list[dict[str, Any]] = []
        if path is None:
            return
        try:
            with self._faults():
                self._open(path)
        except BaseException:
            self.close()
            raise

    @classmethod
    def read_only(cls, path: Path) -> list[dict[str, Any]]:
        """The entries of a file that another process may be writing, without its lock and without an unfinished line.

        Raises:
            CorruptionError: a line is not one, or does not follow the line before; names file and line.
            EnvironmentFault: it cannot be read.
        """
        found = cls(None)
        found._path = path
        with found._faults():
            try:
                file = path.open("rb")
            except FileNotFoundError:
                return []
            with file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    found._take(line)
        return found._entries

    def entries(self) -> list[dict[str, Any]]:
        """The entries as they were at opening, in order. They are handed over once, and not kept: there may be many."""
        found, self._entries = self._entries, []
        return found

    @property
    def lines(self) -> int:
        """How many there are now."""
        return self._seq

    def again(self) -> list[dict[str, Any]]:
        """All entries as the file has them now.

        Raises:
            CorruptionError: the file is not what this process wrote.
            EnvironmentFault: it cannot be read, or was closed.
        """
        if self._path is None:
            return []
        if self._handle is None:
            raise EnvironmentFault(f"{self._path}: it was closed")
        with self._faults():
            self._still_ours(self._handle)
        return self.read_only(self._path)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one entry; it is on the disk when this returns, or is not there at all when this raises.

        Raises:
            CorruptionError: the file is longer or shorter than what this process wrote.
            EnvironmentFault: it cannot be written, or was closed.
        """
        if self._path is not None and self._handle is None:
            raise EnvironmentFault(f"{self._path}: it was closed, and takes no more notes")
        line = canonical({**entry, "v": VERSION, "seq": self._seq + 1, "prev": self._hash}) + b"\n"
        if self._handle is not None:
            with self._faults():
                self._still_ours(self._handle)
                self._write(self._handle, line)
        self._seq, self._hash, self._length = self._seq + 1, _hashed(line), self._length + len(line)

    def replace(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Put other entries in the place of all; a crash leaves the one file or the other.

        Raises:
            EnvironmentFault: they cannot be written; the file is as it was.
        """
        lines, before = [], GENESIS
        for number, entry in enumerate(entries, 1):
            lines.append(canonical({**entry, "v": VERSION, "seq": number, "prev": before}) + b"\n")
            before = _hashed(lines[-1])
        if self._path is not None and self._handle is not None:
            with self._faults():
                self._swap(self._path, self._handle, b"".join(lines))
        self._seq, self._hash, self._length = len(lines), before, sum(map(len, lines))

    def close(self) -> None:
        """Close the file and let go of the lock."""
        for handle in (self._handle, self._lock):
            if handle is not None:
                os.close(handle)
        self._handle = self._lock = None

    def _still_ours(self, handle: int) -> None:
        """Refuse a file that is not as this memory knows it: one of both was put back from a snapshot."""
        size = os.fstat(handle).st_size
        if size != self._length:
            raise CorruptionError(
                f"{self._path}: {size} bytes, {self._length} were written: this process or the file was put back from "
                "an older copy; restart the agent"
            )

    def _write(self, handle: int, line: bytes) -> None:
        try:
            _write_all(handle, line)
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, self._length)
            raise

    def _swap(self, path: Path, handle: int, content: bytes) -> None:
        temporary = path.with_name(f".{path.name}.new")
        flags = os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW
        other = os.open(temporary, flags, 0o600)
        try:
            _write_all(other, content)
            os.fsync(other)
            temporary.replace(path)
        except OSError:
            os.close(other)
            raise
        self._handle = other
        os.close(handle)
        with contextlib.suppress(OSError):  # whichever of the two files is found after a crash, it is whole
            _sync(path.parent)

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentFault(
                f"{path}: in use by another agent; stop that one, or give this one its own state folder"
            ) from None
        self._handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        _sync(path.parent)
        self._read(self._handle)

    def _read(self, handle: int) -> None:
        """Take all lines; cut off an unfinished last one."""
        with os.fdopen(os.dup(handle), "rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    log.warning("%s: an unfinished last line was cut off: the agent had been killed", self._path)
                    os.ftruncate(handle, self._length)
                    os.fsync(handle)
                    return
                self._take(line)

    def _take(self, line: bytes) -> None:
        self._entries.append(self._checked(line))
        self._seq, self._hash, self._length = self._seq + 1, _hashed(line), self._length + len(line)

    def _checked(self, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
            if canonical(entry) + b"\n" == line:
                found = entry["v"], entry["seq"], entry["prev"]
                if found == (VERSION, self._seq + 1, self._hash):
                    return dict(entry)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise CorruptionError(f"{self._path}: line {self._seq + 1}: not the next note; the file was changed")

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EnvironmentFault(f"{self._path}: {error.strerror or error}") from error


def _hashed(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_all(handle: int, content: bytes) -> None:
    written = 0
    while written < len(content):
        written += os.write(handle, content[written:])
