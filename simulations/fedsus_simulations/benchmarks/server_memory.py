"""Memory of the server's round loop, whatever the cohort: 4, 40 and 400 clients of one million parameters.

Each size runs in a fresh process with the environment that the supervisor gives: the whole loop of a deployment
(journal, checkpoints, FedAvg, 32-bit integers) over a fleet in memory that makes an answer when it is asked for the
next one. Growth is the peak of the resident set over what it was before the loop started, in model vectors; it includes
the model itself.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from fedsus.config import RunConfig, validate
from fedsus.encoding.mechanism import FixedPoint
from fedsus.encoding.packing import pack
from fedsus.plan import Plan
from fedsus.rounds.messages import encode_answer
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.server import RunLoop
from fedsus.types import Answered, Ask, LocalUpdate, Member, Reply
from fedsus_server.supervisor import ALLOCATOR
from fedsus_simulations.benchmarks import processes
from fedsus_simulations.benchmarks.result import comparison, figure

PARAMETERS: Final = 1_000_000
CLIENTS: Final = (4, 40, 400)
ROUNDS: Final = 3
BOUND: Final = 5.0
_ANSWER: Final = "answer"
_CLIENTS: Final = "clients"


def run(quick: bool) -> dict[str, Any]:
    """Growth with 400 clients against growth with 4."""
    processes.need_proc()
    repeats = 1 if quick else 5
    growth: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    for repeat in range(repeats):
        for clients in CLIENTS:
            growth[clients].append(_fresh(clients))
            processes.say(f"{repeat + 1}/{repeats}: {clients} clients: {growth[clients][-1]:.2f} vectors")
    sides = {
        clients: figure(values, "vectors", f"peak growth, {clients} clients") for clients, values in growth.items()
    }
    target = f"< {BOUND:g} vectors"
    few, *_, many = CLIENTS
    return {
        **comparison(sides[many], sides[few], target),
        "figures": {f"{c} clients against {few}": comparison(sides[c], sides[few], target) for c in CLIENTS[1:-1]},
        "notes": [
            f"one vector is {4 * PARAMETERS / 1e6:g} MB; {ROUNDS} rounds; growth of the resident set since the start; "
            "the allocator is set as `fedsus server start` sets it",
            "included: model and strategy state (FedAvg: one vector), request, running sum, the answer at hand, mean "
            "update, next state, journal and checkpoints",
            "not included: interpreter and libraries, Flower's own process and its message store; strategies with "
            "moments add one or two vectors to the old state and to the new one",
        ],
    }


class SyntheticFleet:
    """Clients that all answer the same integers, each in bytes of its own, made when the reply is asked for."""

    def __init__(self, clients: int, packed: bytes) -> None:
        self._members = [Member(f"{i:04d}", f"client {i}") for i in range(clients)]
        self._packed = packed

    def members(self) -> Sequence[Member]:
        """All of them, always."""
        return self._members

    def ask(self, ask: Ask) -> Iterator[Reply]:
        """One reply a client; nothing is kept here."""
        for client in ask.requests:
            yield Answered(client, encode_answer(self._packed))


class _NoNoise:
    def normal(self, size: int) -> Any:
        return np.zeros(size)

    def uniform(self, size: int) -> Any:
        return np.zeros(size)

    def words(self, size: int) -> Any:
        return np.zeros(size, dtype=np.uint64)


def _fresh(clients: int) -> float:
    """Growth in a process of its own, in vectors. What prepares the run happens here, not there."""
    with tempfile.TemporaryDirectory(prefix="fedsus-bench-") as name:
        folder = Path(name)
        prepare(folder / "warm", clients, 1000)
        prepare(folder / "measured", clients, PARAMETERS)
        children = processes.Children(folder, processes.environment(**ALLOCATOR))
        out = children.call(f"the loop with {clients} clients", [sys.executable, "-m", __name__, name])
    return float(json.loads(out)["growth"]) / (4 * PARAMETERS)


def prepare(folder: Path, clients: int, parameters: int) -> None:
    """Open a run in ``folder`` and lay one client's answer beside it."""
    plan = {"rounds": ROUNDS, "exchange": "clear_sum", "cohort": {"size": clients, "minimum": clients}}
    config = validate({"task": {"name": "synthetic"}, "plan": plan}, RunConfig, "benchmark")
    model = np.random.default_rng(1).standard_normal(parameters, dtype=np.float32)
    specification = open_run(folder, "memory", config, model, time.time)
    (folder / _ANSWER).write_bytes(_packed(specification.plan(1, 1, model)))
    (folder / _CLIENTS).write_text(str(clients), encoding="ascii")


def growth(folder: Path, fleet: type[SyntheticFleet] = SyntheticFleet) -> int:
    """Bytes by which this process grows while the run in ``folder`` goes from its first entry to its last."""
    _go(folder / "warm", fleet, lambda: None)
    before: list[int] = []
    _go(folder / "measured", fleet, lambda: before.append(mark()))
    return processes.memory("self", "VmHWM") - before[0]


def mark() -> int:
    """Resident bytes now, without free blocks that the allocator holds; the high-water mark starts again from here."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return processes.memory("self", "VmRSS")


def _go(folder: Path, fleet: type[SyntheticFleet], begin: Callable[[], None]) -> None:
    """A whole run; ``begin`` is called once the clients are there, before the loop is."""
    clients = int((folder / _CLIENTS).read_text(encoding="ascii"))
    synthetic = fleet(clients, (folder / _ANSWER).read_bytes())
    begin()
    RunLoop(folder, synthetic, clock=time.time, sleep=time.sleep).run()


def _packed(plan: Plan) -> bytes:
    """The packed integers of one client's small update."""
    mechanism, noise = FixedPoint(plan), _NoNoise()
    delta = np.full(plan.dimension, 1e-3, dtype=np.float32)
    update = LocalUpdate(delta, 10.0, np.zeros(0), 0, None)
    return pack(mechanism.encode(update, noise), mechanism.bits)


def main() -> None:
    """One size in this process: ``python -m ... FOLDER``."""
    print(json.dumps({"growth": growth(Path(sys.argv[1]))}))  # noqa: T201 (the parent reads it)


if __name__ == "__main__":
    main()
