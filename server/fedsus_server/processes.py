"""Processes of this machine: told apart by number and start, ended by number or group, never by name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

_POLL: Final = 0.02


def started(pid: int) -> str | None:
    """When a process started, as an opaque word; None where there is no such process, or only its remains."""
    if Path("/proc/self/stat").exists():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else f"{_boot()}/{fields[19]}"
    found = subprocess.run(
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, env={"LC_ALL": "C"}, check=False
    )
    return found.stdout.strip() or None


def alive(pid: int, start: str | None) -> bool:
    """Whether the process that had this number and start still lives: a later one of that number does not count."""
    return start is not None and started(pid) == start


def group_alive(group: int) -> bool:
    """Whether a process group has any process left; remains that nobody has waited for do not count."""
    if Path("/proc/self/stat").exists():
        return any(_member(path, group) for path in Path("/proc").glob("[0-9]*/stat"))
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def signal_group(group: int, number: int) -> None:
    """Send a signal to a whole group; one that is gone is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def end(pid: int, start: str | None, patience: float) -> None:
    """SIGTERM to one process, SIGKILL after ``patience`` seconds; returns when it is gone."""
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 2.0)):
        if not alive(pid, start):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        limit = time.monotonic() + seconds
        while alive(pid, start) and time.monotonic() < limit:
            time.sleep(_POLL)


def _member(stat: Path, group: int) -> bool:
    try:
        fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    return fields[2] == str(group) and fields[0] not in "ZX"


def _boot() -> str:
    """The current boot of the machine: start times count from it."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""
