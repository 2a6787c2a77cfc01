"""Heart disease in four hospitals: AUC against epsilon, the unit an example, noise on each device or in shares.

All sides take the same steps over all rows (q = 1), with the same clip and learning rate, which nobody tuned:

    central         DP-SGD over the rows of all hospitals in one place: what privacy costs at least
    distributed     each hospital adds a share of Skellam noise; nobody is trusted, a server may work with one hospital
    local           each hospital adds noise enough for itself

The local noise of four hospitals has twice the standard deviation of one's; in shares, of which one may be known to the
server, it is sqrt(4 / 3) of one's. AUC is of the rows that all hospitals hold out, together.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, replace
from math import inf
from typing import TYPE_CHECKING, Any, Final

from fedsus_simulations.benchmarks import utility_runs as runs
from fedsus_simulations.benchmarks.result import comparison, figure
from fedsus_simulations.benchmarks.utility_kept import Kept, Options, mean
from fedsus_simulations.pictures import saved

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fedsus.tasks.task import Batch, Task
    from fedsus.types import Vector
    from fedsus_simulations.benchmarks.result import Result
    from fedsus_simulations.benchmarks.utility_kept import Row

EPSILONS: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
DELTA: Final = 1e-5
SIDES: Final = ("central", "distributed", "local")
HOSPITALS: Final = 4
SEEDS: Final = 10
TABLE: Final = "AUC, mean ± standard deviation"
FEDERATION: Final = runs.Federation(
    reference="heart",
    settings={},
    population={"data": "heart", "partition": "groups"},
    clients=HOSPITALS,
    colluders=1,
)


def run(quick: bool, options: Options = Options()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Every side at every epsilon, with as many seeds as asked; and once without privacy."""
    kept = Kept.of(options, "utility-heart")
    epsilons, seeds = ((1.0,), 1) if quick else (EPSILONS, options.seeds or SEEDS)
    heart = Heart(rounds=5 if quick else 20)
    clear = heart.reached(kept, "central", inf, 1)["auc"]
    found = {
        (side, epsilon): [heart.reached(kept, side, epsilon, seed)["auc"] for seed in range(1, seeds + 1)]
        for epsilon in epsilons
        for side in SIDES
    }
    return told(found, clear, heart)


def told(found: dict[tuple[str, float], list[float]], clear: float, heart: Heart) -> dict[str, Any]:
    """The figures, by what is missing of an AUC of 1: less is better."""
    epsilons = sorted({epsilon for _, epsilon in found})

    def missing(side: str, epsilon: float) -> dict[str, Any]:
        return figure([100 * (1 - auc) for auc in found[side, epsilon]], "% missing of AUC", f"{side}, {epsilon:g}")

    def compared(epsilon: float) -> dict[str, Any]:
        return comparison(
            missing("distributed", epsilon),
            missing("local", epsilon),
            "less is missing than with local noise",
            times=1.0,
        )

    rows = tuple(
        (f"{epsilon:g}", *(mean([100 * auc for auc in found[side, epsilon]]) for side in SIDES), closed(found, epsilon))
        for epsilon in epsilons
    )
    table = {"title": TABLE, "columns": ("epsilon", *SIDES, "gap closed"), "rows": rows}
    steps = heart.steps
    return {
        **compared(epsilons[0]),
        "figures": {f"epsilon {epsilon:g}": compared(epsilon) for epsilon in epsilons[1:]},
        "tables": [table],
        "notes": [
            f"AUC in percent of {heart.held_out} rows that the hospitals hold out, {len(found['local', epsilons[0]])} "
            f"seeds; without privacy {100 * clear:.2f}",
            f"logistic regression, {steps.rounds} full-batch steps, clip {steps.clip:g}, learning rate "
            f"{steps.learning_rate:g}, delta {DELTA:g}; the same for all, not tuned",
            f"epsilon of the federations is for {heart.steps.rounds} rounds and the default spare attempts, against a "
            "server with A = 1 colluder; central has no spares",
            "gap closed: how much of what local loses against central distributed wins back, by the means; only where "
            "local loses at least half a point. More than 100 % is chance: its noise is larger than central's",
        ],
    }


def closed(found: dict[tuple[str, float], list[float]], epsilon: float) -> str:
    """The share of the gap between local and central that distributed closes; where there is one."""
    central, distributed, local = (100 * statistics.mean(found[side, epsilon]) for side in SIDES)
    return f"{100 * (distributed - local) / (central - local):.0f} %" if central - local >= 0.5 else "no gap"


class Heart:
    """The data of all hospitals, and the steps."""

    def __init__(self, rounds: int) -> None:
        import torch

        from fedsus.tasks import registry
        from fedsus.tasks.groups import joined
        from fedsus.tasks.heart import HeartDisease
        from fedsus.tasks.task import DataSource
        from fedsus_simulations.clients import datasets

        task = registry.build(registry.resolve(FEDERATION.reference), FEDERATION.settings)
        if not isinstance(task, HeartDisease):
            raise TypeError(f"task 'heart' is a {type(task).__name__}")
        shards = task.groups(DataSource(datasets.shipped("heart"))).values()
        self.task: Task = task
        self._train = joined(shards).train
        self._held: Batch = tuple(torch.cat(parts) for parts in zip(*(shard.held_out for shard in shards), strict=True))
        self.held_out = len(self._held[0])
        self.steps = runs.Steps(
            rounds=rounds,
            rate=1.0,
            examples=len(self._train[0]),
            clip=1.0,
            learning_rate=2.0,
            momentum=0.0,
            schedule="constant",
        )

    def reached(self, kept: Kept, side: str, epsilon: float, seed: int) -> Row:
        """AUC, epsilon of the attempts that were made, and noise, of one run."""
        asked = {
            "side": side,
            "epsilon": None if epsilon == inf else epsilon,
            "seed": seed,
            "delta": DELTA,
            "steps": asdict(self.steps),
            "federation": asdict(FEDERATION),
        }
        return kept.run(asked, lambda: self._measured(side, epsilon, seed))

    def _measured(self, side: str, epsilon: float, seed: int) -> Row:
        match side:
            case "central":
                found = runs.central(self.task, self._train, self.steps, epsilon, DELTA, seed)
            case "distributed":
                found = runs.distributed(FEDERATION, self.steps, epsilon, DELTA, seed)
            case _:
                own = replace(self.steps, examples=self.steps.examples / HOSPITALS)
                privacy = runs.private(own, epsilon, DELTA, "local")
                plan = {"training": own.plain, "privacy": privacy, "strategy": {"name": "fedavg"}}
                found = runs.federated(FEDERATION, FEDERATION.scenario(own.rounds, seed, **plan))
        return {"auc": self.auc(found.model), "spent": min(found.epsilon, 1e9), "noise": found.noise}

    def auc(self, model: Vector) -> float:
        """Of the rows that all hospitals hold out, together."""
        from fedsus.learning.evaluation import auc, scores_of
        from fedsus.learning.parameters import load_into
        from fedsus.tasks.task import Scoring

        if not isinstance(self.task, Scoring):
            raise TypeError("task 'heart' ranks no examples")
        module = self.task.model(0)
        load_into(module, model)
        return float(auc(*scores_of(self.task, module, self._held)))

    def accuracy(self, model: Vector) -> float:
        """Of the same rows, in percent."""
        return runs.accuracy(self.task, model, self._held)


def draw(result: Result, folder: Path) -> Sequence[Path]:
    """Write utility-heart.png and .svg: AUC over epsilon, a line for each side with its spread."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "fedsus"
    table = next(table for table in result.tables if table.title == TABLE)
    epsilons = [float(row[0]) for row in table.rows]
    drawn, axis = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    for column, (side, colour) in enumerate(zip(SIDES, ("#999999", "#0072B2", "#E69F00"), strict=True), 1):
        parts = [str(row[column]).split(" ± ") for row in table.rows]
        spread = [float(part[1]) if len(part) > 1 else 0.0 for part in parts]
        axis.errorbar(epsilons, [float(p[0]) for p in parts], spread, label=side, color=colour, marker="o", capsize=3)
    axis.set(xscale="log", xlabel="epsilon of a row", ylabel="AUC, percent", xticks=epsilons)
    axis.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(title="noise")
    return saved(drawn, folder / "utility-heart")
