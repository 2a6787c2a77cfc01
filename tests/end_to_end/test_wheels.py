"""What a device gets: the two wheels alone, outside the checkout, run the agent, bring no server and open no port."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from receipts import private_run, roster

from fedsus.secagg.roster import encode

ROOT = Path(__file__).resolve().parents[2]
CLOSED = "server: the server cannot be reached"
ALONE = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four wheels and the constraints file for devices."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, str(ROOT / "scripts" / "wheels.py"), str(folder), cwd=folder)
    return folder


@pytest.fixture(scope="module", params=["linked", pytest.param("installed", marks=pytest.mark.slow)])
def device(request: pytest.FixtureRequest, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean environment with `fedsus` and `fedsus-client`; returns its bin folder.

    ``linked`` takes the locked dependencies of a device from this environment by symbolic link, one by one, in
    seconds; ``installed`` lets pip fetch and install them.
    """
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    own = [str(next(wheels.glob(f"{name}-*.whl"))) for name in ("fedsus", "fedsus_client")]
    constraints = wheels / "device-constraints.txt"
    if request.param == "linked":
        site = Path(run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        link_distributions(locked(constraints), site)
        run(*pip, "install", "--quiet", "--no-deps", "--no-index", *own)
    else:
        run(*pip, "install", "--quiet", "-c", str(constraints), *own)
    run(*pip, "check")
    return folder / "bin"


def run(*command: str, cwd: Path | None = None) -> str:
    """Standard output of a command that succeeds; where it does not, the failure shows what it said."""
    done = subprocess.run(command, cwd=cwd, env=ALONE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def locked(constraints: Path) -> list[str]:
    """Names in the constraints file, the two own ones left out."""
    names = re.findall(r"^([A-Za-z0-9._-]+)==", constraints.read_text(), re.MULTILINE)
    return [name for name in names if not name.startswith("fedsus")]


def link_distributions(names: list[str], site: Path) -> None:
    """Link what belongs to each distribution, and nothing else, into the folder ``site``."""
    for name in names:
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files if file.parts[0] not in {"..", "__pycache__"}}:
            target = site / top
            if not target.exists():
                target.symlink_to(Path(str(distribution(name).locate_file(top))))


def test_each_wheel_holds_its_own_package_alone(wheels: Path) -> None:
    found = {}
    for wheel in wheels.glob("*.whl"):
        names = zipfile.ZipFile(wheel).namelist()
        found[wheel.name.partition("-")[0]] = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert found == {name: {name} for name in ("fedsus", "fedsus_client", "fedsus_server", "fedsus_simulations")}


def test_the_wheels_hold_their_data_and_licence(wheels: Path) -> None:
    names = zipfile.ZipFile(next(wheels.glob("fedsus-*.whl"))).namelist()
    assert "fedsus/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    templates = ("report.html.j2", "report.css", "report.md.j2", "model-card.md.j2")
    assert {f"fedsus/reporting/pages/templates/{name}" for name in templates} <= set(names)
    client = zipfile.ZipFile(next(wheels.glob("fedsus_client-*.whl"))).namelist()
    assert {"fedsus_client/files/agent.toml", "fedsus_client/files/policy.toml"} <= set(client)


def test_constraints_for_devices_hold_no_server_and_no_tools(wheels: Path) -> None:
    text = (wheels / "device-constraints.txt").read_text()
    assert {"torch", "opacus", "flwr", "httpx"} <= set(locked(wheels / "device-constraints.txt"))
    for name in ("fedsus-server", "fedsus-simulations", "matplotlib", "pytest", "ruff", "mypy", "hatchling"):
        assert f"\n{name}==" not in text


def test_no_server_code_is_there(device: Path, tmp_path: Path) -> None:
    program = "import importlib.util as u; print([n for n in {!r} if u.find_spec(n)])"
    names = ["fedsus_server", "fedsus_simulations", "fedsus_client", "fedsus"]
    shown = run(str(device / "python"), "-c", program.format(names), cwd=tmp_path)
    assert shown.strip() == "['fedsus_client', 'fedsus']"


def test_the_command_knows_what_is_missing(device: Path, tmp_path: Path) -> None:
    shown = run(str(device / "fedsus"), "--help", cwd=tmp_path)
    assert re.search(r"^  client ", shown, re.MULTILINE)
    assert not re.search(r"^  (server|demo|bench) ", shown, re.MULTILINE)
    command = [device / "fedsus", "server", "start"]
    done = subprocess.run(command, cwd=tmp_path, env=ALONE, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "'fedsus server' comes with fedsus-server, which is not installed here" in done.stderr


def test_a_receipt_verifies_where_only_wheels_are(device: Path, tmp_path: Path) -> None:
    """And what was changed does not."""
    run_dir = private_run(tmp_path / "run").folder
    (run_dir / "receipt.json").write_bytes(private_run(run_dir).receipt())
    (tmp_path / "roster.json").write_bytes(encode(roster()))
    command = [str(device / "fedsus"), "receipt", "verify", "run", "--roster", "roster.json"]
    assert run(*command, cwd=tmp_path).startswith("holds: run masked-1, completed")
    journal = (run_dir / "journal.jsonl").read_bytes()
    (run_dir / "journal.jsonl").write_bytes(journal.replace(b'"refused":1', b'"refused":0', 1))
    done = subprocess.run(command, cwd=tmp_path, env=ALONE, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not follow the line before: one of the two was changed" in done.stderr


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is ours and refuses connections, for as long as the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_the_agent_starts_waits_for_its_server_and_listens_on_nothing(
    device: Path, tmp_path: Path, closed_port: int
) -> None:
    fedsus = str(device / "fedsus")
    run(fedsus, "client", "enroll", "--server", f"localhost:{closed_port}", cwd=tmp_path)
    configuration = tmp_path / "agent.toml"
    configuration.write_text(re.sub(r"(?m)^ca = .*\n", "", configuration.read_text()))
    process = subprocess.Popen(
        [fedsus, "client", "start"],
        cwd=tmp_path,
        env=ALONE,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        said = next((line for line in lines if CLOSED in line), "")
        assert "next try in" in said
        assert listening(process.pid) == set()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_the_check_for_listening_ports_finds_one() -> None:
    before = listening(os.getpid())  # of other tests in this process
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert listening(os.getpid()) - before == {server.getsockname()[1]}


def listening(pid: int) -> set[int]:
    """TCP ports on which the process or its children listen, from the kernel's tables (Linux: proc(5))."""
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets(pid):
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def sockets(pid: int) -> set[str]:
    """Inodes of the sockets that the process and its children hold open."""
    family = [pid]
    for parent in family:
        for task in Path(f"/proc/{parent}/task").iterdir():
            family += [int(child) for child in (task / "children").read_text().split()]
    links = [
        str(link.readlink()) for member in family for link in Path(f"/proc/{member}/fd").iterdir() if link.is_symlink()
    ]
    return {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:")}
