"""Writing a journal: one writer, one line an entry, each on the disk before the server goes on."""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Self

from fedsus.errors import ConfigError, EnvironmentFault
from fedsus.journal.disk import Disk, fault
from fedsus.journal.entries import Entry, encode
from fedsus.journal.reading import NAME, Reader

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from fedsus.journal.state import RunState
    from fedsus.types import Clock

_DISK: Final = Disk()
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC


class Journal:
    """A run's journal, open for writing. Made by `create` or `open`; close it, or use it in ``with``.

    Attributes:
        folder: the run's folder.
        entries: all entries, oldest first.
        dropped: bytes of an unterminated last line that `open` removed: a crash while writing. 0 otherwise.
    """

    def __init__(self, folder: Path, clock: Clock, disk: Disk, file: int) -> None:
        self.folder = folder
        self.entries: list[Entry] = []
        self.dropped = 0
        self._clock = clock
        self._disk = disk
        self._file: int | None = file
        self._size = 0
        self._reader = Reader(folder / NAME)

    @classmethod
    def create(cls, folder: Path, clock: Clock, disk: Disk = _DISK) -> Journal:
        """Start the journal of a new run in ``folder``, which is made when it is missing.

        Raises:
            ConfigError: there is a journal already.
            EnvironmentFault: the folder cannot be written.
        """
        path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            journal = cls(folder, clock, disk, os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o644))
            journal._lock()
            disk.sync_folder(folder)
            disk.sync_folder(folder.parent)
        except FileExistsError:
            raise ConfigError(f"{path}: there is a run already; resume it, or choose another folder") from None
        except OSError as error:
            raise fault(path, error) from error
        return journal

    @classmethod
    def open(cls, folder: Path, clock: Clock, disk: Disk = _DISK) -> Journal:
        """Go on with the journal of ``folder``. Removes one unterminated last line, and counts it in ``dropped``.

        Raises:
            ConfigError: no journal is there.
            EnvironmentFault: another process writes it, or it cannot be opened.
            CorruptionError: a broken line or chain, by file and line; nothing is repaired.
        """
        path = folder / NAME
        try:
            journal = cls(folder, clock, disk, os.open(path, _FLAGS))
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file; is {folder} the folder of a run?") from None
        except OSError as error:
            raise fault(path, error) from error
        try:
            journal._lock()
            journal._recover()
        except BaseException:
            journal.close()
            raise
        return journal

    @property
    def state(self) -> RunState:
        """Where the run stands."""
        return self._reader.state

    def append(self, entry: Entry) -> Entry:
        """Write an entry with the clock's time; returns it when it is on the disk.

        Raises:
            CorruptionError: the entry cannot follow; nothing was written.
            ProtocolViolation: a field is out of range; nothing was written.
            EnvironmentFault: the disk is full or cannot be written; the journal is closed.
        """
        file = self._descriptor()
        stamped = replace(entry, time=float(self._clock()))
        state = self.state.after(stamped)
        line = encode(stamped, self._reader.count, self._reader.prev)
        try:
            self._disk.write(file, line + b"\n")
            self._disk.sync(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(file, self._size)
            self.close()
            raise fault(self._reader.path, error) from error
        self._size += len(line) + 1
        self._reader.accept(line, state)
        self.entries.append(stamped)
        return stamped

    def close(self) -> None:
        """Release the file and its lock; may be called again."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _descriptor(self) -> int:
        if self._file is None:
            raise EnvironmentFault(f"{self._reader.path}: the journal is closed")
        return self._file

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentFault(f"{self._reader.path}: another process writes it; stop that one first") from None

    def _recover(self) -> None:
        """Read and check all lines; cut off the last one when it has no line break."""
        file = self._descriptor()
        with open(file, "rb", closefd=False) as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    self.dropped = len(line)
                    break
                self.entries.append(self._reader.feed(line[:-1]))
                self._size += len(line)
        if self.dropped:
            try:
                os.ftruncate(file, self._size)
                self._disk.sync(file)
            except OSError as error:
                raise fault(self._reader.path, error) from error
