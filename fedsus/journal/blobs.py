"""Models and strategy states as safetensors files, named by the SHA-256 of their content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import TYPE_CHECKING, Final

from safetensors import SafetensorError
from safetensors.numpy import load_file

from fedsus.errors import CorruptionError
from fedsus.journal.disk import Disk, fault
from fedsus.journal.entries import Entry, RoundReleased, RunClosed, RunOpened

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fedsus.types import Arrays

FOLDER: Final = "blobs"
_SUFFIX: Final = ".safetensors"
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_DISK: Final = Disk()


def put(folder: Path, arrays: Arrays, disk: Disk = _DISK) -> str:
    """Store arrays in a run's ``folder``; their hash, when they are safely on the disk.

    Raises:
        EnvironmentFault: the disk is full or cannot be written.
    """
    blobs = folder / FOLDER
    temporary = blobs / f".{os.getpid()}.tmp"
    try:
        _make(blobs, disk)
        disk.save(temporary, arrays)
        with temporary.open("rb") as file:
            disk.sync(file.fileno())
            name = hashlib.file_digest(file, "sha256").hexdigest()
        disk.rename(temporary, _path(folder, name))
        disk.sync_folder(blobs)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise fault(blobs, error) from error
    return name


def get(folder: Path, name: str) -> Arrays:
    """The arrays with hash ``name`` from a run's ``folder``.

    Raises:
        CorruptionError: missing, or the content is not what its name says.
    """
    path = _path(folder, name)
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if actual != name:
            raise CorruptionError(f"{path}: the content does not match its name: it was changed or is broken")
        return load_file(path)
    except FileNotFoundError:
        raise CorruptionError(f"{path}: no such file; the journal needs it") from None
    except (OSError, SafetensorError) as error:
        raise CorruptionError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def prune(folder: Path, entries: Sequence[Entry], keep: int = 3) -> list[str]:
    """Remove checkpoints of a run's ``folder`` but the last ``keep`` that its journal names; the hashes removed.

    The model of a closed run stays. Call it after the entry that names the newest blob was written.
    """
    kept: set[str] = set()
    for entry in reversed(entries):  # the last mention counts; a long run's journal is not read again each round
        name = entry.model if isinstance(entry, RunClosed) else getattr(entry, "checkpoint", None)
        if isinstance(entry, RunOpened | RoundReleased | RunClosed) and name is not None:
            kept.add(name)
            if len(kept) == max(keep, 1):
                break
    removed = []
    for path in sorted((folder / FOLDER).glob("*")):
        if path.name.startswith("."):  # left by a crash: ours, or the one that safetensors writes first
            path.unlink(missing_ok=True)
        elif path.suffix == _SUFFIX and path.stem not in kept:
            path.unlink(missing_ok=True)
            removed.append(path.stem)
    return removed


def _path(folder: Path, name: str) -> Path:
    if not _HASH.fullmatch(name):
        raise CorruptionError(f"{folder / FOLDER}: {name[:80]!r} is no hash of a blob")
    return folder / FOLDER / f"{name}{_SUFFIX}"


def _make(blobs: Path, disk: Disk) -> None:
    if not blobs.is_dir():
        blobs.mkdir(parents=True, exist_ok=True)
        disk.sync_folder(blobs.parent)
