"""Child processes of a benchmark: each in a session of its own, watched, and stopped by its id whatever happens."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import click

from fedsus.errors import EnvironmentFault, RunFailed
from fedsus_server.processes import end, started

T = TypeVar("T")
_LOOK_SECONDS: Final = 0.02
_STOP_SECONDS: Final = 10.0


@dataclass(slots=True)
class Child:
    """A process with its log and when it was started (monotonic seconds)."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    started: float

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid

    def said(self, text: str) -> bool:
        """Whether its output holds ``text`` by now."""
        return self.count(text) > 0

    def count(self, text: str) -> int:
        """How often its output holds ``text`` by now."""
        return self.log.read_text(encoding="utf-8", errors="replace").count(text)

    def last(self) -> str:
        """Its last words, in one line."""
        return _tail(self.log.read_text(encoding="utf-8", errors="replace"))


@dataclass(slots=True)
class Children:
    """Use in ``with``: at its end all are stopped, youngest first, with whatever they started themselves.

    Attributes:
        folder: where their logs go.
        environment: for all of them.
    """

    folder: Path
    environment: Mapping[str, str]
    children: list[Child] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in reversed(self.children):
            stop(child)

    def start(self, name: str, command: Sequence[str], **environment: str) -> Child:
        """Start a process whose output goes to ``<name>.log``."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**self.environment, **environment},
                cwd=self.folder,
                start_new_session=True,
            )
        child = Child(name, process, log, time.monotonic())
        self.children.append(child)
        return child

    def call(self, name: str, command: Sequence[str], timeout: float = 120.0, **environment: str) -> str:
        """Run a short command to its end; its standard output.

        Raises:
            RunFailed: it failed or took too long.
        """
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                env={**self.environment, **environment},
                cwd=self.folder,
            )
        except subprocess.TimeoutExpired:
            raise RunFailed(f"benchmark: {name} took more than {timeout:g} s") from None
        if done.returncode:
            raise RunFailed(f"benchmark: {name} failed: {_tail(done.stdout + done.stderr)}")
        return done.stdout

    def wait(self, what: str, look: Callable[[], T | None], timeout: float) -> T:
        """Look until there is something true.

        Raises:
            RunFailed: a child ended meanwhile, or the time is over.
        """
        limit = time.monotonic() + timeout
        while True:
            found = look()
            if found:
                return found
            for child in self.children:
                if child.process.poll() is not None:
                    raise RunFailed(f"benchmark: {child.name} ended while waiting for {what}: {child.last()}")
            if time.monotonic() > limit:
                told = "; ".join(f"{child.name}: {child.last()}" for child in self.children)
                raise RunFailed(f"benchmark: no {what} within {timeout:g} s; last words: {told or 'none'}")
            time.sleep(_LOOK_SECONDS)


def stop(child: Child) -> None:
    """End a process, then what it started and left behind: SIGTERM, and SIGKILL after some seconds."""
    # With their start: a number may have been given to another process meanwhile.
    family = [(pid, started(pid)) for pid in descendants(child.pid)]
    if child.process.poll() is None:
        child.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(_STOP_SECONDS)
        child.process.kill()
        child.process.wait()
    for pid, start in family:
        end(pid, start, 1.0)


def descendants(pid: int) -> list[int]:
    """Numbers of the processes that a process started, and theirs, by /proc."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found, look = [], [pid]
    while look:
        below = parents.get(look.pop(), [])
        found += below
        look += below
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and of its ended children, in seconds."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def environment(**more: str) -> dict[str, str]:
    """This process's environment, with Flower kept from calling home or installing anything."""
    quiet = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    # Stock Flower starts its own commands by name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, **quiet, "PATH": path, **more}


def memory(pid: int | str, name: str) -> int:
    """A row of /proc/PID/status or smaps_rollup in bytes: VmRSS, VmHWM, Pss."""
    file = Path(f"/proc/{pid}/{'smaps_rollup' if name == 'Pss' else 'status'}")
    for line in file.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"{file}: no {name}")


def need_proc() -> None:
    """Refuse where memory and processor time of processes cannot be read.

    Raises:
        EnvironmentFault: there is no /proc.
    """
    if not Path("/proc/self/status").exists():
        raise EnvironmentFault("this benchmark reads /proc: run it on Linux")


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


def tool(name: str) -> str:
    """The path of a command that was installed beside this Python."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise EnvironmentFault(f"{path}: not there; the benchmark needs the 'flwr' package in this environment")
    return str(path)


def say(text: str) -> None:
    """A line of progress, on standard error."""
    click.echo(f"  {text}", err=True)


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long a part took."""
    start = time.monotonic()
    yield
    say(f"{what}: {time.monotonic() - start:.1f} s")


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on: field 1 is the parent, 11 to 14 are processor times in ticks."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _tail(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-600:] or "(silent)"
