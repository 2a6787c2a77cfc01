"""docs/three-hospitals.md, read as steps; and its machines, on which the steps are done.

Commands, files and what is sent to whom come from the page, in its order, unchanged, but for `client check`, which one
hospital runs alone. What people do by hand is done here: pins are pasted, signing is answered with yes, and no
fingerprints are compared.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import namespaces

from fedsus.reporting import read

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "three-hospitals.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
OPERATOR, HOSPITALS, HOST = "operator", ("north", "south", "west"), "federation.example.org"
LASTS = ("fedsus server start", "fedsus client start")
PATIENCE = 400.0


class Step(NamedTuple):
    """What the guide does at one place: a block of commands, a file to write, or files that are sent.

    Attributes:
        section: number of its heading.
        where: machines, one after another or at once; a file's name for a file.
        text: commands or content; empty for what is sent.
        sent: (from, file, to, as) of each.
    """

    section: int
    where: tuple[str, ...]
    text: str = ""
    sent: tuple[tuple[str, ...], ...] = ()


def steps() -> list[Step]:
    found: list[Step] = []
    section = 0
    pattern = (
        r"^## (?P<number>\d+)\. |^```bash\n# at (?P<at>.+)\n(?P<commands>[^`]*)^```$"
        r"|^```toml\n# (?P<file>\S+)(?: \(a part\))?\n(?P<content>[^`]*)^```$"
        r"|^\| from \| file \| to \| as \|\n\|[-|]+\|\n(?P<rows>(?:\|.+\|\n)+)"
    )
    for match in re.finditer(pattern, GUIDE, re.MULTILINE):
        if match["number"]:
            section = int(match["number"])
        elif match["at"]:
            machines = tuple(name.removeprefix("the ") for name in match["at"].split(", "))
            found.append(Step(section, machines, match["commands"]))
        elif match["file"]:
            found.append(Step(section, (match["file"],), match["content"]))
        else:
            rows = [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in match["rows"].splitlines()]
            found.append(Step(section, (), sent=tuple(map(tuple, rows))))
    return found


@dataclass
class Journey:
    """The machines of the guide, each with a folder of its own; laptops have no network at all."""

    folder: Path
    network: namespaces.Network
    said: dict[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def home(self, machine: str) -> Path:
        found = self.folder / machine.replace("'s ", "-").replace(" ", "-")
        found.mkdir(exist_ok=True)
        return found

    def section(self, number: int) -> None:
        """Do all that a section says."""
        for step in steps():
            if step.section == number:
                self.do(step)

    def do(self, step: Step) -> None:
        """Do one step: what is sent, a file that is written, or commands, at all its machines at once."""
        for source, file, machine, name in step.sent:
            here, there = self.home(source) / file, self.home(machine) / name
            (shutil.copytree if here.is_dir() else shutil.copyfile)(here, there)
        if step.where == ("run.toml",):
            (self.home(OPERATOR) / "run.toml").write_text(step.text, encoding="utf-8")
        elif step.where and step.where != ("policy.toml",):
            # The check takes seconds, and looks for the same at each: one is enough here.
            machines = step.where[:1] if step.text.startswith("fedsus client check") else step.where
            with ThreadPoolExecutor(len(machines)) as pool:
                list(pool.map(lambda machine: self.type(machine, step.text), machines))
        if step.text.startswith("fedsus federation show"):
            for machine in step.where:
                self.paste(machine)
        if step.text.startswith("fedsus server start"):
            self.until_served()

    def paste(self, machine: str) -> None:
        """What the owner of a device does by hand: the printed table [federation], into policy.toml."""
        policy = self.home(machine) / "policy.toml"
        if not machine.endswith("laptop"):
            table = self.said[machine].partition("[federation]")
            assert table[1], self.said[machine]
            policy.write_text(policy.read_text(encoding="utf-8") + "\n" + table[1] + table[2], encoding="utf-8")

    def type(self, machine: str, text: str, expected: int = 0) -> str:
        """Run commands on a machine; what they printed. The last may be one that runs until it is stopped."""
        home, log = self.home(machine), self.folder / f"{machine}.txt"
        lasts = text.strip().splitlines()[-1].startswith(LASTS)
        script = "set -eu\n" + (text.replace("fedsus ", "exec fedsus ", 1) if lasts else text)
        command = self.on(machine, ["bash", "-c", script])
        if lasts:
            with log.open("wb") as file:
                self.processes[machine] = subprocess.Popen(
                    command, cwd=home, env=environment(), stdin=subprocess.DEVNULL, stdout=file, stderr=file
                )
            return ""
        done = subprocess.run(
            command,
            cwd=home,
            env=environment(),
            input=b"y\n" * 4,  # to sign, after a look
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        self.said[machine] = done.stdout.decode()
        assert done.returncode == expected, f"{machine}: {text}\n{self.said[machine]}\n{self.logs()}"
        return self.said[machine]

    def on(self, machine: str, arguments: list[str]) -> list[str]:
        """What runs something on a machine; West's devices share its network, laptops have none."""
        if machine.endswith("laptop"):
            return namespaces.offline(arguments)
        return self.network.command(machine.partition("'")[0], arguments)

    def until_served(self) -> None:
        """Wait until the operator's server is up."""
        file, server = self.home(OPERATOR) / ".fedsus" / "server" / "running.json", self.processes[OPERATOR]
        until(lambda: file.exists() or server.poll() is not None, "the server")
        assert file.exists(), self.logs()

    def run_folder(self, number: int) -> Path:
        """The operator's run of this number, oldest first."""
        return sorted((self.home(OPERATOR) / "runs").iterdir(), key=lambda folder: read(folder)[0].time)[number]

    def logs(self) -> str:
        files = [*self.folder.glob("*.txt"), *self.folder.glob("*/runs/*/server.log")]
        return "\n".join(f"{file}: {file.read_text(errors='replace')[-1500:]}" for file in sorted(files))

    def stop(self, machine: str) -> int:
        """SIGTERM; the exit code."""
        process = self.processes.pop(machine)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def close(self) -> list[int]:
        """Stop all, the server last; their exit codes."""
        return [self.stop(machine) for machine in reversed(list(self.processes))]


def environment() -> dict[str, str]:
    left_out = {"PYTHONPATH", "FEDSUS_SERVER_HOME"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    path = f"{BIN}{os.pathsep}{kept.get('PATH', os.defpath)}"
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}


def until(condition: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < limit, f"waited for {what}"
        time.sleep(0.02)
