"""The journeys of README.md, run from its own text: commands, files and order are read from the page.

A block names its terminal after ``title=``. What is changed for the test: the port (8443 becomes a free one), the
folder (a copy of examples/heart instead of the clone), and the rounds (3 instead of 10). The pins are pasted by the
test. Every command is bounded; what was started is stopped by process id.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from fedsus.config import load
from fedsus.owner.policy import Policy
from fedsus_client import identity
from fedsus_client.config import load_agent
from fedsus_server.ports import held

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer, which flwr imports, under a newer click
    from fedsus_client.failures import NotAdmitted
    from fedsus_client.flower import FleetConnection

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "heart"
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
RUNS_UNTIL_STOPPED = ("fedsus server start", "fedsus client start")
PATIENCE = 400.0
ROUNDS = 3
CLINICS = {"clinic-a": "cleveland", "clinic-b": "hungary", "clinic-c": "va"}


class Block(NamedTuple):
    """One fenced block: its section, language, terminal (or file name) and text."""

    section: str
    language: str
    title: str
    text: str

    @property
    def lasts(self) -> bool:
        """Whether its last command runs until it is stopped."""
        return self.text.strip().splitlines()[-1].startswith(RUNS_UNTIL_STOPPED)


def blocks() -> list[Block]:
    found, section = [], ""
    pattern = r"^#+ (?P<heading>[^\n]+)$|^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]*)\")?\n(?P<text>.*?)^```$"
    for match in re.finditer(pattern, README, re.MULTILINE | re.DOTALL):
        if match["heading"]:
            section = match["heading"]
        else:
            found.append(Block(section, match["language"], match["title"] or "", match["text"]))
    return found


def of(section: str, *titles: str) -> list[Block]:
    chosen = [block for block in blocks() if block.section.startswith(section) and block.title in titles]
    assert {block.title for block in chosen} == set(titles)
    return chosen


@dataclass
class Machine:
    """A folder that stands for the clone, and terminals in it; each keeps its folder from block to block."""

    clone: Path
    port: int
    terminals: dict[str, Path] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def example(self) -> Path:
        return self.clone / "examples" / "heart"

    def run(self, block: Block, clinic: str = "clinic-a", hospital: str = "cleveland") -> str:
        """Run a block in its terminal; what it printed. A block that lasts is started and left running."""
        text = block.text.replace("8443", str(self.port)).replace("clinic-a", clinic)
        text = text.replace("cleveland.csv", f"{hospital}.csv")
        terminal = f"{block.title.partition(' ')[0]} {clinic}"
        where = self.terminals.get(terminal, self.clone if block.title == "researcher" else self.example)
        output = self.clone / "output.txt"
        if block.lasts:
            self.start(text.replace("fedsus ", "exec fedsus ", 1), where, self.clone / f"{terminal}.txt")
            return ""
        script = f"set -eu\n{text}\npwd >{self.clone / 'pwd.txt'}\n"
        with output.open("wb") as file:
            done = subprocess.run(
                ["bash", "-c", script],
                cwd=where,
                env=environment(),
                input=b"y\n",  # to sign, after a look
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE,
                check=False,
            )
        said = output.read_text(encoding="utf-8")
        assert done.returncode == 0, f"{text}\n{said}\n{self.logs()}"
        self.terminals[terminal] = Path((self.clone / "pwd.txt").read_text(encoding="utf-8").strip())
        return said

    def start(self, text: str, where: Path, log: Path) -> None:
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"set -eu\n{text}"],
                cwd=where,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)

    def logs(self) -> str:
        """The end of what each lasting process said."""
        files = sorted(self.clone.glob("*clinic*.txt"))
        return "\n".join(f"{file.name}: {file.read_text(errors='replace')[-1500:]}" for file in files)

    def stop(self) -> list[int]:
        """SIGTERM to what still runs, agents first; all exit codes, in the order of their start."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return [process.returncode for process in self.processes]


def environment() -> dict[str, str]:
    left_out = {"PYTHONPATH", "FEDSUS_SERVER_HOME"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "160",
    }


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    assert (BIN / "fedsus").exists(), "the journeys need the installed command: make venv"
    (tmp_path / "examples" / "heart").mkdir(parents=True)
    asked = (EXAMPLE / "run.toml").read_text(encoding="utf-8")
    assert "\nrounds = 10\n" in asked
    asked = asked.replace("\nrounds = 10\n", f"\nrounds = {ROUNDS}\n")
    (tmp_path / "examples" / "heart" / "run.toml").write_text(asked, encoding="utf-8")
    with held("127.0.0.1", 0) as port:
        one = Machine(tmp_path, port)
        try:
            yield one
        finally:
            one.stop()


def known(machine: Machine, clinic: str) -> bool:
    """Whether the server lets a clinic's key in."""
    config = load_agent(machine.example / clinic / "agent.toml")
    key, _ = identity.load(config.identity.key)
    connection = FleetConnection(config.server.address, config.server.ca_file, key, time.time)
    try:
        connection.connect()
    except NotAdmitted:
        return False
    finally:
        connection.close()
    return True


def until_up(machine: Machine) -> None:
    limit = time.monotonic() + PATIENCE
    while not (machine.example / ".fedsus" / "server" / "running.json").exists():
        assert machine.processes[0].poll() is None, machine.logs()
        assert time.monotonic() < limit, machine.logs()
        time.sleep(0.05)


@pytest.mark.timeout(900)
def test_a_server_and_clients_as_the_readme_says(machine: Machine) -> None:
    (start,) = of("1.", "server")
    assert start.lasts
    machine.run(start)
    until_up(machine)
    (look,) = of("1.", "operator")
    said = machine.run(look)
    assert f"127.0.0.1:{machine.port}" in said
    assert "parameters, task 'heart'" in said
    for clinic, hospital in CLINICS.items():
        for block in of("2.", "owner", "operator"):
            machine.run(block, clinic, hospital)
    (sign,) = of("2.", "signer")
    _, table, pins = machine.run(sign).partition("[federation]")
    for clinic in CLINICS:
        pin(machine, clinic, table + pins)
    (run,) = of("2.", "operator run")
    said = machine.run(run)
    assert f"round {ROUNDS}/{ROUNDS}" in said, said
    assert (machine.example / "scored.csv").read_text().splitlines()[0].endswith(",score")
    (costs,) = of("2.", "operator costs")
    said = machine.run(costs)
    assert "holds: run heart-" in said
    assert all(name in said for name in ("report.html", "report.md", "model-card.md"))
    (leave,) = of("2.", "owner after")
    said = machine.run(leave)
    assert f"{ROUNDS} answered, 0 refused" in said
    assert f"{ROUNDS} of {ROUNDS + 2}" in said, "attempts used, of those that were charged"
    assert "the agent has stopped" in said
    (forget,) = of("2.", "operator left")
    machine.run(forget)
    assert not known(machine, "clinic-a")
    assert known(machine, "clinic-b")
    assert machine.stop() == [0, 0, 0, 0]


def pin(machine: Machine, clinic: str, table: str) -> None:
    """Paste the pins, install the roster, start the agent."""
    policy = machine.example / clinic / "policy.toml"
    policy.write_text(f"{policy.read_text(encoding='utf-8')}\n{table}", encoding="utf-8")
    first = clinic == "clinic-a"
    for block in of("2.", "owner pinned", "agent"):
        # The check takes seconds, and says the same for each.
        text = block.text if first else block.text.replace("fedsus client check", "")
        said = machine.run(block._replace(text=text), clinic)
        if "fedsus client roster" in text:
            assert f"this device is '{clinic}'" in said
        if "fedsus client check" in text:
            assert "✗" not in said
            assert "the server knows this device's key" in said


@pytest.mark.timeout(900)
def test_a_simulation_as_the_readme_says(machine: Machine) -> None:
    (simulate,) = of("3.", "researcher")
    said = machine.run(simulate)
    assert "completed" in said
    (folder,) = (machine.clone / "runs").iterdir()
    assert {"journal.jsonl", "rounds.png"} <= {path.name for path in folder.iterdir()}


def test_no_block_of_the_journeys_is_left_out() -> None:
    titles = {(block.section[:2], block.title) for block in blocks() if re.match(r"\d\.", block.section)}
    run = {("1.", "server"), ("1.", "operator"), ("3.", "researcher")}
    run |= {("2.", title) for title in ("owner", "operator", "signer", "owner pinned", "agent", "operator run")}
    run |= {("2.", "operator costs"), ("2.", "owner after"), ("2.", "operator left")}
    assert titles == run | {("2.", "install")}


def test_the_example_of_a_policy_is_what_enroll_writes() -> None:
    """So the journey needs no other policy than the template and the pins."""
    template = load(ROOT / "client" / "fedsus_client" / "files" / "policy.toml", Policy)
    assert load(EXAMPLE / "policy.toml", Policy) == template
    assert template.exchange.secure_sum and not template.exchange.clear_sum
    assert (template.privacy.epsilon, template.privacy.delta) == (3.5, 1e-5)


def test_the_port_is_the_servers_default_and_the_templates() -> None:
    from fedsus_server.supervisor import Options

    assert Options().port == 8443
    template = ROOT / "client" / "fedsus_client" / "files" / "agent.toml"
    assert ":8443" in tomllib.loads(template.read_text(encoding="utf-8"))["server"]["address"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_device_installs_as_the_readme_says(tmp_path: Path) -> None:
    (install,) = of("2.", "install")
    subprocess.run([sys.executable, str(ROOT / "scripts" / "wheels.py"), str(tmp_path)], check=True, timeout=200)
    text = install.text.replace("python3.11 -m venv", f"{sys.executable} -m venv")
    subprocess.run(["bash", "-c", f"set -eu\n{text}"], cwd=tmp_path, env=environment(), check=True, timeout=800)
    fedsus = tmp_path / "fedsus-device" / "bin" / "fedsus"
    done = subprocess.run([fedsus, "client", "check"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such file" in done.stdout


def test_the_install_block_names_the_wheels_of_this_version() -> None:
    from fedsus import __version__

    (install,) = of("2.", "install")
    names = re.findall(r"fedsus\w*-[\d.]+-py3-none-any\.whl", install.text)
    assert names == [f"fedsus-{__version__}-py3-none-any.whl", f"fedsus_client-{__version__}-py3-none-any.whl"]
