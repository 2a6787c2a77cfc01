"""What the agent tells its owner: ``status.json`` in the state folder, and the marker that pauses it.

Kept apart from the agent, so that ``fedsus client status`` answers at once and loads neither torch nor flwr.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from fedsus.errors import ConfigError, EnvironmentFault

STATUS: Final = "status.json"
PAUSED: Final = "paused"


@dataclass(frozen=True, slots=True)
class Status:
    """The agent's state, for its owner alone.

    Attributes:
        state: one word: "starting", "connecting", "idle", "training", "stopping", ...
        server: host:port.
        pid: of the agent.
        started: `process_start` of that pid: tells the agent from a later process of the same number.
        updated: when this was written, seconds since the epoch.
        detail: one line more about the state, as "server unreachable, next try in 8 s".
        run, round, rounds: the last one answered.
        answered: how many requests were answered since the start.
        refused: how many were refused since the start.
        last_refusal: the reason of the last; it never leaves the device.
        last_refused: when that was, seconds since the epoch.
        memory: resident bytes.
    """

    state: str
    server: str
    pid: int
    started: str
    updated: float
    detail: str = ""
    run: str | None = None
    round: int | None = None
    rounds: int | None = None
    answered: int = 0
    refused: int = 0
    last_refusal: str | None = None
    last_refused: float | None = None
    memory: int | None = None


def write_status(folder: Path, status: Status) -> None:
    """Replace ``status.json``; a reader sees the old or the new one, never a part.

    Raises:
        EnvironmentFault: the folder cannot be written.
    """
    _replace(folder / STATUS, json.dumps(asdict(status), indent=1).encode())


def read_status(folder: Path) -> Status | None:
    """The last status; None where no agent ever wrote one.

    Raises:
        ConfigError: the file is not a status of this version.
    """
    file = folder / STATUS
    try:
        fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return Status(**fields)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, TypeError, ValueError):
        raise ConfigError(f"{file}: not a status of this version; start the agent again") from None


def running(status: Status) -> bool:
    """Whether the process that wrote ``status`` still lives: same pid and same start, so no other process."""
    return process_start(status.pid) == status.started


def process_start(pid: int) -> str | None:
    """When a process started, as an opaque word; None where there is no such process (or only its remains)."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else f"{_boot()}/{fields[19]}"
    found = subprocess.run(
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, env={"LC_ALL": "C"}, check=False
    )
    return found.stdout.strip() or None


def paused(folder: Path) -> bool:
    """Whether the owner paused the agent: it then refuses every request."""
    return (folder / PAUSED).exists()


def pause(folder: Path) -> None:
    """Set the marker; it outlives a restart of the agent and of the machine."""
    _replace(folder / PAUSED, b"'fedsus client resume' removes this file\n")


def resume(folder: Path) -> None:
    """Take the marker away."""
    with _writing(folder / PAUSED):
        (folder / PAUSED).unlink(missing_ok=True)
        if folder.exists():
            _sync(folder)


def _boot() -> str:
    """The current boot of the machine: start times count from it."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


def _replace(target: Path, content: bytes) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(temporary, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync(target.parent)


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFault(f"{target}: cannot be written: {error.strerror}") from None


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
