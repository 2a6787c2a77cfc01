"""An append-only, hash-chained list of entries in one SQLite file, durable before `Chain.append` returns.

Beside ``<file>`` lie ``<file>.lock``, held by the one writer, and ``<file>.head``, which names the newest row: a
file put back from an older copy is shorter than its head says, and is refused. Someone who replaces both
files at once is not detected.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fedsus.errors import CorruptionError, EnvironmentFault
from fedsus.plan import canonical

VERSION: Final = 2
READABLE: Final = (1, 2)
GENESIS: Final = hashlib.sha256(b"fedsus ledger").hexdigest()
_TABLE = "CREATE TABLE IF NOT EXISTS entries (seq INTEGER PRIMARY KEY, body BLOB NOT NULL, hash TEXT NOT NULL)"


class Chain:
    """The rows of one file; ``path`` None keeps them in memory.

    Args:
        path: the file; made, mode 0600, unless ``read_only``.
        read_only: look without the lock, while another process writes.

    Raises:
        CorruptionError: a row, the chain or the head does not match; names file and row.
        EnvironmentFault: locked by another process, not accessible, or the disk is full.
    """

    def __init__(self, path: Path | None, *, read_only: bool = False) -> None:
        self.path = path
        self._where = str(path) if path else "ledger in memory"
        self._read_only = read_only
        self._lock: int | None = None
        self._seq, self._hash = 0, GENESIS
        try:
            with self._faults():
                head = self._prepare() if path else (0, GENESIS)
                self._database = self._connect()
                self._entries = self._verified(head)
        except BaseException:
            self.close()
            raise

    def entries(self) -> list[dict[str, Any]]:
        """The entries as they were at opening, in order."""
        return self._entries

    def append(self, entry: Mapping[str, Any], taken: Callable[[dict[str, Any]], None]) -> None:
        """Add one entry; it is on the disk when this returns.

        Args:
            taken: receives the entry with ``v``, ``seq`` and ``prev`` as soon as it is on the disk, also when
                writing the head then fails: memory and disk never disagree.
        """
        if self._read_only:
            raise EnvironmentFault(f"{self._where}: opened for reading only")
        full = {**entry, "v": VERSION, "seq": self._seq + 1, "prev": self._hash}
        body = canonical(full)
        digest = hashlib.sha256(body).hexdigest()
        with self._faults():
            self._insert(self._seq + 1, body, digest)
            self._seq, self._hash = self._seq + 1, digest
            taken(full)
            if self.path:
                self._write_head()

    def close(self) -> None:
        """Close the file and let go of the lock."""
        if hasattr(self, "_database"):
            self._database.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _insert(self, seq: int, body: bytes, digest: str) -> None:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("INSERT INTO entries VALUES (?, ?, ?)", (seq, body, digest))
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _prepare(self) -> tuple[int, str]:
        """Lock, make what is missing, and read the head, in an order that any crash leaves valid."""
        path = self._file()
        if self._read_only:
            head = self._read_head()
            if head[0] and not path.exists():
                raise CorruptionError(f"{path}: row {head[0]}: the ledger was removed, its head is still there")
            return head
        if not path.parent.exists():
            path.parent.mkdir(parents=True, mode=0o700)
            _sync(path.parent.parent)
        self._take_lock()
        if not path.exists() and not self._head_file().exists():
            self._write_head()
        head = self._read_head()
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        return head

    def _take_lock(self) -> None:
        lock = self._file().with_name(self._file().name + ".lock")
        self._lock = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentFault(
                f"{self._where}: in use by another agent; stop that one, or give this one its own state folder"
            ) from None

    def _connect(self) -> sqlite3.Connection:
        name = f"{self.path.resolve().as_uri()}?mode=rw" if self.path else ":memory:"
        database = sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False, timeout=5.0)
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("PRAGMA synchronous = EXTRA")
        if self._read_only:
            database.execute("PRAGMA query_only = ON")
        else:
            database.execute(_TABLE)
        return database

    def _verified(self, head: tuple[int, str]) -> list[dict[str, Any]]:
        entries, reached = [], head == (0, GENESIS)
        for seq, body, digest in self._rows():
            row = self._seq + 1
            entry = self._entry(body, row)
            if (seq, digest) != (row, hashlib.sha256(body).hexdigest()) or entry.get("prev") != self._hash:
                raise CorruptionError(f"{self._where}: row {row}: the hash chain is broken; the ledger was changed")
            if entry.get("v") not in READABLE or entry.get("seq") != row:
                raise CorruptionError(f"{self._where}: row {row}: not an entry of version 1 to {VERSION}")
            self._seq, self._hash = seq, digest
            reached = reached or head == (seq, digest)
            entries.append(entry)
        if not reached:
            raise CorruptionError(
                f"{self._where}: row {head[0]}: the newest entry is missing or another; an older copy was put back"
            )
        return entries

    def _rows(self) -> list[tuple[int, Any, Any]]:
        if not self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'").fetchone():
            return []
        return self._database.execute("SELECT seq, body, hash FROM entries ORDER BY seq").fetchall()

    def _entry(self, body: Any, row: int) -> dict[str, Any]:
        try:
            entry = json.loads(body)
            if isinstance(body, bytes) and isinstance(entry, dict):
                return entry
        except (TypeError, ValueError):
            pass
        raise CorruptionError(f"{self._where}: row {row}: not a ledger entry")

    def _file(self) -> Path:
        if self.path is None:
            raise EnvironmentFault("a ledger in memory has no file")
        return self.path

    def _head_file(self) -> Path:
        return self._file().with_name(self._file().name + ".head")

    def _read_head(self) -> tuple[int, str]:
        try:
            seq, digest = self._head_file().read_text(encoding="ascii").split()
            return int(seq), digest
        except (FileNotFoundError, ValueError):
            raise CorruptionError(f"{self._head_file()}: row 1: the head of the ledger is missing or broken") from None

    def _write_head(self) -> None:
        target = self._head_file()
        temporary = target.with_name(target.name + ".new")
        handle = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        try:
            os.write(handle, f"{self._seq} {self._hash}\n".encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.replace(target)
        _sync(target.parent)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Faults of SQLite and the disk as one line each."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise EnvironmentFault(f"{self._where}: {error}; is the disk full or read-only?") from error
        except sqlite3.DatabaseError as error:
            raise CorruptionError(f"{self._where}: row {self._seq + 1}: {error}") from error
        except OSError as error:
            raise EnvironmentFault(f"{self._where}: {error.strerror or error}") from error


def _sync(folder: Path) -> None:
    """Make names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
