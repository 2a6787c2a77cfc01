"""Processes of a benchmark end with it, whatever happens; memory is measured as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedsus.errors import RunFailed
from fedsus_server.supervisor import ALLOCATOR
from fedsus_simulations.benchmarks import processes, server_memory
from fedsus_simulations.benchmarks.processes import Children

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")

_PARENT = "import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True)\nimport time; time.sleep(600)"  # noqa: E501 (one program)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_children_and_what_they_started_end_with_a_failing_block(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    pids: list[int] = []

    def fail() -> None:
        with Children(tmp_path, processes.environment()) as children:
            child = children.start("parent", [sys.executable, "-c", _PARENT])
            children.wait("its child", lambda: child.log.read_text().strip(), 30)
            pids.extend([child.pid, int(child.log.read_text())])
            raise Stop

    with pytest.raises(Stop):
        fail()
    assert len(pids) == 2
    assert not any(_lives(pid) for pid in pids)


def test_a_child_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    with Children(tmp_path, processes.environment()) as children:
        children.start("short", [sys.executable, "-c", "print('no such port')"])
        with pytest.raises(RunFailed, match="short ended while waiting for an answer: no such port"):
            children.wait("an answer", lambda: None, 30)


def test_waiting_ends(tmp_path: Path) -> None:
    with Children(tmp_path, processes.environment()) as children, pytest.raises(RunFailed, match="no sign within 0 s"):
        children.wait("sign", lambda: None, 0)


def test_a_failing_command_is_told_with_its_output(tmp_path: Path) -> None:
    children = Children(tmp_path, processes.environment())
    with pytest.raises(RunFailed, match="it failed: what went wrong"):
        children.call("it", [sys.executable, "-c", "import sys; sys.exit('what went wrong')"])


def test_processor_time_of_busy_work_is_counted() -> None:
    before = processes.cpu_seconds(os.getpid())
    while processes.cpu_seconds(os.getpid()) < before + 0.03:
        sum(range(10_000))
    assert processes.cpu_seconds(os.getpid()) - before < 5


_GROWTH = """
import sys, json
from pathlib import Path
from fedsus_simulations.benchmarks import server_memory
class Hoarder(server_memory.SyntheticFleet):
    kept = []
    def ask(self, ask):
        for reply in super().ask(ask):
            self.kept.append(reply)
            yield reply
fleet = Hoarder if sys.argv[2] == "hoarder" else server_memory.SyntheticFleet
print(json.dumps(server_memory.growth(Path(sys.argv[1]), fleet)))
"""


@pytest.mark.parametrize(("kind", "low", "high"), [("frugal", 3.0, 5.0), ("hoarder", 12.0, 60.0)])
def test_memory_of_the_round_loop_and_that_the_measure_sees_kept_answers(
    tmp_path: Path, kind: str, low: float, high: float
) -> None:
    parameters, clients = 1_000_000, 4
    server_memory.prepare(tmp_path / "warm", clients, 1000)
    server_memory.prepare(tmp_path / "measured", clients, parameters)
    command = [sys.executable, "-c", _GROWTH, str(tmp_path), kind]
    environment = processes.environment(**ALLOCATOR)
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert low < json.loads(done.stdout) / (4 * parameters) < high
