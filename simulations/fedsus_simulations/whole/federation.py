"""A real federation on one machine: a server and device agents as processes of their own, over TLS on loopback.

Each client has its own folder with its key, agent.toml, policy.toml, ledger and log. Everything that is started
here is stopped here, by process id, however the block is left.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Self

from fedsus.errors import EnvironmentFault
from fedsus.owner import key_files
from fedsus.reporting import read
from fedsus.secagg.keys import Identity
from fedsus.secagg.roster import Roster, RosterMember, SignedRoster, encode
from fedsus_client import identity
from fedsus_client.status import read_status
from fedsus_server.flower.control import Control, connect
from fedsus_server.home import Home, Running

_LOOK_SECONDS: Final = 0.1
_STOP_SECONDS: Final = 8.0
_PATIENCE: Final = 300.0
"""For a start: a process that ends is noticed at once, and on a busy machine five that import torch take minutes."""
FEDERATION: Final = "local"
COMMAND: Final = (sys.executable, "-m", "fedsus")


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """One client's folder.

    Attributes:
        folder: holds agent.toml, policy.toml, node.key, state/ and what is printed.
        name: what the operator calls it.
    """

    folder: Path
    name: str

    @property
    def agent(self) -> Path:
        """agent.toml."""
        return self.folder / "agent.toml"

    @property
    def policy(self) -> Path:
        """policy.toml."""
        return self.folder / "policy.toml"

    @property
    def state(self) -> Path:
        """The agent's state folder."""
        return self.folder / "state"


@dataclass(slots=True)
class LocalFederation:
    """Starts and stops a server and its agents below one folder.

    Args:
        folder: where all their files go.
        environment: added to each process's environment.
        agent_command: how an agent starts, before ``--agent FILE --policy FILE``.
    """

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    agent_command: Sequence[str] = (*COMMAND, "client", "start")
    clients: dict[str, ClientFiles] = field(default_factory=dict, init=False)
    signer: Identity = field(default_factory=Identity.generate, init=False)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)
    _logs: list[IO[bytes]] = field(default_factory=list, init=False)

    @property
    def home(self) -> Home:
        """The server's folder."""
        return Home(self.folder / "server")

    @property
    def running(self) -> Running:
        """Where the server answers."""
        return self.home.connectable()

    def start_server(self, *options: str) -> None:
        """Start the server on a free port; returns at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arguments = ("server", "start", "--home", str(self.home.folder), "--port", "0", *options)
        self.start_process("server", [*COMMAND, *arguments], self.folder / "server.out")

    def wait_for_server(self, seconds: float = _PATIENCE) -> Running:
        """Wait until devices can connect."""
        self._wait(lambda: self.home.running() is not None, seconds, "server", self.folder / "server.out")
        return self.running

    def add_client(self, name: str, agent: str, policy: str) -> ClientFiles:
        """Write a client's files and make its key. ``agent`` lacks the table [server], which is added here."""
        files = ClientFiles(self.folder / name, name)
        files.folder.mkdir(parents=True, exist_ok=True)
        running = self.running
        server = f'[server]\naddress = "127.0.0.1:{running.port}"\nca = "{self.home.tls / "ca.pem"}"\n\n'
        files.agent.write_text(server + agent, encoding="utf-8")
        if "[federation]" not in policy:
            pins = f'[federation]\nname = "{FEDERATION}"\nsigners = ["{self.signer.public.hex()}"]\n'
            policy = f"{policy}\n{pins}"
        files.policy.write_text(policy, encoding="utf-8")
        if not (files.folder / "node.key").exists():
            identity.create(files.folder / "node.key")
            key_files.create(files.folder / "identity.key", "identity")
        self.clients[name] = files
        return files

    def register(self) -> None:
        """Sign the roster, tell the server all clients' keys, as ``fedsus server devices add`` does."""
        from fedsus_server import devices

        self._sign_roster()
        with self.control() as control:
            for name, files in self.clients.items():
                devices.add(control, name, devices.read_key(files.folder / "node.key.pub"))

    def _sign_roster(self) -> None:
        """Make the roster of all clients; each gets it, and it lies where run.toml looks for it."""
        members = tuple(
            RosterMember(name=name, key=key_files.read_public(files.folder / "identity.key.pub", "identity"))
            for name, files in sorted(self.clients.items())
        )
        roster = Roster(
            federation=FEDERATION,
            number=1,
            previous=None,
            signers=(self.signer.public.hex(),),
            needed=1,
            seed=secrets.token_hex(32),
            members=members,
        )
        signed = encode(SignedRoster(roster=roster).signed(self.signer))
        for folder in (self.folder, *(files.folder for files in self.clients.values())):
            (folder / "roster.json").write_bytes(signed)

    def start_agent(self, name: str) -> subprocess.Popen[bytes]:
        """Start one client's agent; returns at once."""
        files = self.clients[name]
        command = [*self.agent_command, "--agent", str(files.agent), "--policy", str(files.policy)]
        return self.start_process(name, command, files.folder / "agent.out")

    def wait_for_agents(self, seconds: float = _PATIENCE) -> None:
        """Wait until all agents are connected."""
        for name, files in self.clients.items():

            def connected(state: Path = files.state) -> bool:
                status = read_status(state)
                return status is not None and status.state in ("idle", "training")

            self._wait(connected, seconds, name, files.folder / "agent.out")

    def submit(self, run_toml: Path, runs: Path) -> Path:
        """Open a run and hand it to the server; its folder."""
        from fedsus_server import runs as known

        active = known.open_new(run_toml, runs, time.time, self.running.ca)
        self.home.activate(active)
        return Path(active.folder)

    def wait_for_run(self, folder: Path, seconds: float, look: Callable[[], None] = lambda: None) -> None:
        """Wait until a run's journal is closed; ``look`` is called meanwhile.

        Raises:
            EnvironmentFault: the run did not end in time, or a process ended.
        """
        from fedsus.journal import RunClosed

        def over() -> bool:
            look()
            entries = read(folder)
            return bool(entries) and isinstance(entries[-1], RunClosed)

        self._wait(over, seconds, "server", folder / "server.log")

    @contextlib.contextmanager
    def control(self) -> Iterator[Control]:
        """The server's control API, on loopback."""
        with connect(self.running.loopback_port) as control:
            yield control

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """A process that was started here: "server" or a client's name."""
        return self._processes[name]

    def check(self) -> None:
        """Raise if the server or an agent ended by itself.

        Raises:
            EnvironmentFault: its name, exit code and last line.
        """
        for name in ("server", *self.clients):
            process = self._processes.get(name)
            if process is not None and process.poll() is not None:
                log = self.clients[name].folder / "agent.out" if name in self.clients else self.folder / "server.out"
                raise EnvironmentFault(f"{name} ended with code {process.returncode}: {_tail(log)}")

    def wait_for_exit(self, name: str, seconds: float, log: Path) -> None:
        """Wait until a process ended by itself, well.

        Raises:
            EnvironmentFault: it failed, or takes too long; its last line.
        """
        try:
            code = self._processes[name].wait(seconds)
        except subprocess.TimeoutExpired:
            raise EnvironmentFault(f"{name} takes more than {seconds:g} s: {_tail(log)}") from None
        if code:
            raise EnvironmentFault(f"{name} ended with code {code}: {_tail(log)}")

    def stop(self, name: str, number: int = signal.SIGTERM) -> int:
        """Stop one process; its exit code."""
        process = self._processes.pop(name)
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def close(self) -> None:
        """Stop everything: agents first, then the server."""
        with _undisturbed():
            for process in self._processes.values():
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
            for name in sorted(self._processes, key=lambda name: name == "server"):
                self.stop(name)
            for log in self._logs:
                log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_process(self, name: str, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start any process that shall end with the federation."""
        output = log.open("ab")
        self._logs.append(output)
        # A group of its own: Ctrl-C reaches this process alone, which then stops the others in order.
        with _undisturbed():
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(self.environment),
                start_new_session=True,
            )
            self._processes[name] = process
        return process

    def _wait(self, ready: Callable[[], bool], seconds: float, name: str, log: Path) -> None:
        end = time.monotonic() + seconds
        while not ready():
            process = self._processes.get(name)
            if process is not None and process.poll() is not None:
                raise EnvironmentFault(f"{name} ended with code {process.returncode}: {_tail(log)}")
            if time.monotonic() > end:
                raise EnvironmentFault(f"{name} was not ready within {seconds:g} s: {_tail(log)}")
            time.sleep(_LOOK_SECONDS)


def _tail(log: Path) -> str:
    """The last line of a log."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return f"see {log}"
    return lines[-1] if lines else f"see {log}"


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold signals that end this process until the block is done.

    Between the start of a process and its entry in the list of those to stop, a signal would leave it running;
    so would a second Ctrl-C while everything is being stopped.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    held = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept = {number: signal.getsignal(number) for number in held}
    kept = {number: handler for number, handler in kept.items() if handler not in (None, signal.SIG_IGN)}
    for number in kept:
        signal.signal(number, lambda came, _: pending.append(came))
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    if pending:
        signal.raise_signal(pending[0])
