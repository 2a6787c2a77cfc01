"""`fedsus client check` against real TLS servers: each fault is told apart and comes with a fix."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from authorities import DAY, NOW, certificate, pem, secured
from charges import charge, policy

from fedsus.config import loads
from fedsus.owner.ledger import Ledger
from fedsus.owner.policy import Policy
from fedsus_client import identity
from fedsus_client.config import ServerPart
from fedsus_client.findings import Finding
from fedsus_client.preflight import preflight, sense
from fedsus_client.probe import authority, probe
from fedsus_client.status import Status, process_start, write_status

# Flower's command line imports names that click is going to drop.
pytestmark = pytest.mark.filterwarnings("ignore:.*will be removed in Click:DeprecationWarning")

GOOD = """
[privacy]
epsilon = 3.0
delta = 1e-5
[exchange]
clear_sum = true
[tasks.heart]
data = "clinic"
"""


def now() -> float:
    return NOW.timestamp()


class Handler(BaseHTTPRequestHandler):
    """Answers as a gateway that does not know the node's key, with its own clock."""

    late = 0.0

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.do_GET()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(now() - self.late)

    def log_message(self, format: str, *args: object) -> None:
        pass


Serve = Callable[..., ServerPart]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a TLS server on a free port; gives what agent.toml would say of it."""
    running = []

    def start(
        name: str = "localhost", end: datetime = NOW + DAY, trusted: bool = True, tls: bool = True, late: float = 0.0
    ) -> ServerPart:
        root = certificate("authority", NOW + 2 * DAY, None)
        context = secured(tmp_path / "server.pem", certificate(name, end, root))
        other = certificate("authority", NOW + 2 * DAY, None)
        (tmp_path / "ca.pem").write_bytes(pem(root[0] if trusted else other[0]))
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Late", (Handler,), {"late": late}))
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # handshakes that fail are the test
        if tls:
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return ServerPart(address=f"localhost:{server.server_address[1]}", ca=tmp_path / "ca.pem")

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def graded(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.grade for finding in findings}


def test_a_good_server(serve: Serve) -> None:
    part = serve()
    assert graded(list(probe(part, now))) == {"server": "fine", "tls": "fine", "clock": "fine"}
    assert authority(part.ca, now).grade == "fine"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"trusted": False}, "another authority"),
        ({"end": NOW - DAY}, "has expired"),
        ({"name": "elsewhere.example.org"}, "not for 'localhost'"),
        ({"tls": False}, "WRONG_VERSION_NUMBER"),
    ],
)
def test_faults_of_tls_are_told_apart(serve: Serve, fault: dict[str, object], words: str) -> None:
    found = list(probe(serve(**fault), now))
    assert graded(found) == {"server": "fine", "tls": "fail"}
    assert words in found[-1].text
    assert found[-1].fix


@pytest.mark.parametrize(("late", "grade"), [(0, "fine"), (100, "warn"), (-100, "warn"), (400, "fail"), (-400, "fail")])
def test_the_clock_is_compared(serve: Serve, late: float, grade: str) -> None:
    found = list(probe(serve(late=late), now))[-1]
    assert (found.name, found.grade) == ("clock", grade)
    if late:
        assert ("ahead of" if late > 0 else "behind") in found.text


def test_no_server_and_no_host(serve: Serve) -> None:
    import socket

    with socket.socket() as taken:  # bound, not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        found = list(probe(ServerPart(address=f"127.0.0.1:{taken.getsockname()[1]}"), now))
    assert graded(found) == {"server": "fail"}
    assert "Connection refused" in found[0].text


def test_the_file_of_the_authority(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    assert "no such file" in authority(file, now).text
    file.write_text("nothing of the kind")
    assert "no PEM certificate" in authority(file, now).text
    file.write_bytes(pem(certificate("authority", NOW - DAY, None)[0]))
    assert "expired on" in authority(file, now).text
    assert authority(None, now).grade == "fine"


@pytest.mark.parametrize(
    ("old", "new", "grade", "words"),
    [
        ("", "", "fine", "epsilon 3"),
        ("clear_sum = true", "", "fine", "epsilon 3"),
        ("clear_sum = true", "secure_sum = false", "fail", "no exchange is granted"),
        ("", "", "warn", "clear_sum is granted: the server may see"),
        ('[tasks.heart]\ndata = "clinic"', "", "fail", "no task"),
        ("epsilon = 3.0", "", "fail", "no privacy budget"),
        ("delta = 1e-5", "without_dp = true", "fail", "both"),
        ("epsilon = 3.0", "epsilon = 50.0", "warn", "promises little"),
        ("1e-5", "0.01", "warn", "delta 0.01"),
        ("epsilon = 3.0", "epsilon = 3.0\ntrusted = ['server']", "warn", "epsilon may be infinite against it"),
        (
            "epsilon = 3.0",
            "epsilon = 3.0\nunits = ['patient', 'example']",
            "fail",
            "patient against server: the cap is 3",
        ),
        ("epsilon = 3.0", "epsilon = 3.0\nunits = ['patient', 'example']\nrows_per_patient = 4", "fine", "epsilon 3"),
        ("epsilon = 3.0", "epsilon = 3.0\nunits = ['client']", "fail", "no run has units client with placements local"),
        (
            "epsilon = 3.0",
            "epsilon = 3.0\nunits = ['client']\nplacements = ['central', 'distributed']",
            "warn",
            "unit client, placement central, are always refused: data 'clinic', client against server",
        ),
        (
            "epsilon = 3.0",
            "epsilon = 3.0\nunits = ['client']\nplacements = ['central']\ntrusted = ['server']",
            "fine",
            "epsilon 3",
        ),
        ("epsilon = 3.0", "epsilon = 3.0\nunits = ['example', 'client']", "fail", "unit example, placement local, are"),
        (
            "epsilon = 3.0",
            "epsilon = 3.0\ncaps = [{data = 'clinic', epsilon = 0.0, delta = 1e-5}]",
            "fail",
            "the cap is 0",
        ),
        ("epsilon = 3.0", "epsilon = 3.0\nwithout_dp = true", "warn", "without differential privacy"),
        ("[exchange]", "[cohort]\nminimum = 1\n[exchange]", "warn", "cohort minimum 1"),
    ],
)
def test_the_sense_of_a_policy(old: str, new: str, grade: str, words: str) -> None:
    found = list(sense(loads(GOOD.replace(old, new), Policy)))
    assert any(finding.grade == grade and words in finding.text for finding in found)
    assert any(finding.grade == "fine" for finding in found) == all(finding.grade != "fail" for finding in found)


TASK = """
from pydantic import BaseModel, ConfigDict
from fedsus.tasks.checks import Finding
from fedsus.errors import DataError

class Toy:
    class Settings(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")
    bounds = {"accuracy": (0.0, 1.0)}
    def __init__(self, settings): pass
    def model(self, seed): ...
    def loss(self, model, batch): ...
    def measure(self, model, batch): ...
    def load(self, source):
        import torch
        from fedsus.tasks.task import Shard
        return Shard((torch.zeros(30, 2),), (torch.zeros(10, 2),))
    def check(self, source, batch_size):
        text = source.path.read_text()
        assert batch_size > 0
        return [Finding("classes", severity, f"a {severity} finding") for severity in text.split()]
"""


@pytest.fixture
def device(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything in order, but that the server does not know the key."""
    (tmp_path / "toy_preflight.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    part = serve()
    (tmp_path / "agent.toml").write_text(
        f'[server]\naddress = "{part.address}"\nca = "ca.pem"\n'
        '[tasks]\nheart = "toy_preflight:Toy"\n[data.clinic]\npath = "rows"\n'
    )
    (tmp_path / "policy.toml").write_text(GOOD)
    (tmp_path / "rows").write_text("warn")
    identity.create(tmp_path / "node.key")
    return tmp_path


def look(device: Path) -> list[Finding]:
    return list(preflight(device / "agent.toml", device / "policy.toml", now))


def failures(device: Path) -> dict[str, str]:
    found = {finding.name: str(finding) for finding in look(device) if finding.grade == "fail"}
    assert all(" -> " in line and "\n" not in line for line in found.values())
    return found


def test_a_device_in_order_but_not_registered(device: Path) -> None:
    found = look(device)
    assert failures(device).keys() == {"registration"}
    assert "HTTP 404" in failures(device)["registration"]
    names = [finding.name for finding in found]
    for name in ("agent", "policy", "state", "key", "ledger", "authority", "server", "tls", "clock", "task 'heart'"):
        assert name in names
    assert [finding.grade for finding in found if finding.name == "data 'clinic'"] == ["warn", "fine"]
    assert "30 rows to train on, 10 held out" in str(found[-1])


def test_looking_changes_nothing(device: Path) -> None:
    def tree() -> set[str]:
        return {str(file) for file in device.rglob("*") if "__pycache__" not in file.parts}

    before = tree()
    look(device)
    assert tree() == before


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda device: (device / "agent.toml").write_text("[server"), "agent"),
        (lambda device: (device / "policy.toml").unlink(), "policy"),
        (lambda device: (device / "node.key").chmod(0o644), "key"),
        (lambda device: (device / "node.key.pub").write_text("ecdsa-sha2-nistp384 AAAA"), "key"),
        (lambda device: (device / "ca.pem").unlink(), "authority"),
        (lambda device: (device / "rows").write_text("refuse"), "data 'clinic'"),
        (lambda device: (device / "toy_preflight.py").write_text("import nothing_here"), "task 'heart'"),
        (lambda device: (device / "policy.toml").write_text(GOOD.replace("tasks.heart", "tasks.lung")), "task 'lung'"),
        (lambda device: (device / "policy.toml").write_text(GOOD.replace("clinic", "ward")), "task 'heart'"),
        (lambda device: _broken_ledger(device / "state" / "ledger.sqlite"), "ledger"),
        (lambda device: (device / "state").write_text("a file"), "state"),
    ],
)
def test_each_fault_is_found(
    device: Path, spoil: Callable[[Path], object], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "toy_preflight", raising=False)
    spoil(device)
    assert name in failures(device)


def _broken_ledger(path: Path) -> None:
    ledger = Ledger(path, now)
    ledger.open_run("clinic", "r1", charge(), policy())
    ledger.close()
    path.write_bytes(b"")


def test_what_is_left_is_told_and_that_nothing_is(device: Path) -> None:
    ledger = Ledger(device / "state" / "ledger.sqlite", now)
    granted = loads(GOOD, Policy).privacy
    small = charge(noise=11.0)
    ledger.open_run("clinic", "r1", small, granted)
    ledger.reserve("clinic", "r1", 1, 1, b"", small, granted)
    (found,) = [finding for finding in look(device) if finding.name == "ledger"]
    assert found.grade == "fine"
    assert "data 'clinic', example against clients: 9" in found.text
    assert "% of epsilon 3 (delta 1e-05) is left" in found.text
    (device / "policy.toml").write_text(GOOD.replace("3.0", "0.1"))
    (found,) = [finding for finding in look(device) if finding.name == "ledger"]
    assert (found.grade, "nothing is left of 'clinic'" in found.fix) == ("warn", True)
    ledger.close()


@pytest.mark.parametrize(
    ("state", "detail", "failing"), [("connecting", "it refuses the key", True), ("idle", "", False)]
)
def test_a_running_agent_that_is_not_connected_fails(device: Path, state: str, detail: str, failing: bool) -> None:
    mine = Status(
        state=state, detail=detail, server="s:1", pid=os.getpid(), started=process_start(os.getpid()) or "", updated=0.0
    )
    write_status(device / "state", mine)
    failed = failures(device)
    assert ("registration" in failed) == failing
    if failing:
        assert "the running agent is connecting: it refuses the key -> " in failed["registration"]
        assert "node.key.pub" in failed["registration"]
