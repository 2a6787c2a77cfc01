"""The server's folder: one server each, honest about what runs, and ports, disks and health."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fedsus.errors import EnvironmentFault
from fedsus_server import processes, supervisor
from fedsus_server.certificates import Certificates
from fedsus_server.flower.superlink import SuperLinkSettings
from fedsus_server.health import HealthServer, Probe
from fedsus_server.home import ActiveRun, Home, Running
from fedsus_server.ports import held


@pytest.fixture
def home(tmp_path: Path) -> Home:
    one = Home(tmp_path / "home")
    one.make()
    return one


def running(pid: int, start: str | None) -> Running:
    return Running(pid, start, "127.0.0.1", 8443, 1, 2, None, "127.0.0.1:8443", "0.1.0")


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_devices_answers_are_not_readable_for_others_in_a_folder_that_was_there(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "state.db").touch(mode=0o644)
    home = Home(tmp_path)
    home.make()
    assert home.database.stat().st_mode & 0o777 == 0o600, "SQLite gives its other files the same mode"


def test_a_server_that_is_starting_is_not_told_to_be_started(home: Home) -> None:
    with pytest.raises(EnvironmentFault, match=r"^no server runs over .*; start it: fedsus server start"):
        home.connectable()
    with home.lock(), pytest.raises(EnvironmentFault, match=r"^the server over .* is starting"):
        home.connectable()
    with pytest.raises(EnvironmentFault, match=r"^no server runs over"):
        home.connectable()


def test_one_server_a_home(home: Home) -> None:
    with home.lock():
        home.write_running(running(os.getpid(), processes.started(os.getpid())))
        program = (
            "import sys; from pathlib import Path; from fedsus_server.home import Home\n"
            "try:\n  with Home(Path(sys.argv[1])).lock(): pass\nexcept Exception as e: print(e); sys.exit(3)"
        )
        command = [sys.executable, "-c", program, str(home.folder)]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 3, second.stderr
        assert f"process {os.getpid()}, 127.0.0.1:8443" in second.stdout
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_dead_server_is_not_running_even_if_its_number_was_given_to_another(home: Home) -> None:
    assert home.running() is None
    mine = running(os.getpid(), processes.started(os.getpid()))
    home.write_running(mine)
    assert home.running() == mine
    home.write_running(replace(mine, start="another start"))
    assert home.running() is None
    with pytest.raises(EnvironmentFault, match="fedsus server start --home"):
        home.connectable()
    (home.folder / "running.json").write_text("{broken", encoding="ascii")
    assert home.running() is None


def test_a_process_that_nobody_waited_for_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    start = processes.started(child.pid)
    assert processes.alive(child.pid, start)
    assert processes.group_alive(child.pid)
    processes.end(child.pid, start, patience=5)
    assert not processes.alive(child.pid, start)
    assert not processes.group_alive(child.pid)
    child.communicate()


def test_active_runs_are_remembered_until_forgotten(home: Home) -> None:
    home.activate(ActiveRun("b", "/runs/b"))
    home.activate(ActiveRun("a", "/runs/a", tries=1))
    home.activate(ActiveRun("a", "/runs/a", tries=2))
    assert [(run.run, run.tries) for run in home.active()] == [("a", 2), ("b", 0)]
    home.forget("a")
    home.forget("a")
    assert [run.run for run in home.active()] == ["b"]


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="ascii")
    with pytest.raises(EnvironmentFault, match="choose another with --home"):
        Home(tmp_path / "file" / "home").make()


def test_a_taken_port_is_named_with_the_way_out(taken: int) -> None:
    for host, port, message in (
        ("127.0.0.1", taken, f"port {taken} on 127.0.0.1 is taken.*--port"),
        ("192.0.2.1", 0, "cannot listen on 192.0.2.1"),
    ):
        with pytest.raises(EnvironmentFault, match=message), held(host, port):
            pass
    with pytest.raises(EnvironmentFault, match=f"health port {taken} .* taken.*--health-port"):
        HealthServer("127.0.0.1", taken)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port can only be looked at")
def test_a_held_port_is_given_to_nobody_and_can_be_listened_on_again_and_again() -> None:
    with held("127.0.0.1", 0) as port:
        with contextlib.closing(socket.socket()) as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            with (
                socket.create_server(("127.0.0.1", port)) as child,  # with SO_REUSEADDR, as a SuperLink's doors
                socket.create_connection(("127.0.0.1", port)) as device,
                child.accept()[0] as answered,
            ):
                device.sendall(b"x")
                assert answered.recv(1) == b"x"
            with held("127.0.0.1", port) as same:
                assert same == port


def test_a_full_disk_is_told_before_anything_starts(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000_000))
    one = supervisor.Supervisor(home, supervisor.Options(port=0), supervisor.threading.Event())
    with pytest.raises(EnvironmentFault, match="full \\(1 MB left\\)"):
        one.run(lambda running: None)


def test_health_says_what_it_was_told_and_starts_with_not_serving() -> None:
    with HealthServer("127.0.0.1", 0) as server, grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def status() -> int:
            return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=60).status)

        answers = [status()]
        for serving in (True, False):
            server.set(serving=serving)
            answers.append(status())
    kind = health_pb2.HealthCheckResponse
    assert answers == [kind.NOT_SERVING, kind.SERVING, kind.NOT_SERVING]


def test_a_port_without_tls_is_not_serving(taken: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert not Probe("127.0.0.1", free.getsockname()[1], None)()


def test_the_operator_bounds_what_a_device_may_upload(home: Home) -> None:
    files = Certificates(Path("certificate"), Path("key"), None)
    child = supervisor.SuperLink(home, supervisor.Options(max_upload=3), 1, files, 2)
    assert SuperLinkSettings(**child._settings).max_upload == 3 * 2**20  # type: ignore[arg-type]


def test_the_child_phones_nobody_and_finds_this_interpreter_first(home: Home) -> None:
    found = supervisor.environment(home, {"PATH": "/elsewhere", "KEPT": "yes"})
    assert found["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/elsewhere"]
    assert (found["FLWR_TELEMETRY_ENABLED"], found["FLWR_DISABLE_UPDATE_CHECK"], found["KEPT"]) == ("0", "1", "yes")
    assert found["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert found["FLWR_HOME"].startswith(str(home.folder))
