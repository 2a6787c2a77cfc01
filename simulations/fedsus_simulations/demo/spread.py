"""The demo's repetitions: every answer over several seeds, in memory, in a process beside the deployment.

Run as ``python -m fedsus_simulations.demo.spread FOLDER ROUNDS``; writes FOLDER/spread.json when it is done.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus_simulations.demo.study import (
    ALONE,
    CLEAR,
    FEDERATED,
    HOSPITALS,
    POOLED,
    SECURE,
    SEEDS,
    Judged,
    heart,
    judge,
    pooled,
    sources,
    train_centrally,
)

if TYPE_CHECKING:
    from fedsus.types import Vector

FILE: Final = "spread.json"
Spread = dict[str, dict[str, list[Judged]]]
"""Answer -> hospital -> one judgement for each seed."""


@dataclass(frozen=True, slots=True)
class Repetitions:
    """All answers over all seeds.

    Attributes:
        same_models: for how many seeds secure and clear sums gave the same model, bit for bit.
    """

    spread: Spread
    same_models: int


def compute(folder: Path, rounds: int) -> Repetitions:
    """All answers over all seeds."""
    from fedsus.learning.parameters import flatten
    from fedsus_simulations.whole.memory import simulate

    task, places = heart(), sources(folder)
    shards = {hospital: task.load(source) for hospital, source in places.items()}
    spread: Spread = {name: {h: [] for h in HOSPITALS} for name in (ALONE, POOLED, *(f.name for f in FEDERATED))}
    same = 0

    def add(name: str, hospital: str, model: Vector) -> None:
        spread[name][hospital].append(judge(task, model, shards[hospital].held_out))

    everything = pooled(list(shards.values()))
    for seed in SEEDS:
        start, models = flatten(task.model(seed)), {}
        for federated in FEDERATED:
            with tempfile.TemporaryDirectory() as scratch:
                model = simulate(
                    federated.config(rounds), Path(scratch) / "run", federated.name, start, places, seed=seed
                )
            for hospital in HOSPITALS:
                add(federated.name, hospital, model)
            models[federated.name] = model.tobytes()
        same += models[SECURE.name] == models[CLEAR.name]
        together = train_centrally(task, start, everything, rounds, seed)
        for hospital, shard in shards.items():
            add(ALONE, hospital, train_centrally(task, start, shard, rounds, seed))
            add(POOLED, hospital, together)
    return Repetitions(spread, same)


def write(repetitions: Repetitions, file: Path) -> None:
    """Write what `read` reads; the file appears whole."""
    plain = {
        name: {hospital: [asdict(judged) for judged in row] for hospital, row in rows.items()}
        for name, rows in repetitions.spread.items()
    }
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps({"spread": plain, "same_models": repetitions.same_models}), encoding="utf-8")
    partial.replace(file)


def read(file: Path) -> Repetitions:
    """What `write` wrote."""
    plain = json.loads(file.read_text(encoding="utf-8"))
    spread = {
        name: {hospital: [Judged(**fields) for fields in row] for hospital, row in rows.items()}
        for name, rows in plain["spread"].items()
    }
    return Repetitions(spread, plain["same_models"])


def main() -> None:
    """Entry point of the process."""
    import torch

    torch.set_num_threads(1)
    logging.getLogger("fedsus").setLevel(logging.ERROR)  # the data's warnings are the agents' to tell
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    write(compute(folder, rounds), folder / FILE)


if __name__ == "__main__":
    main()
