"""Seconds a round of a secure sum in a deployment: four agents, 100,000 parameters; against Flower's SecAgg+.

Both sides are deployed alike on loopback, in the same run: TLS, node authentication with registered keys, SQLite, a
process for each node. They take turns, and the one that is measured has the machine to itself.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from fedsus_simulations.benchmarks import processes, secure_ours, stock_secure
from fedsus_simulations.benchmarks.processes import Children, say, timed
from fedsus_simulations.benchmarks.result import comparison, figure, load
from fedsus_simulations.benchmarks.stock import ACTIVATED, SECURE_APP, StockFlower
from fedsus_simulations.benchmarks.stock_secure import Work

CLIENTS: Final = 4
PARAMETERS: Final = 100_000
SHARES, THRESHOLD = CLIENTS, 3
"""Of the peer: the complete graph, and as many shares as ours needs for four clients with one colluder."""
_ROUND_SECONDS: Final = 180.0


def run(quick: bool) -> dict[str, Any]:
    """Rounds of ours, then of the peer's, in turns."""
    processes.need_proc()
    secure_ours.need_deployment()
    before = load()
    turns, rounds, peer_rounds, warm_up = (1, 16, 1, 0) if quick else (2, 31, 4, 1)
    ours: list[float] = []
    peer: list[float] = []
    for turn in range(turns):
        with tempfile.TemporaryDirectory(prefix="fedsus-bench-") as name:
            with timed(f"fedsus, {rounds} rounds"):
                ours += secure_ours.deployed_rounds(Path(name) / "ours", CLIENTS, PARAMETERS, rounds)
            say(f"{turn + 1}/{turns}: fedsus {statistics.median(ours):.2f} s a round")
            peer += peer_once(Path(name) / "stock", peer_rounds)[warm_up:]
            say(f"{turn + 1}/{turns}: Flower's SecAgg+ {statistics.median(peer):.2f} s a round")
    return {
        **comparison(
            figure(ours, "s", "seconds a round, secure sum", warm_up=turns),
            figure(peer, "s", "stock Flower, SecAgg+", warm_up=turns * warm_up),
            "at most 2.2 s, and 20 times faster",
        ),
        "notes": [
            f"{CLIENTS} clients, {PARAMETERS} float32 parameters, no training; TLS, node authentication and SQLite on "
            "both sides; the two take turns and are never up at the same time",
            f"the peer: SecAgg+ of Flower's legacy API, {SHARES} shares, {THRESHOLD} open a secret, as in ours; its "
            "client loads torch for the one message in four that trains, which favours it",
            "warm-up: the first round of each turn, in which ours loads the task; of the peer too, but in quick sizes, "
            "where its one round counts; its nodes are connected before",
            "every round of the peer was checked to have summed",
            f"load average: {before:.1f} before, {load():.1f} after",
        ],
    }


def peer_once(folder: Path, rounds: int) -> list[float]:
    """Seconds of each round, by the clock of stock Flower's ServerApp; all nodes are connected before the first."""
    folder.mkdir()
    work = Work(clients=CLIENTS, size=PARAMETERS, rounds=rounds, shares=SHARES, threshold=THRESHOLD)
    with timed(f"Flower's SecAgg+, {rounds} rounds"), Children(folder, processes.environment()) as children:
        flower = StockFlower(children, folder / "flower")
        superlink = flower.start()
        for i in range(CLIENTS):
            flower.register(f"node-{i}")
        for i in range(CLIENTS):
            flower.launch(f"node-{i}")
        children.wait("connected SuperNodes", lambda: superlink.count(ACTIVATED) >= CLIENTS, 60)
        times = flower.submit(SECURE_APP, **asdict(work))
        limit = 120.0 + _ROUND_SECONDS * rounds
        children.wait("rounds of SecAgg+", lambda: len(stock_secure.marks(times)) > rounds, limit)
        return stock_secure.seconds(stock_secure.marks(times))
