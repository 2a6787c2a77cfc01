"""What privacy adds to a round of a simulation: the round of `simulate_mlp`, plain and with each unit and placement.

All runs are in one process, a round of each in turn, so that a machine that is busy for a while slows all alike. Each
has a worker with threads of its own, as `simulate_mlp` has it.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedsus.errors import RunFailed
from fedsus_simulations.benchmarks import models, processes, simulate_data, simulate_ours, simulate_peers
from fedsus_simulations.benchmarks.peer_work import Work
from fedsus_simulations.benchmarks.result import Number, comparison, figure, load, machine
from fedsus_simulations.benchmarks.simulate_images import BATCH, CLIENTS, COHORT, SAMPLES, THREADS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedsus.journal import RoundReleased
    from fedsus.types import Vector
    from fedsus_simulations.running.simulation import Simulation

MOST: Final = 1.25
"""Plain rounds that one with noise at the server may take."""

_BUDGET: Final = {"epsilon": 8.0, "delta": 1e-4}
_RATE: Final = BATCH / SAMPLES
PLAIN, FIXED, ADAPTIVE, BANDED = "plain", "client, central", "client, central, adaptive", "client, central, banded"
SKELLAM, LOCAL, SUMS = "client, distributed", "example, local", "example, distributed"
PRIVACY: Final[Mapping[str, Mapping[str, Any]]] = {
    PLAIN: {},
    FIXED: {"unit": "client", "placement": "central", **_BUDGET},
    ADAPTIVE: {"unit": "client", "placement": "central", "adaptive": {}, **_BUDGET},
    BANDED: {"unit": "client", "placement": "central", "bands": 4, **_BUDGET},
    SKELLAM: {"unit": "client", "placement": "distributed", **_BUDGET},
    LOCAL: {"unit": "example", "sampling_rate": _RATE, "denominator": float(BATCH), **_BUDGET},
    SUMS: {
        "unit": "example",
        "placement": "distributed",
        "sampling_rate": _RATE,
        "denominator": float(BATCH * COHORT),
        **_BUDGET,
    },
}


class Spent(BaseModel):
    """What one run needed.

    Attributes:
        seconds: of each round but the first.
        processor: as ``seconds``, of all processor cores together.
        survivors: clients in all sums but the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=1)]
    processor: Annotated[list[Annotated[Number, Field(gt=0)]], Field(min_length=1)]
    survivors: int


class Measured(BaseModel):
    """What the process prints: each run by its name in `PRIVACY`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: dict[str, Spent]


class Asked(BaseModel):
    """What is asked of the process: the data's folder, one for the runs, and the work but for its privacy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    files: Path
    folder: Path
    work: Work
    clients: int


def run(quick: bool) -> dict[str, Any]:
    """Seconds a round, and a table of ratios round by round."""
    processes.need_proc()
    before = load()
    with tempfile.TemporaryDirectory(prefix="fs-") as name:
        folder = Path(name)
        files, real = simulate_data.images(None, folder / "images")
        work = Work(
            folder=name,
            model="mlp",
            cohort=COHORT,
            samples=SAMPLES,
            batch=BATCH,
            rounds=1 + (10 if quick else 40),
            threads=min(THREADS, machine().cores),
        )
        asked = Asked(files=files, folder=folder, work=work, clients=CLIENTS)
        environment = processes.environment(OMP_NUM_THREADS=str(work.threads))
        command = [sys.executable, "-m", __name__, asked.model_dump_json()]
        runs = parse(simulate_peers.run("private rounds", command, folder, environment), work)
    notes = [
        f"one process, a round of each run in turn, {work.threads} threads; the first round of each is the warm-up",
        "no metrics; examples: an expected batch of 10, local: 5 steps, distributed: one step",
        f"load average: {before:.1f} before, {load():.1f} after",
        *([] if real else [simulate_data.MADE]),
    ]
    return {**compared(runs), "tables": [ratios(runs), cores(runs)], "notes": notes}


def parse(output: str, work: Work) -> dict[str, Spent]:
    """What the process printed, among whatever its libraries did.

    Raises:
        RunFailed: nothing of it, or a run did other work than was asked.
    """
    lines = [line for line in output.splitlines() if line.startswith('{"runs"')]
    try:
        runs = Measured.model_validate_json(lines[-1]).runs if lines else {}
    except ValidationError as error:
        raise RunFailed(f"benchmark: {error.errors(include_url=False)[0]['msg']}") from error
    rounds = work.rounds - 1
    for name in PRIVACY:
        if name not in runs:
            raise RunFailed(f"benchmark: nothing of '{name}': {output.strip()[-300:] or '(silent)'}")
        done = (len(runs[name].seconds), runs[name].survivors)
        if done != (rounds, rounds * work.cohort):
            raise RunFailed(
                f"benchmark: '{name}' made {done[0]} rounds of {done[1]} clients in all; {rounds} and "
                f"{rounds * work.cohort} were asked"
            )
    return runs


def compared(runs: Mapping[str, Spent]) -> dict[str, Any]:
    """Fields of a result: each private run against the plain one."""
    plain = figure(runs[PLAIN].seconds, "s", PLAIN, 1)
    rows = {
        name: comparison(
            figure(runs[name].seconds, "s", name, 1),
            plain,
            f"at most {MOST:g} plain rounds" if "central" in name else "",
            times=1 / MOST if "central" in name else None,
        )
        for name in PRIVACY
        if name != PLAIN
    }
    first = rows.pop(FIXED)
    return {**first, "peer": {**first["peer"], "what": f"{FIXED}; the other is a plain round"}, "figures": rows}


def ratios(runs: Mapping[str, Spent]) -> dict[str, Any]:
    """A table: plain rounds that a private one takes, turn by turn."""
    rows = []
    for name in PRIVACY:
        if name != PLAIN:
            turns = [mine / other for mine, other in zip(runs[name].seconds, runs[PLAIN].seconds, strict=True)]
            rows.append((name, *_spread(turns), min(runs[name].seconds) / min(runs[PLAIN].seconds)))
    columns = ("unit and placement", "min", "median", "max", "of the quickest")
    return {"title": "plain rounds that a private one takes, turn by turn", "columns": columns, "rows": rows}


def cores(runs: Mapping[str, Spent]) -> dict[str, Any]:
    """A table: processor seconds, which others' work on the machine changes less."""
    plain = statistics.median(runs[PLAIN].processor)
    rows = [
        (name, *_spread(spent.processor), statistics.median(spent.processor) / plain) for name, spent in runs.items()
    ]
    columns = ("unit and placement", "min, s", "median, s", "max, s", "of plain")
    return {"title": "processor seconds a round, of all cores together", "columns": columns, "rows": rows}


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


@dataclass(slots=True)
class _Stepped:
    """A simulation in a thread of its own, which goes on for one round at a time."""

    simulation: Simulation
    folder: Path
    survivors: int = 0
    _go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0), init=False)
    _done: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0), init=False)
    _error: BaseException | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def round(self) -> tuple[float, float]:
        """Let it make a round; seconds, and processor seconds."""
        began, used = time.perf_counter(), time.process_time()
        self._go.release()
        self._done.acquire()
        spent = time.perf_counter() - began, time.process_time() - used
        if self._error is not None:
            raise self._error
        return spent

    def _run(self) -> None:
        self._go.acquire()
        try:
            self.simulation.run(self.folder, "bench", self._released)
        except BaseException as error:  # raised where the round was asked for
            self._error = error
        finally:
            self._done.release()

    def _released(self, entry: RoundReleased, model: Vector) -> None:
        del model
        # What is divided by: of a plain run its examples, of a private one its clients.
        weight = entry.weight if self.simulation.scenario.plan.privacy.unit != "none" else entry.weight / SAMPLES
        self.survivors += round(weight) if entry.round > 1 else 0
        self._done.release()
        self._go.acquire()


def main(asked: Asked) -> None:
    """Run all; prints `Measured`."""
    from fedsus_simulations.running.simulation import Loader, Simulation
    from fedsus_simulations.scenario.config import Scenario

    loader, runs = Loader(asked.files, models.IMAGES), {}
    task = {"name": "images", "settings": {"network": asked.work.model}}
    for number, (name, privacy) in enumerate(PRIVACY.items()):
        wanted = simulate_ours.scenario(asked.work, asked.clients, task, asked.files)
        wanted["plan"]["privacy"] = dict(privacy)
        simulation = Simulation.of(Scenario.model_validate(wanted), asked.files, models.IMAGES, loader=loader)
        runs[name] = _Stepped(simulation, asked.folder / f"run-{number}")
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(asked.work.rounds):
        for name, stepped in runs.items():
            spent[name].append(stepped.round())
    for stepped in runs.values():
        stepped.round()  # to the end
        stepped.simulation.close()
    found = Measured(
        runs={
            name: Spent(
                seconds=[seconds for seconds, _ in rounds[1:]],
                processor=[used for _, used in rounds[1:]],
                survivors=runs[name].survivors,
            )
            for name, rounds in spent.items()
        }
    )
    sys.stdout.write(f"\n{found.model_dump_json()}\n")


if __name__ == "__main__":
    main(Asked.model_validate_json(sys.argv[1]))
