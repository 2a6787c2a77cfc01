"""The server's folder: certificates, Flower's database, logs, and what is running now.

tls/             ca.pem (give it to owners), ca.key, server.pem, server.key
operator.key     signs receipts; operator.key.pub is for those who check them
state.db         Flower's database: node keys, messages under way
superlink.json   settings of the supervised child
running.json     the running server: process, address, ports
active/RUN.json  runs that this server keeps going until their journal is closed
logs/            superlink.log, server.log
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from fedsus.errors import EnvironmentFault
from fedsus_server import processes

DEFAULT: Final = Path(".fedsus/server")
VARIABLE: Final = "FEDSUS_SERVER_HOME"

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Running:
    """A server that runs: its process, and where it answers. ``health_port`` speaks gRPC on loopback."""

    pid: int
    start: str | None
    host: str
    port: int
    loopback_port: int
    health_port: int
    ca: str | None
    address: str
    version: str

    @property
    def alive(self) -> bool:
        """Whether that process still lives."""
        return processes.alive(self.pid, self.start)


@dataclass(frozen=True, slots=True)
class ActiveRun:
    """A run that must go on.

    Attributes:
        run: its identifier, ours.
        folder: absolute path of the run's folder.
        flower_run: Flower's number of the latest submission; None before the first.
        tries: submissions since a round was last released.
        released: rounds that were released at the latest submission.
        submitted: when, seconds since the epoch.
        loop_pid, loop_start, loop_ended: the round loop that was there at the latest submission, a dead one.
        given_up: one line, once it is not submitted any more.
    """

    run: str
    folder: str
    flower_run: int | None = None
    tries: int = 0
    released: int = 0
    submitted: float = 0.0
    loop_pid: int | None = None
    loop_start: str | None = None
    loop_ended: str | None = None
    given_up: str | None = None


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below a server's folder."""

    folder: Path

    @property
    def tls(self) -> Path:
        """Certificates and keys, mode 0700."""
        return self.folder / "tls"

    @property
    def database(self) -> Path:
        """Flower's SQLite file."""
        return self.folder / "state.db"

    @property
    def settings(self) -> Path:
        """What the child process reads."""
        return self.folder / "superlink.json"

    @property
    def superexec(self) -> Path:
        """Where the child names the process that starts round loops; it leads a process group of its own."""
        return self.folder / "superexec.pid"

    @property
    def logs(self) -> Path:
        """Log files."""
        return self.folder / "logs"

    @property
    def flower(self) -> Path:
        """Flower's own folder."""
        return self.folder / "flower"

    def make(self) -> None:
        """Create the folders.

        Raises:
            EnvironmentFault: they cannot be written.
        """
        try:
            for folder in (self.folder, self.tls, self.logs, self.flower, self.folder / "active"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Devices' answers pass through it, and the folder may have been there before, open to all.
            os.close(os.open(self.database, os.O_CREAT | os.O_WRONLY, 0o600))
            self.database.chmod(0o600)
        except OSError as error:
            raise EnvironmentFault(
                f"the server's folder {self.folder} cannot be written: {error.strerror}; choose another with --home"
            ) from None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One server a folder; the operating system frees it however the process ends.

        Raises:
            EnvironmentFault: another server has it.
        """
        with (self.folder / "lock").open("a", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                running = self.running()
                who = f" (process {running.pid}, {running.address})" if running else ""
                raise EnvironmentFault(
                    f"a server runs already over {self.folder}{who}; stop it, or choose another folder with --home"
                ) from None
            yield

    def running(self) -> Running | None:
        """The server that runs over this folder now; None also where only its remains are left."""
        found = _read(self.folder / "running.json", Running)
        return found if found is not None and found.alive else None

    def connectable(self) -> Running:
        """As `running`.

        Raises:
            EnvironmentFault: none runs, or it is starting.
        """
        found = self.running()
        if found is None and self._held():
            raise EnvironmentFault(
                f"the server over {self.folder} is starting, which takes some seconds: try again once it says "
                "its address"
            )
        if found is None:
            raise EnvironmentFault(
                f"no server runs over {self.folder}; start it: fedsus server start{home_option(self)} "
                f"(or name its folder with --home or {VARIABLE})"
            )
        return found

    def _held(self) -> bool:
        """Whether a server has the lock."""
        try:
            with (self.folder / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def write_running(self, running: Running) -> None:
        """Say where this server is."""
        write(self.folder / "running.json", asdict(running))

    def clear_running(self) -> None:
        """Say that none runs."""
        (self.folder / "running.json").unlink(missing_ok=True)

    def active(self) -> list[ActiveRun]:
        """Runs that must go on, by identifier."""
        found = (_read(path, ActiveRun) for path in sorted((self.folder / "active").glob("*.json")))
        return [run for run in found if run is not None]

    def activate(self, run: ActiveRun) -> None:
        """Keep a run going, or change what is known of it."""
        write(self.folder / "active" / f"{run.run}.json", asdict(run))

    def forget(self, run: str) -> None:
        """Keep a run going no longer."""
        (self.folder / "active" / f"{run}.json").unlink(missing_ok=True)


def home_option(home: Home) -> str:
    """How a command line names this folder; empty for the default one."""
    if os.environ.get(VARIABLE) or home.folder == DEFAULT.resolve():
        return ""
    return f" --home {home.folder}"


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace a small JSON file at once or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(path)


def _read(path: Path, kind: type[R]) -> R | None:
    """A small JSON file as ``kind``; None where it is missing or another version wrote it."""
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
