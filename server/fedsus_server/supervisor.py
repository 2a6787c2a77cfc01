"""Supervises the SuperLink: starts it, watches it, starts it again, and ends it with all that it started."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedsus.errors import EnvironmentFault
from fedsus.types import Clock
from fedsus_server import __version__, certificates, processes
from fedsus_server.certificates import Certificates
from fedsus_server.health import HealthServer, Probe
from fedsus_server.home import VARIABLE, Home, Running
from fedsus_server.ports import held
from fedsus_server.resume import Resumer

_START_SECONDS: Final = 300.0
"""A SuperLink that ends is noticed at once; one that lives may be slow, on a busy machine by minutes."""
_STOP_SECONDS: Final = 3.0
_LOOK_SECONDS: Final = 0.1
_PROBE_SECONDS: Final = 1.0
_RESUME_SECONDS: Final = 0.25
_BACKOFF: Final = (0.2, 10.0)
_STABLE_SECONDS: Final = 30.0
_FREE_BYTES: Final = 50_000_000
ALLOCATOR: Final = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""For glibc (mallopt(3)): a block from 1 MiB on goes back to the system when it is freed. By itself
glibc raises this limit after the first freed model, and a hole of a model's size stays in the heap: measured 5.0
instead of 4.1 models."""
log = logging.getLogger("fedsus.server")


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator asked of `fedsus server start`.

    Attributes:
        host: interface of the gateway.
        port: of the gateway; 0 chooses.
        health_host, health_port: of the gRPC health service; port 0 chooses.
        names: further host names and addresses for the server's certificate.
        certificate, key, ca: the operator's own files; None: made in the server's folder.
        max_upload: longest answer of a device, MiB.
    """

    host: str = "127.0.0.1"
    port: int = 8443
    health_host: str = "127.0.0.1"
    health_port: int = 0
    names: tuple[str, ...] = ()
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    max_upload: int = 512

    def certificates(self, home: Home, clock: Clock) -> Certificates:
        """The files to serve with, checked or made."""
        if self.certificate is not None and self.key is not None:
            return certificates.given(self.certificate, self.key, self.ca, clock)
        return certificates.own(home.tls, [*certificates.host_names(self.host), *self.names], clock)


class SuperLink:
    """The child process. It leads a process group; what it starts leads another."""

    def __init__(self, home: Home, options: Options, port: int, files: Certificates, loopback_port: int) -> None:
        self._home = home
        self._settings = {
            "host": options.host,
            "port": port,
            "loopback_port": loopback_port,
            "certificate": str(files.certificate),
            "key": str(files.key),
            "ca": str(files.ca or ""),
            "database": str(home.database),
            "parent": os.getpid(),
            "superexec": str(home.superexec),
            "max_upload": options.max_upload * 2**20,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.since = 0.0

    def start(self, now: float) -> None:
        """Start it, with output to ``logs/superlink.log``."""
        self._home.superexec.unlink(missing_ok=True)
        self._home.settings.write_text(json.dumps(self._settings), encoding="utf-8")
        with (self._home.logs / "superlink.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fedsus_server.flower.superlink", str(self._home.settings)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(self._home, os.environ),
                start_new_session=True,
            )
        self.since = now

    @property
    def pid(self) -> int | None:
        """Its process number; None before the first start."""
        return self._process.pid if self._process else None

    def ended(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll() if self._process else None

    def stop(self, patience: float = _STOP_SECONDS) -> None:
        """End it and all that it started; SIGKILL for what is left after ``patience`` seconds."""
        if self._process is None:
            return
        groups = [self._process.pid]
        with contextlib.suppress(OSError, ValueError):
            groups.append(int(self._home.superexec.read_text(encoding="ascii")))
        for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 1.0)):
            for group in groups:
                processes.signal_group(group, number)
            limit = time.monotonic() + seconds
            while time.monotonic() < limit:
                self._process.poll()
                groups = [group for group in groups if processes.group_alive(group)]
                if not groups:
                    return
                time.sleep(0.02)


def environment(home: Home, base: Mapping[str, str]) -> dict[str, str]:
    """The child's environment: Flower phones nobody, installs nothing, and finds this interpreter's programs."""
    return {
        **base,
        **ALLOCATOR,
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_HOME": str(home.flower),
        VARIABLE: str(home.folder),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)]),
    }


class Supervisor:
    """A running server, until `stop` is set.

    Args:
        home: its folder, locked by the caller.
        options: as asked.
        stop: set to end it.
        clock: seconds since the epoch.
    """

    def __init__(self, home: Home, options: Options, stop: threading.Event, clock: Clock = time.time) -> None:
        self._home, self._options, self._stop, self._clock = home, options, stop, clock
        self._backoff = _BACKOFF[0]

    def run(self, ready: Callable[[Running], None]) -> None:
        """Serve; ``ready`` is called once, when devices can connect first.

        Raises:
            ConfigError: a certificate file is not what it should be.
            EnvironmentFault: port taken, certificate expired, disk full, or the SuperLink does not start.
        """
        _check_disk(self._home.folder)
        files = self._options.certificates(self._home, self._clock)
        # Until this process ends: the child takes seconds to listen, and may have to start again.
        with held(self._options.host, self._options.port) as port, held("127.0.0.1", 0) as loopback_port:
            self._serve(ready, files, port, loopback_port)

    def _serve(self, ready: Callable[[Running], None], files: Certificates, port: int, loopback_port: int) -> None:
        probe = Probe(self._options.host, port, str(files.ca) if files.ca else None)
        child = SuperLink(self._home, self._options, port, files, loopback_port)
        with HealthServer(self._options.health_host, self._options.health_port) as health:
            running = self._describe(port, loopback_port, health.port, files)
            try:
                child.start(self._clock())
                self._await_first(child, probe)
                self._home.write_running(running)
                health.set(serving=True)
                ready(running)
                log.info("serving on %s, SuperLink process %s", running.address, child.pid)
                with self._resuming(child, health, loopback_port):
                    self._watch(child, probe, health)
            finally:
                health.set(serving=False)
                self._home.clear_running()
                child.stop()
                log.info("stopped")

    def _describe(self, port: int, loopback_port: int, health_port: int, files: Certificates) -> Running:
        name = next(iter(self._options.names), None) or certificates.host_names(self._options.host)[0]
        return Running(
            pid=os.getpid(),
            start=processes.started(os.getpid()),
            host=self._options.host,
            port=port,
            loopback_port=loopback_port,
            health_port=health_port,
            ca=str(files.ca) if files.ca else None,
            address=f"[{name}]:{port}" if ":" in name else f"{name}:{port}",
            version=__version__,
        )

    def _await_first(self, child: SuperLink, probe: Probe) -> None:
        limit = time.monotonic() + _START_SECONDS
        while not self._stop.is_set():
            if child.ended() is not None or time.monotonic() > limit:
                file = self._home.logs / "superlink.log"
                raise EnvironmentFault(f"the SuperLink did not start: {_last_line(file)} (see {file})")
            if probe():
                return
            self._stop.wait(_LOOK_SECONDS)

    def _watch(self, child: SuperLink, probe: Probe, health: HealthServer) -> None:
        """Restart the child when it ends, and keep the health answer true."""
        looked = time.monotonic()
        while not self._stop.wait(_LOOK_SECONDS):
            code = child.ended()
            if code is not None:
                health.set(serving=False)
                self._restart(child, code)
                looked = 0.0
            elif not health.serving or time.monotonic() - looked > _PROBE_SECONDS:
                health.set(serving=probe())
                looked = time.monotonic()

    def _restart(self, child: SuperLink, code: int) -> None:
        if self._clock() - child.since > _STABLE_SECONDS:
            self._backoff = _BACKOFF[0]
        log.error("the SuperLink ended with code %d; starting it again in %g s", code, self._backoff)
        # What it had started may still be there, and would hold run folders.
        child.stop(patience=1.0)
        if not self._stop.wait(self._backoff):
            self._backoff = min(2 * self._backoff, _BACKOFF[1])
            child.start(self._clock())

    @contextlib.contextmanager
    def _resuming(self, child: SuperLink, health: HealthServer, loopback_port: int) -> Iterator[None]:
        """A thread that keeps active runs going: its requests may wait while the SuperLink is restarted."""
        from fedsus_server.flower import control

        resumer = Resumer(self._home, lambda: control.connect(loopback_port), lambda: child.since, self._clock)

        def work() -> None:
            while not self._stop.wait(_RESUME_SECONDS):
                if health.serving:
                    resumer.step()

        thread = threading.Thread(target=work, name="resume", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(1.0)


def _check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < _FREE_BYTES:
        raise EnvironmentFault(f"the disk of {folder} is full ({free // 1_000_000} MB left); free some space")


def _last_line(file: Path) -> str:
    """The last line that says something; empty without one."""
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), "no output")
    return "no output"
