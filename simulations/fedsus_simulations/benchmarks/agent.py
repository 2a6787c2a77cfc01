"""One agent alone against a stock SuperNode: start, memory while training, processor time when idle.

The two take turns. Each has a server of its own kind (TLS, node authentication, SQLite) and one client with the heart
task under DP-SGD; what is trained is the same code, so the difference is what carries it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from fedsus.errors import RunFailed
from fedsus.journal import RoundReleased
from fedsus.reporting import read
from fedsus_simulations.benchmarks import heart, processes
from fedsus_simulations.benchmarks.processes import Child, Children, say, timed
from fedsus_simulations.benchmarks.result import comparison, figure
from fedsus_simulations.benchmarks.stock import ACTIVATED, StockFlower, marks
from fedsus_simulations.whole.federation import COMMAND, LocalFederation

Measured = dict[str, list[float]]
CONNECTED, READY, MEMORY, IDLE = "start to connected", "start to ready to train", "memory while training", "idle CPU"
TARGETS: Final = {CONNECTED: "at most 3 s", READY: "at most 12 s", MEMORY: "below 550 MB", IDLE: "below 1 % of a core"}
UNITS: Final = {CONNECTED: "s", READY: "s", MEMORY: "MB", IDLE: "% of a core"}
_IDLE_WINDOWS: Final = 2
_SETTLE_SECONDS: Final = 5.0
_PEER_ROUNDS: Final = 2
_LOOK_SECONDS: Final = 0.02
_AGENT: Final = f"""\
[tasks]
heart = "heart"

[data.clinic]
path = "{heart.DATA}"
"""
_POLICY: Final = """\
[privacy]
epsilon = 1000.0
delta = 0.01

[cohort]
minimum = 1

[exchange]
clear_sum = true

[tasks.heart]
data = "clinic"
"""
_RUN: Final = f"""\
name = "agent"

[task]
name = "heart"

[plan]
rounds = {heart.ROUNDS}
deadline = 60.0
exchange = "clear_sum"

[plan.cohort]
size = 1
minimum = 1

[plan.privacy]
unit = "example"
epsilon = {heart.PRIVACY.epsilon}
delta = {heart.PRIVACY.delta}
sampling_rate = {heart.PRIVACY.sampling_rate}
denominator = {heart.PRIVACY.denominator}
"""


def run(quick: bool) -> dict[str, Any]:
    """Ours, then the peer, in turns; the ratio is that of the idle processor time."""
    processes.need_proc()
    turns, window = (1, 20.0) if quick else (3, 30.0)
    ours: Measured = defaultdict(list)
    peer: Measured = defaultdict(list)
    for turn in range(turns):
        with tempfile.TemporaryDirectory(prefix="fedsus-bench-") as name:
            for side, measure, into in (("fedsus", ours_once, ours), ("stock Flower", peer_once, peer)):
                with timed(f"{turn + 1}/{turns}: {side}"):
                    measure(Path(name) / side.replace(" ", "-"), window, into)
                say(", ".join(f"{what} {values[-1]:.3g} {UNITS[what]}" for what, values in into.items()))
    figures = {
        what: comparison(figure(ours[what], UNITS[what], what), figure(peer[what], UNITS[what], what), target)
        for what, target in TARGETS.items()
    }
    return {
        **figures.pop(IDLE),
        "figures": figures,
        "notes": [
            f"the ratio is of idle CPU, over {_IDLE_WINDOWS} windows of {window:g} s each, after training",
            "ready: ours once, when torch and Opacus are loaded; the peer when its first ClientApp begins to train: it "
            "loads them again for every message",
            "memory: ours is the agent's largest resident set; the peer's the largest proportional set (PSS, shared "
            "pages counted once) of SuperNode, SuperExec and ClientApp together, which favours the peer",
        ],
    }


def ours_once(folder: Path, window: float, into: Measured) -> None:
    """One start, one run, one idle time of an agent."""
    with LocalFederation(folder, processes.environment()) as federation:
        federation.start_server()
        federation.wait_for_server()
        client = federation.add_client("clinic", _AGENT, _POLICY)
        federation.register()
        run_toml = _run_files(folder)
        start, process = time.monotonic(), federation.start_agent("clinic")
        said = _Log(client.folder / "agent.out", lambda: process.poll() is None)
        said.wait("connected to")
        into[CONNECTED].append(time.monotonic() - start)
        said.wait("ready to train")
        into[READY].append(time.monotonic() - start)
        journal = federation.submit(run_toml, folder / "runs")
        federation.wait_for_run(journal, 300.0)
        if not any(isinstance(entry, RoundReleased) for entry in read(journal)):
            raise RunFailed("benchmark: the agent's run released nothing")
        into[MEMORY].append(processes.memory(process.pid, "VmHWM") / 1e6)
        time.sleep(_SETTLE_SECONDS)
        into[IDLE] += _idle(lambda: [process.pid], window)


def peer_once(folder: Path, window: float, into: Measured) -> None:
    """As `ours_once`, of a stock SuperNode with all that it starts."""
    folder.mkdir()
    with Children(folder, processes.environment()) as children:
        flower = StockFlower(children, folder / "flower")
        superlink = flower.start()
        flower.register("node")
        times = flower.submit(work="heart", rounds=_PEER_ROUNDS, clients=1, size=_dimension(folder))
        began = folder / "began"
        start, epoch = time.monotonic(), time.time()
        node = flower.launch("node", **{heart.MARKS: str(began)})
        children.wait("a connected SuperNode", lambda: superlink.said(ACTIVATED), 60)
        into[CONNECTED].append(time.monotonic() - start)
        peak = 0.0

        def over() -> bool:
            nonlocal peak
            peak = max(peak, _together(node))
            return len(marks(times)) > _PEER_ROUNDS

        children.wait("rounds of stock Flower", over, 300)
        into[READY].append(float(began.read_text(encoding="ascii").split()[0]) - epoch)
        into[MEMORY].append(peak / 1e6)
        time.sleep(_SETTLE_SECONDS)
        into[IDLE] += _idle(lambda: [node.pid, *processes.descendants(node.pid)], window)


class _Log:
    """Waits for words in a file that a process writes."""

    def __init__(self, path: Path, alive: Callable[[], bool]) -> None:
        self._path, self._alive = path, alive

    def wait(self, text: str, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while text not in self._path.read_text(encoding="utf-8", errors="replace"):
            if not self._alive() or time.monotonic() > end:
                raise RunFailed(f"benchmark: the agent did not say '{text}'; see {self._path}")
            time.sleep(_LOOK_SECONDS)


def _idle(pids: Callable[[], Sequence[int]], window: float) -> list[float]:
    """Processor time of some processes in per cent of a core, a window at a time."""
    shares = []
    for _ in range(_IDLE_WINDOWS):
        before, start = {pid: processes.cpu_seconds(pid) for pid in pids()}, time.monotonic()
        time.sleep(window)
        spent = sum(processes.cpu_seconds(pid) - used for pid, used in before.items())
        # The kernel counts in ticks: none at all is told as one, so that a ratio means something.
        shares.append(100.0 * max(spent, 1 / os.sysconf("SC_CLK_TCK")) / (time.monotonic() - start))
    return shares


def _together(node: Child) -> int:
    """Proportional memory of a SuperNode and all that it started; what ends meanwhile counts for nothing."""
    total = 0
    for pid in [node.pid, *processes.descendants(node.pid)]:
        with suppress(OSError):
            total += processes.memory(pid, "Pss")
    return total


def _run_files(folder: Path) -> Path:
    """run.toml and its initial model, as an operator makes them."""
    run_toml, model = folder / "run.toml", folder / "model.safetensors"
    run_toml.write_text(_RUN, encoding="utf-8")
    subprocess.run(  # our own command; it loads torch, which this process does not
        [*COMMAND, "model", "init", str(run_toml), "-o", str(model)], check=True, capture_output=True
    )
    return run_toml


def _dimension(folder: Path) -> int:
    """Parameters of the heart task's model."""
    from fedsus.model_file import read_model

    vector, _ = read_model(_run_files(folder).with_name("model.safetensors"))
    return len(vector)
