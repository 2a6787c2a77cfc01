"""A real server: processes, TLS, Flower. Devices are threads that speak the fleet API and answer without training."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedsus.cli import explain
from fedsus.config import RunConfig, loads
from fedsus.encoding.mechanism import FixedPoint
from fedsus.encoding.packing import pack
from fedsus.errors import FedsusError
from fedsus.journal import AttemptOpened, RoundReleased
from fedsus.model_file import metadata, write_model
from fedsus.reporting import read, summary
from fedsus.rounds.messages import decode_request, encode_answer
from fedsus.types import LocalUpdate
from fedsus_server import looping, processes
from fedsus_server.cli import server
from fedsus_server.home import Home, Running

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer, which flwr imports, under a newer click
    from fedsus_client.flower import HEARTBEAT_SECONDS, FleetConnection

PROGRAM = """
import sys
from fedsus.cli import explain
from fedsus_server.cli import server
try:
    server.main(sys.argv[1:], prog_name="fedsus server", standalone_mode=False)
except Exception as error:
    message, code = explain(error)
    print("error:", message, file=sys.stderr)
    sys.exit(code)
"""
RUN = """
name = "test"
[task]
name = "heart"
[plan]
exchange = "clear_sum"
rounds = {rounds}
spare_attempts = 8
deadline = 8.0
cohort = {{ size = 2, minimum = 2 }}
[server]
wait_for_devices = 20.0
"""
DIMENSION = 12
PATIENCE = 120.0

pytestmark = pytest.mark.timeout(400)


def until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    limit = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < limit, f"waited {patience:g} s for {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Called:
    code: int
    text: str


@dataclass
class Served:
    """A server process over a home, and its devices."""

    folder: Path
    process: subprocess.Popen[str] | None = None
    devices: list[AnsweringDevice] = field(default_factory=list)

    @property
    def home(self) -> Home:
        return Home(self.folder / "home")

    @property
    def running(self) -> Running:
        found = self.home.running()
        assert found is not None
        return found

    def start(self, *options: str) -> Running:
        self.process = spawn("start", "--home", str(self.home.folder), "--port", "0", *options)
        until(lambda: self.home.running() is not None or self.process.poll() is not None, "the server")
        return self.running

    def call(self, *arguments: str) -> Called:
        """A command in this process: starting another costs a second."""
        result = CliRunner().invoke(server, [*arguments, "--home", str(self.home.folder)], standalone_mode=False)
        if result.exception is None:
            return Called(0, result.output)
        assert isinstance(result.exception, Exception)
        message, code = explain(result.exception)
        return Called(code, message)

    def tree(self) -> list[int]:
        """The groups of the SuperLink and of what it started."""
        settings = json.loads(self.home.settings.read_text(encoding="utf-8"))
        assert settings["parent"] == self.running.pid
        superexec = int(self.home.superexec.read_text(encoding="ascii"))
        return [parent_of(superexec), superexec]

    def stop(self) -> None:
        for device in self.devices:
            device.stop.set()
        if self.process is not None:
            self.process.terminate()
            self.process.communicate(timeout=PATIENCE)
        # Only now: the server may hold their last request for a while.
        for device in self.devices:
            device.thread.join(PATIENCE)

    def connect(self, name: str) -> AnsweringDevice:
        key = ec.generate_private_key(ec.SECP384R1())
        public = self.folder / f"{name}.pub"
        public.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        )
        added = self.call("devices", "add", name, str(public))
        assert added.code == 0, added.text
        device = AnsweringDevice(self, key)
        self.devices.append(device)
        return device


class AnsweringDevice:
    """Answers each request with a pull of the model towards 1, and connects again whenever it must."""

    def __init__(self, served: Served, key: ec.EllipticCurvePrivateKey) -> None:
        self.stop, self.connected = threading.Event(), threading.Event()
        self._served, self._key = served, key
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while not self.stop.wait(0.05):
            running = self._served.home.running()
            if running is None:
                continue
            connection = FleetConnection(f"127.0.0.1:{running.port}", running.ca, self._key, time.time)
            with contextlib.suppress(FedsusError):
                connection.connect()
                self.connected.set()
                self._serve(connection)
            connection.close()

    def _serve(self, connection: FleetConnection) -> None:
        heard = time.monotonic()
        while not self.stop.wait(0.02):
            if time.monotonic() - heard > 0.4 * HEARTBEAT_SECONDS:  # else it does not count as connected after a while
                connection.heartbeat()
                heard = time.monotonic()
            incoming = connection.receive()
            if incoming is None:
                continue
            # A round loop that was killed while it sent leaves an envelope without its payload.
            limit = time.monotonic() + 2
            while (body := connection.fetch(incoming)) is None and time.monotonic() < limit:
                self.stop.wait(0.01)
            if body is not None:
                connection.reply(incoming, answer(body))
            connection.confirm(incoming)


def answer(raw: bytes) -> bytes:
    request = decode_request(raw)
    mechanism = FixedPoint(request.plan)
    delta = (0.25 * (1 - request.model)).astype(np.float32)
    update = LocalUpdate(delta, 2.0, np.zeros(0), 0, None)
    return encode_answer(pack(mechanism.encode(update, None), mechanism.bits))  # type: ignore[arg-type]


def spawn(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def parent_of(pid: int) -> int:
    found = subprocess.run(["ps", "-o", "ppid=", "-p", str(pid)], capture_output=True, text=True, check=True)
    return int(found.stdout)


def run_file(folder: Path, rounds: int) -> Path:
    path = folder / "run.toml"
    path.write_text(RUN.format(rounds=rounds), encoding="utf-8")
    config = loads(path.read_text(encoding="utf-8"), RunConfig)
    write_model(folder / "model.safetensors", np.zeros(DIMENSION, np.float32), metadata(config.task))
    return path


def released(folder: Path) -> int:
    return sum(isinstance(entry, RoundReleased) for entry in read(folder))


def health_of(running: Running) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{running.health_port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    one = Served(tmp_path_factory.mktemp("served"))
    try:
        one.start()
        yield one
    finally:
        one.stop()


def test_the_network_sees_the_devices_paths_and_nothing_else(served: Served) -> None:
    running = served.running
    body, headers = b"", {"content-type": "application/protobuf"}
    outside = f"https://127.0.0.1:{running.port}"
    closed = [
        "/v1/control/list-runs",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/v1/fleet/get-fab",
        "/v1/fleet/get-run",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/docs",
        "/openapi.json",
        "/health",
    ]
    with httpx.Client(verify=ssl.create_default_context(cafile=running.ca), trust_env=False) as client:
        assert {path: client.post(outside + path, content=body, headers=headers).status_code for path in closed} == (
            dict.fromkeys(closed, 404)
        )
        assert client.post(f"{outside}/v1/fleet/pull-messages", content=body, headers=headers).status_code == 401
        inside = f"http://127.0.0.1:{running.loopback_port}/v1/control/list-runs"
        assert client.post(inside, content=body, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "line",
    [
        "POST /v1/fleet/../control/list-runs HTTP/1.1",
        "POST /v1/fleet/%2e%2e/control/list-runs HTTP/1.1",
        "POST /v1%2ffleet%2f..%2fcontrol/list-runs HTTP/1.1",
        "POST //v1/control/list-runs HTTP/1.1",
        "POST /v1//fleet/pull-messages HTTP/1.1",
        "POST /v1/fleet/pull-messages/ HTTP/1.1",
        "POST /V1/FLEET/pull-messages HTTP/1.1",
        "POST /v1/fleet/get%2dfab HTTP/1.1",
        "POST http://127.0.0.1/v1/control/list-runs HTTP/1.1",
        "GET /v1/fleet/pull-messages HTTP/1.1",
        "PUT /v1/fleet/pull-messages HTTP/1.1",
        "POST /v1/control/list-runs?x=/v1/fleet/pull-messages HTTP/1.0",
    ],
)
def test_no_spelling_of_a_path_gets_around_the_gateway(served: Served, line: str) -> None:
    running = served.running
    context = ssl.create_default_context(cafile=running.ca)
    head = f"{line}\r\nHost: 127.0.0.1\r\nContent-Type: application/protobuf\r\nContent-Length: 0\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", running.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as stream,
    ):
        stream.sendall(head.encode("ascii"))
        assert b" 404 " in stream.recv(4096).split(b"\r\n")[0]


def test_device_names_and_keys_are_taken_once(served: Served, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    one = tmp_path / "one.pub"
    one.write_bytes(key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    assert served.call("devices", "add", "taken", str(one)).code == 0
    for name, reason in (("taken", "'taken' is taken"), ("other", "this key is taken by device 'taken'")):
        again = served.call("devices", "add", name, str(one))
        assert (again.code, reason in again.text) == (2, True), again.text
    assert "taken" in served.call("devices", "list").text
    assert served.call("devices", "remove", "taken").code == 0
    assert served.call("devices", "remove", "taken").code == 2


def test_a_second_server_over_the_same_home_is_refused(served: Served) -> None:
    second = served.call("start", "--port", "0")
    assert second.code == 2
    assert f"process {served.running.pid}" in second.text


def test_a_run_goes_on_after_its_round_loop_and_then_the_superlink_are_killed(served: Served, tmp_path: Path) -> None:
    for name in ("north", "south"):
        served.connect(name)
    started = served.call("run", str(run_file(tmp_path, rounds=12)), "--runs", str(tmp_path / "runs"), "--detach")
    assert started.code == 0, started.text
    (folder,) = (tmp_path / "runs").iterdir()
    until(lambda: released(folder) >= 2, "two rounds")
    loop = looping.of(folder)
    assert loop is not None
    assert loop.alive
    os.kill(loop.pid, signal.SIGKILL)
    (submitted,) = served.home.active()
    until(lambda: served.home.active()[0].flower_run != submitted.flower_run, "a new submission")
    seen = released(folder)
    until(lambda: released(folder) > seen, "a round after the resume")

    superlink, superexec = served.tree()
    os.kill(superlink, signal.SIGKILL)
    until(lambda: health_of(served.running) == health_pb2.HealthCheckResponse.NOT_SERVING, "NOT_SERVING")
    until(lambda: health_of(served.running) == health_pb2.HealthCheckResponse.SERVING, "SERVING")
    assert not processes.group_alive(superexec)
    assert served.tree()[0] != superlink
    until(lambda: summary(folder).closed is not None, "the end of the run")
    found = summary(folder)
    assert (found.status, len(found.rounds)) == ("completed", 12)
    attempts = [entry.attempt for entry in read(folder) if isinstance(entry, AttemptOpened)]
    assert attempts == list(range(1, found.attempts + 1))
    followed = served.call("follow", str(folder))
    assert followed.code == 0, followed.text
    assert "round 12/12  clients 2/2" in followed.text


def test_stop_closes_a_run_for_good(served: Served, tmp_path: Path) -> None:
    path = run_file(tmp_path, rounds=1000)
    runs = ("--runs", str(tmp_path / "runs"))
    assert served.call("run", str(path), "--detach", *runs).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    until(lambda: released(folder) >= 1, "a round")
    loop = looping.of(folder)
    assert loop is not None
    stopped = served.call("stop", folder.name[:-3], *runs)
    assert stopped.code == 0, stopped.text
    assert summary(folder).status == "stopped"
    assert not loop.alive
    assert served.home.active() == []
    again = served.call("run", "--resume", folder.name, *runs)
    assert (again.code, "is stopped" in again.text) == (2, True), again.text


def test_ctrl_c_leaves_a_followed_run_running(served: Served, tmp_path: Path) -> None:
    path = run_file(tmp_path, rounds=1000)
    home, runs = ("--home", str(served.home.folder)), ("--runs", str(tmp_path / "runs"))
    following = spawn("run", str(path), *home, *runs)
    try:
        until(lambda: any((tmp_path / "runs").glob("*")), "the run's folder")
        (folder,) = (tmp_path / "runs").iterdir()
        until(lambda: released(folder) >= 1, "a round")
        following.send_signal(signal.SIGINT)
        told, _ = following.communicate(timeout=PATIENCE)
    finally:
        following.kill()
        following.wait()
    assert following.returncode == 0, told
    assert f"run {folder.name} goes on" in told
    assert "follow" in told
    assert "stop" in told
    seen = released(folder)
    until(lambda: released(folder) > seen, "another round")
    assert served.call("stop", folder.name, *runs).code == 0


def test_sigterm_ends_everything_and_the_run_goes_on_at_the_next_start(served: Served, tmp_path: Path) -> None:
    path = run_file(tmp_path, rounds=8)
    assert served.call("run", str(path), "--detach", "--runs", str(tmp_path / "runs")).code == 0
    (folder,) = (tmp_path / "runs").iterdir()
    until(lambda: released(folder) >= 1, "a round")
    loop = looping.of(folder)
    groups = served.tree()
    assert loop is not None
    assert served.process is not None
    served.process.terminate()
    served.process.communicate(timeout=PATIENCE)
    assert served.process.returncode == 0
    assert not loop.alive
    until(lambda: not any(map(processes.group_alive, groups)), "the end of what was started")
    assert served.home.running() is None
    down = served.call("devices", "list")
    assert (down.code, "fedsus server start" in down.text) == (2, True)
    assert summary(folder).closed is None
    served.start()
    until(lambda: summary(folder).status == "completed", "the end of the run")
    assert len(summary(folder).rounds) == 8
