"""A running federation for tests: a real server and three seeded agents, each with the heart task and a gated one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from recorder import Recorder

from fedsus.config import RunConfig, load
from fedsus.journal import RoundReleased
from fedsus.learning.parameters import flatten
from fedsus.model_file import metadata, read_model, write_model
from fedsus.plan import TaskPart
from fedsus.reporting import read
from fedsus.tasks import heart, registry
from fedsus.types import Vector
from fedsus_client import identity
from fedsus_client.status import Status, read_status, running
from fedsus_server import devices
from fedsus_server.supervisor import claim_port
from fedsus_simulations.whole.federation import ClientFiles, LocalFederation

SUPPORT = Path(__file__).resolve().parent
HOSPITALS = ("cleveland", "hungary", "va")
RECORDED = "hungary"
DATA = Path(heart.__file__).parent / "data" / "heart"
TASKS = {"heart": "heart", "gated": "gated:Gated", "reserved": "gated:Gated"}
PATIENCE = 60.0

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
        time.sleep(0.02)


class Sites(LocalFederation):
    """A `LocalFederation` on one port, so that its agents find the server again after a restart."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            environment={"OMP_NUM_THREADS": "1"},
            agent_command=(sys.executable, "-W", "ignore", str(SUPPORT / "seeded_agent.py")),
        )
        self.port = claim_port("127.0.0.1", 0)
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

    def start(self) -> None:
        """Server, keys, agents."""
        self.serve()
        for name in HOSPITALS:
            self.add(name)
        recorded = self.clients[RECORDED].agent
        text = recorded.read_text(encoding="utf-8")
        recorded.write_text(text.replace(f":{self.port}", f":{self.recorder.port}"), encoding="utf-8")
        self.register()
        self.restore()

    def serve(self) -> None:
        self.start_server("--port", str(self.port))
        self.wait_for_server()

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
        """All hospitals' agents run, are connected and ready to train, with open gates."""
        for name in HOSPITALS:
            self.gate(name).unlink(missing_ok=True)
            self.seen(name).unlink(missing_ok=True)
            if name not in self._processes or self._processes[name].poll() is not None:
                self.start_agent(name)
        for name in HOSPITALS:
            until(lambda name=name: self.connected(name), f"agent {name}")  # type: ignore[misc]

    def start_agent(self, name: str) -> subprocess.Popen[bytes]:
        self._before[name] = len(self.log(name))
        return super().start_agent(name)

    def connected(self, name: str) -> bool:
        if "INFO ready to train" not in self.log(name)[self._before[name] :]:
            return False
        status = self.status(name)
        return status is not None and running(status) and status.state in ("idle", "training")

    def status(self, name: str) -> Status | None:
        return read_status(self.clients[name].state)

    def gate(self, name: str) -> Path:
        return self.clients[name].folder / "gate"

    def seen(self, name: str) -> Path:
        return self.clients[name].folder / "gate.seen"

    def log(self, name: str) -> str:
        file = self.clients[name].state / "agent.log"
        return file.read_text(encoding="utf-8") if file.exists() else ""

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
        return process.wait(20), time.monotonic() - started

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
