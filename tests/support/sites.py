"""A running federation for tests: a real server and three seeded agents, each with the heart task and a gated one."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from recorder import Recorder

from fedsus.config import RunConfig, load
from fedsus.errors import EnvironmentFault
from fedsus.journal import AttemptOpened, RoundReleased
from fedsus.learning.parameters import flatten
from fedsus.model_file import metadata, read_model, write_model
from fedsus.owner.ledger import Ledger
from fedsus.plan import TaskPart
from fedsus.reporting import read
from fedsus.tasks import heart, registry
from fedsus.types import Vector
from fedsus_client import identity
from fedsus_client.status import PAUSED, Status, read_status, running
from fedsus_server import devices, runs
from fedsus_server.ports import held
from fedsus_simulations.whole.federation import ClientFiles, LocalFederation

SUPPORT = Path(__file__).resolve().parent
HOSPITALS = ("cleveland", "hungary", "va")
RECORDED = "hungary"
DATA = Path(heart.__file__).parent / "data" / "heart"
TASKS = {"heart": "heart", "gated": "gated:Gated", "reserved": "gated:Gated"}
PATIENCE = 120.0

AGENT = """
[tasks]
heart = "heart"
gated = "gated:Gated"
reserved = "gated:Gated"
[compute]
device = "cpu"
threads = 1
[agent]
poll_idle = 0.1
[data.patients]
path = "{patients}"
[data.gate]
path = "gate"
"""
POLICY = """
[privacy]
epsilon = 5.0
delta = 1e-5
placements = ["local", "distributed"]
without_dp = true
[cohort]
minimum = 1
[exchange]
clear_sum = true
[limits]
local_epochs = 1000
[tasks.heart]
data = "patients"
[tasks.gated]
data = "gate"
"""
RESERVED = """
[tasks.reserved]
data = "gate"
"""


def until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for a condition; fail after ``patience`` seconds."""
    limit = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < limit, f"waited {patience:g} s for {what}"
        time.sleep(0.05)


class Sites(LocalFederation):
    """A `LocalFederation` on one port, so that its agents find the server again after a restart."""

    names = HOSPITALS

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            environment={"OMP_NUM_THREADS": "1"},
            agent_command=(sys.executable, "-W", "ignore", str(SUPPORT / "seeded_agent.py")),
        )
        self._held = contextlib.ExitStack()
        self.port = self._held.enter_context(held("127.0.0.1", 0))  # also while the server is down
        self._recorder: Recorder | None = None
        self._before: dict[str, int] = {}

    @property
    def recorder(self) -> Recorder:
        """Stands between one hospital's agent and the server."""
        if self._recorder is None:
            tls = self.home.tls
            self._recorder = Recorder(self.port, tls / "server.pem", tls / "server.key", tls / "ca.pem")
        return self._recorder

    def close(self) -> None:
        super().close()
        if self._recorder is not None:
            self._recorder.close()
        self._held.close()

    def start(self) -> None:
        """Server, keys, agents."""
        self.serve()
        for name in self.names:
            self.add(name)
        recorded = self.clients[RECORDED].agent
        text = recorded.read_text(encoding="utf-8")
        recorded.write_text(text.replace(f":{self.port}", f":{self.recorder.port}"), encoding="utf-8")
        self.register()
        self.restore()

    def serve(self) -> None:
        until(self._port_is_free, "the port")
        self.start_server("--port", str(self.port))
        self.wait_for_server(PATIENCE)

    def _port_is_free(self) -> bool:
        """A server that was killed, or took too long to stop, leaves a SuperLink that ends a moment later."""
        try:
            with held("127.0.0.1", self.port):
                return True
        except EnvironmentFault:
            return False

    def add(self, name: str) -> ClientFiles:
        """A client's files; hospitals have their own patients, others those of the first, which allows most."""
        patients = DATA / f"{name if name in HOSPITALS else HOSPITALS[0]}.csv"
        policy = POLICY + RESERVED if name == HOSPITALS[0] else POLICY
        return self.add_client(name, AGENT.format(patients=patients), policy)

    def admit(self, name: str) -> None:
        """Tell the server one more key."""
        with self.control() as control:
            devices.add(control, name, devices.read_key(identity.public_file(self.clients[name].folder / "node.key")))

    def dismiss(self, name: str) -> None:
        """Forget a key: a killed device would else count as connected for a minute, and be asked."""
        with self.control() as control:
            devices.remove(control, name)

    def restore(self) -> None:
        """No run is on; all hospitals' agents run, are connected, ready to train and idle, with open gates."""
        if "server" not in self._processes or self._processes["server"].poll() is not None:
            self.serve()
        for active in self.home.active():
            runs.stop(self.home, Path(active.folder), time.time)
        for name in self.names:
            self.let_go(name)
            if name not in self._processes or self._processes[name].poll() is not None:
                self.start_agent(name)
        for name in self.names:
            until(lambda name=name: self.connected(name), f"agent {name}")  # type: ignore[misc]
        # An agent asks again when it is done with what it was told, and says then that it is paused. Twice: a message
        # that was on its way the first time, of a run that was stopped, is refused or done with the second time.
        for state in ("paused", "idle") * 2:
            for name in self.names:
                marker = self.clients[name].state / PAUSED
                marker.touch() if state == "paused" else marker.unlink(missing_ok=True)
            for name in self.names:
                until(lambda name=name, state=state: self.state(name) == state, f"{name} to be {state}")  # type: ignore[misc]

    def start_agent(self, name: str) -> subprocess.Popen[bytes]:
        self._before[name] = len(self.log(name))
        return super().start_agent(name)

    def connected(self, name: str) -> bool:
        if "INFO ready to train" not in self.log(name)[self._before[name] :]:
            return False
        status = self.status(name)
        return status is not None and running(status) and status.state == "idle"

    def state(self, name: str) -> str:
        """What an agent says that it does."""
        status = self.status(name)
        return "" if status is None else status.state

    def status(self, name: str) -> Status | None:
        return read_status(self.clients[name].state)

    def gate(self, name: str) -> Path:
        return self.clients[name].folder / "gate"

    def seen(self, name: str) -> Path:
        return self.clients[name].folder / "gate.seen"

    @property
    def deadline(self) -> float:
        """Seconds for a short training that is not held: as long as loading torch took here, where that is long."""
        took = [re.findall(r"ready to train after ([\d.]+) s", self.log(name)) for name in self.names]
        return max(6.0, *(float(found[-1]) for found in took))

    def hold(self, *names: str) -> None:
        """Let their next training last until `let_go`."""
        for name in names:
            self.seen(name).unlink(missing_ok=True)
            self.gate(name).touch()

    def let_go(self, *names: str) -> None:
        for name in names:
            self.gate(name).unlink(missing_ok=True)
            self.seen(name).unlink(missing_ok=True)

    def trained(self, run: Path, *names: str, since: int = 0) -> int:
        """Wait until all these hospitals, which are held, train the newest attempt of a run; its number.

        Args:
            since: an attempt that was opened before they were held, whose training may end at any moment.
        """

        newest = 0

        def together() -> bool:
            nonlocal newest
            newest = opened(run)
            if newest <= since or not all(self.seen(name).exists() for name in names):
                return False
            return all(("reserved", newest) in self.spent(name, run) for name in names)

        until(together, f"the training of {', '.join(names)}")
        return newest

    def spent(self, name: str, run: Path, data: str = "gate") -> list[tuple[str, int]]:
        """What the owner's ledger says of a run: (type, attempt)."""
        book = Ledger(self.clients[name].state / "ledger.sqlite", time.time, read_only=True)
        try:
            return [
                (entry["type"], entry["attempt"])
                for entry in book.export()
                if entry.get("run") == run.name and entry["data"] == data and "attempt" in entry
            ]
        finally:
            book.close()

    def log(self, name: str) -> str:
        file = self.clients[name].state / "agent.log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until it is gone."""
        process = self._processes.pop(name)
        process.kill()
        process.wait(10)

    def terminate(self, name: str) -> tuple[int, float]:
        """SIGTERM; exit code and seconds. The caller judges both."""
        process = self._processes.pop(name)
        started = time.monotonic()
        process.terminate()
        return process.wait(60), time.monotonic() - started

    def open(self, task: str, plan: str, *, name: str, server: str = "wait_for_devices = 30.0") -> Path:
        """Write a run file with its initial model and hand it to the server; the run's folder."""
        return self.submit(self.run_file(task, plan, name, server), self.folder / "runs")

    def run_file(self, task: str, plan: str, name: str, server: str = "wait_for_devices = 30.0") -> Path:
        path = self.folder / f"{name}.toml"
        path.write_text(
            f'name = "{name}"\n[task]\nname = "{task}"\n[plan]\n{plan}\n'
            f'[server]\nmodel = "{name}.safetensors"\n{server}\n',
            encoding="utf-8",
        )
        part = load(path, RunConfig).task
        write_model(self.folder / f"{name}.safetensors", initial(part), metadata(part))
        return path

    def model(self, name: str) -> Vector:
        """The initial model of a run file."""
        return read_model(self.folder / f"{name}.safetensors")[0]


def initial(part: TaskPart) -> Vector:
    """A task's model from seed 0."""
    return flatten(registry.build(registry.resolve(TASKS[part.name]), part.settings).model(0))


def released(folder: Path) -> list[RoundReleased]:
    """The rounds of a run that were released so far."""
    return [entry for entry in read(folder) if isinstance(entry, RoundReleased)]


def opened(folder: Path) -> int:
    """The newest attempt of a run; 0 before the first."""
    return max((entry.attempt for entry in read(folder) if isinstance(entry, AttemptOpened)), default=0)
