"""Seconds a round in a deployment: three agents, 100,000 parameters, nothing to train; against stock Flower.

Both sides are deployed alike on loopback, in the same run: TLS, node authentication with registered keys, SQLite, a
process for each node. They take turns, and the one that is measured has the machine to itself.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np

from fedsus.errors import RunFailed
from fedsus.journal import Entry, RoundReleased, RunOpened
from fedsus.model_file import metadata, write_model
from fedsus.plan import Exchange, TaskPart
from fedsus.reporting import read
from fedsus_simulations.benchmarks import processes
from fedsus_simulations.benchmarks.processes import Children, say, timed
from fedsus_simulations.benchmarks.result import comparison, figure
from fedsus_simulations.benchmarks.stock import StockFlower, marks
from fedsus_simulations.whole.federation import LocalFederation

CLIENTS: Final = 3
PARAMETERS: Final = 100_000
_TASK: Final = f"{__package__}.trivial:Trivial"
_AGENT: Final = f"""\
[tasks]
nothing = "{_TASK}"

[data.one]
path = "."
"""
_POLICY: Final = """\
[privacy]
without_dp = true

[cohort]
minimum = 3

[exchange]
clear_sum = {clear}

[tasks.nothing]
data = "one"
"""
_RUN: Final = """\
name = "round"

[task]
name = "nothing"

[plan]
rounds = {rounds}
deadline = 60.0
exchange = "{exchange}"

[plan.cohort]
size = {clients}
minimum = 3
"""


def run(quick: bool) -> dict[str, Any]:
    """Rounds of ours, then of the peer's, in turns."""
    processes.need_proc()
    turns, rounds, peer_rounds = (1, 26, 4) if quick else (2, 51, 6)
    ours: list[float] = []
    peer: list[float] = []
    for turn in range(turns):
        with tempfile.TemporaryDirectory(prefix="fedsus-bench-") as name:
            with timed(f"fedsus, {rounds} rounds"):
                ours += ours_once(Path(name) / "ours", "clear_sum", CLIENTS, PARAMETERS, rounds)
            say(f"{turn + 1}/{turns}: fedsus {statistics.median(ours):.2f} s a round")
            peer += peer_once(Path(name) / "stock", peer_rounds)
            say(f"{turn + 1}/{turns}: stock Flower {statistics.median(peer):.2f} s a round")
    return {
        **comparison(
            figure(ours, "s", "seconds a round", warm_up=turns),
            figure(peer, "s", "stock Flower, FedAvg", warm_up=turns),
            "at most 1.0 s, and 15 times faster",
        ),
        "notes": [
            f"{CLIENTS} clients, {PARAMETERS} float32 parameters, no training; TLS, node authentication and SQLite on "
            "both sides; the two take turns and are never up at the same time",
            "a round is all from one released model to the next: cohort, plan, exchange, step, checkpoint, journal",
            "warm-up: the first round of each turn, in which ours loads the task and the peer may still wait for nodes",
        ],
    }


def ours_once(folder: Path, exchange: Exchange, clients: int, parameters: int, rounds: int) -> list[float]:
    """Seconds of each round but the first: differences of the journal's entries.

    Raises:
        RunFailed: as `released`.
    """
    with LocalFederation(folder, processes.environment()) as federation:
        federation.start_server()
        federation.wait_for_server()
        for i in range(clients):
            clear = "true" if exchange == "clear_sum" else "false"
            federation.add_client(f"device-{i}", _AGENT, _POLICY.format(clear=clear))
        federation.register()
        for name in federation.clients:
            federation.start_agent(name)
        federation.wait_for_agents()
        run_toml = folder / "run.toml"
        run_toml.write_text(_RUN.format(exchange=exchange, clients=clients, rounds=rounds), encoding="utf-8")
        task = metadata(TaskPart(name="nothing"))
        write_model(folder / "model.safetensors", np.zeros(parameters, dtype=np.float32), task)
        journal = federation.submit(run_toml, folder / "runs")
        federation.wait_for_run(journal, 60.0 + 10.0 * rounds)
        return _between([entry.time for entry in released(read(journal), exchange, clients, rounds)])


def released(journal: Sequence[Entry], exchange: Exchange, clients: int, rounds: int) -> list[RoundReleased]:
    """The journal's rounds, each of everybody, and summed as asked.

    Raises:
        RunFailed: the run summed in another way, or a round is missing, or it has lost somebody.
    """
    opened = [entry.config["run"]["plan"]["exchange"] for entry in journal if isinstance(entry, RunOpened)]
    if opened != [exchange]:
        raise RunFailed(f"benchmark: the journal says exchange {', '.join(opened) or 'of none'}, not {exchange}")
    found = [entry for entry in journal if isinstance(entry, RoundReleased)]
    whole = [entry for entry in found if entry.survivors == clients]
    if len(whole) < rounds:
        raise RunFailed(
            f"benchmark: of {rounds} rounds, {len(found)} were released, {len(whole)} with all {clients} clients"
        )
    return found


def peer_once(folder: Path, rounds: int) -> list[float]:
    """As `ours_once`, by the clock of stock Flower's ServerApp."""
    folder.mkdir()
    with timed(f"stock Flower, {rounds} rounds"), Children(folder, processes.environment()) as children:
        flower = StockFlower(children, folder / "flower")
        flower.start()
        for i in range(CLIENTS):
            flower.register(f"node-{i}")
        for i in range(CLIENTS):
            flower.launch(f"node-{i}")
        times = flower.submit(rounds=rounds, clients=CLIENTS, size=PARAMETERS)
        seconds = 120.0 + 60.0 * rounds
        children.wait("rounds of stock Flower", lambda: len(marks(times)) > rounds, seconds)
        return _between(marks(times)[1:])


def _between(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]
