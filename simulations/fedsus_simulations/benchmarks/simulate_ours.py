"""Ours in the simulators' benchmarks: a scenario, run in a process of its own as `fedsus simulate` runs it."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fedsus_simulations.benchmarks import peer_work, processes, simulate_peers
from fedsus_simulations.benchmarks.simulate_peers import Spent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fedsus.types import Vector
    from fedsus_simulations.benchmarks.peer_work import Work

WORKERS, THREADS = 1, 2
"""Of ours, on two cores, as the peers have them."""
TRAINING, ENCODING, REST = "training", "encoding and sum", "the rest"


class Asked(BaseModel):
    """What is asked of the process.

    Attributes:
        scenario: as in scenario.toml.
        reference: the task's class.
        root: of data sets; also where the run's folder and ``model.npy``, the initial model, go.
        parts: time the parts of a round too, which costs a little.
        started: seconds since the epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenario: dict[str, Any]
    reference: str
    root: Path
    parts: bool = False
    started: float = 0.0


class Run(Spent):
    """What the process prints.

    Attributes:
        memory: the largest resident set of the process, bytes.
        start: seconds from starting the process until the first round was opened.
        parts: seconds of all rounds but the first, by what was done in them.
    """

    memory: int
    start: float
    parts: dict[str, float] = Field(default={})


def scenario(work: Work, clients: int, task: dict[str, Any], data: Path, **simulation: Any) -> dict[str, Any]:
    """The scenario of a piece of work: FedAvg over a fresh cohort of ``clients`` registered ones, no metrics."""
    return {
        "name": "bench",
        "seed": work.seed,
        "task": task,
        "plan": {
            "rounds": work.rounds,
            "deadline": 3600.0,
            "cohort": {"size": work.cohort, "minimum": work.cohort // 2},
            "training": {
                "local_epochs": 1,
                "batch_size": work.batch,
                "optimizer": {"name": "sgd", "learning_rate": work.learning_rate},
            },
        },
        "population": {"data": str(data), "partition": "iid", "clients": clients},
        "simulation": {
            "masks": "none",
            "evaluate_every": 0,
            "workers": WORKERS,
            "threads": min(THREADS, work.threads),
            **simulation,
        },
    }


def once(what: str, asked: Asked, work: Work, parameters: int) -> Run:
    """Run it in a fresh process.

    Raises:
        RunFailed: it failed, or did other work than was asked.
    """
    environment = processes.environment(OMP_NUM_THREADS=str(work.threads))
    asked = asked.model_copy(update={"started": time.time()})
    output = simulate_peers.run(
        what, [sys.executable, "-m", __name__, asked.model_dump_json()], asked.root, environment
    )
    return simulate_peers.parse(what, output, work, parameters, Run)


def main(asked: Asked) -> None:
    """Run the scenario; prints a `Run`."""
    from fedsus.journal.entries import AttemptOpened, RoundReleased, RunOpened
    from fedsus.reporting.summary import read
    from fedsus_simulations.running.simulation import Simulation
    from fedsus_simulations.scenario.config import Scenario

    wanted, folder = Scenario.model_validate(asked.scenario), asked.root / f"run-{time.time_ns()}"
    simulation = Simulation.of(wanted, asked.root, asked.reference)
    try:
        np.save(asked.root / "model.npy", simulation.start_model())
        with _timed(asked.parts) as parts:
            model = simulation.run(folder, "bench")
    finally:
        simulation.close()
    entries = read(folder)
    opened = next(entry.time for entry in entries if isinstance(entry, RunOpened))
    first = next(entry.time for entry in entries if isinstance(entry, AttemptOpened))
    released = [entry for entry in entries if isinstance(entry, RoundReleased)]
    seconds = [after - before for before, after in pairwise([opened, *(entry.time for entry in released)])]
    # What a client counts for is the number of examples that it trained on.
    steps = sum(round(entry.weight) // wanted.plan.training.batch_size for entry in released)
    spent = parts()
    if spent:
        spent[REST] = sum(seconds[1:]) - sum(spent.values())
    memory = processes.memory("self", "VmHWM")  # before the test part is looked at
    run = Run(
        seconds=seconds,
        parameters=model.size,
        steps=steps,
        score=_score(asked, model),
        memory=memory,
        start=first - asked.started,
        parts=spent,
    )
    sys.stdout.write(f"\n{run.model_dump_json()}\n")


def _score(asked: Asked, model: Vector) -> tuple[float, float] | None:
    import torch
    from torch import nn

    name = asked.scenario["task"]["settings"].get("network")
    if name is None:
        return None
    network = peer_work.network(name)
    nn.utils.vector_to_parameters(torch.tensor(model), network.parameters())
    return peer_work.score(network, str(asked.root))


@contextmanager
def _timed(wanted: bool) -> Iterator[Callable[[], dict[str, float]]]:
    """Clocks around training and around encoding with the sum; what is given tells their seconds after round 1."""
    from fedsus.encoding.mechanism import FixedPoint
    from fedsus_simulations.workers.training import BlockTrainer

    spent: dict[str, dict[int, float]] = {TRAINING: {}, ENCODING: {}}
    now = [1]

    def clocked(name: str, inner: Callable[..., Any], round_of: Callable[..., int]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            start, number = time.perf_counter(), round_of(*arguments)
            result = inner(*arguments, **more)
            spent[name][number] = spent[name].get(number, 0.0) + time.perf_counter() - start
            return result

        return call

    def training_round(trainer: BlockTrainer, request: Any, *_: Any) -> int:
        now[0] = request.plan.round
        return now[0]

    if not wanted:
        yield dict
        return
    train, add = BlockTrainer.updates, FixedPoint.add_to
    BlockTrainer.updates = clocked(TRAINING, train, training_round)  # type: ignore[method-assign]
    FixedPoint.add_to = clocked(ENCODING, add, lambda *_: now[0])  # type: ignore[method-assign]
    try:
        yield lambda: {name: sum(s for number, s in by.items() if number > 1) for name, by in spent.items()}
    finally:
        BlockTrainer.updates, FixedPoint.add_to = train, add  # type: ignore[method-assign]


if __name__ == "__main__":
    main(Asked.model_validate_json(sys.argv[1]))
