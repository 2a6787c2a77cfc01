"""The receipt of a run: what `fedsus.reporting.statement` finds in its journal, signed by the operator."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from typing import TYPE_CHECKING, Any, Final

from fedsus.envelope import Envelope
from fedsus.errors import ConfigError, CorruptionError, EnvironmentFault
from fedsus.journal import NAME, Entry, Reader, RunClosed
from fedsus.plan import canonical
from fedsus.reporting.statement import plain, statement

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fedsus.secagg.keys import Identity

FILE: Final = "receipt.json"
"""Beside the journal."""

MOST_JOURNAL: Final = 2**28
"""Bytes: of some 200,000 rounds."""


def entries_of(raw: bytes, path: Path) -> tuple[list[Entry], str]:
    """The entries of a whole journal file, and the SHA-256 (hex) of its last line. ``path`` is for messages.

    Raises:
        CorruptionError: a broken line or chain, by file and line; a last line without its line break too.
    """
    check_end(raw, path)
    reader = Reader(path)
    return [reader.feed(line) for line in raw[:-1].split(b"\n")], head_of(raw)


def check_end(raw: bytes, path: Path) -> None:
    """Refuse a journal whose last line has no end.

    Raises:
        CorruptionError: by file and line.
    """
    if not raw.endswith(b"\n"):
        last = raw.count(b"\n") + 1
        raise CorruptionError(f"{path}: line {last}: it has no end: the file was cut off or changed")


def head_of(raw: bytes) -> str:
    """SHA-256 (hex) of the last line of a journal file, without its line break."""
    return hashlib.sha256(raw.removesuffix(b"\n").rsplit(b"\n", 1)[-1]).hexdigest()


def payload_of(entries: Sequence[Entry], head: str, operator: str | None) -> dict[str, Any]:
    """The statement as plain data.

    Raises:
        as `fedsus.reporting.statement.statement`.
    """
    return plain(statement(entries, head, operator))


def make(run_dir: Path, identity: Identity) -> bytes:
    """The receipt of a closed run, with the operator's signature.

    Raises:
        ConfigError: no journal is there, or the run is not closed.
        CorruptionError: the journal is broken.
        Refusal: an epsilon cannot be computed.
    """
    path = run_dir / NAME
    entries, head = entries_of(read_file(path, MOST_JOURNAL), path)
    if not isinstance(entries[-1], RunClosed):
        raise ConfigError(
            f"{path}: the run is not over, and a receipt is of a run that is; go on with it (fedsus server run "
            "--resume), or end it (fedsus server stop)"
        )
    payload = canonical(payload_of(entries, head, identity.public.hex()))
    return Envelope(payload, {}).signed(identity).encode()


def write(path: Path, raw: bytes, *, replace: bool = False) -> None:
    """Write a receipt, at once or not at all.

    Raises:
        ConfigError: the file exists, and ``replace`` is not set: its countersignatures would be lost.
        EnvironmentFault: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            os.link(temporary, path)
    except FileExistsError:
        raise ConfigError(f"{path}: exists already, perhaps with countersignatures; move it away first") from None
    except OSError as error:
        raise EnvironmentFault(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a file that may be anything.

    Raises:
        ConfigError: missing, not a file, longer than ``most``, or not readable.
    """
    try:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no such file" if not path.exists() else "not a file"
            raise ConfigError(f"{path}: {what}")
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > most:
        raise ConfigError(f"{path}: longer than {most} bytes; what is checked here is never that long")
    return raw
