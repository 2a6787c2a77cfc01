"""Fashion-MNIST on 100 clients, unit an example, noise in shares, against DP-SGD over the same images in one place.

Both spend (3, 1e-5): the federation against a server that works with 10 of the clients, of whom 5 more may fall out in
any round. Both are test errors in percent: the federation may lose half a point.

    cnn         the network of fedsus' task; Tramèr and Boneh (2021) reach 86.0 with a network of theirs
    scattering  a linear model of the images' scattering coefficients; they reach 89.7
"""

from __future__ import annotations

import functools
import statistics
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsus_simulations.benchmarks import simulate_data, utility_tasks
from fedsus_simulations.benchmarks import utility_runs as runs
from fedsus_simulations.benchmarks.result import comparison, figure
from fedsus_simulations.benchmarks.utility_kept import Kept, Options, mean

if TYPE_CHECKING:
    from fedsus.tasks.task import Shard, Task
    from fedsus_simulations.benchmarks.utility_kept import Row

EPSILON: Final = 3.0
DELTA: Final = 1e-5
CLIENTS: Final = 100
COLLUDERS: Final = 10
DROPOUTS: Final = 5
IMAGES: Final = 60_000
POINTS: Final = 0.5
"""Most that the federation may lose against central DP-SGD."""
SEEDS: Final = 5
SIDES: Final = ("central", "distributed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model, and how it is trained.

    Attributes:
        least: accuracy in percent that central DP-SGD should reach.
        peer: what Tramèr and Boneh reach at the same epsilon.
    """

    name: str
    reference: str
    settings: dict[str, Any]
    steps: runs.Steps
    least: float
    peer: float

    def federation(self, folder: Path) -> runs.Federation:
        """The clients, each with as many random rows of the data in ``folder``."""
        return runs.Federation(
            reference=self.reference,
            settings=self.settings,
            population={"data": str(folder), "partition": "iid", "clients": CLIENTS},
            clients=CLIENTS,
            colluders=COLLUDERS,
            dropouts=DROPOUTS,
            spares=0,
        )


CNN: Final = Case(
    name="cnn",
    reference="fashion-mnist",
    settings={"network": "cnn", "width": 16},
    steps=runs.Steps(rounds=220, rate=4096 / IMAGES, examples=IMAGES, clip=0.1, learning_rate=16.0),
    least=85.5,
    peer=86.0,
)
SCATTERING: Final = Case(
    name="scattering",
    reference=utility_tasks.SCATTERED,
    settings={},
    steps=runs.Steps(
        rounds=293, rate=8192 / IMAGES, examples=IMAGES, clip=0.1, learning_rate=16.0, schedule="constant"
    ),
    least=89.5,
    peer=89.7,
)


def run(quick: bool, options: Options = Options()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Both sides with every seed, of the CNN and, where there are features, of the linear model."""
    kept = Kept.of(options, "utility-fashion")
    with tempfile.TemporaryDirectory(prefix="fs-") as name:
        files, real = simulate_data.images(options.data, Path(name) / "images")
        cases = [(CNN, files)]
        if options.features is not None:
            cases.append((SCATTERING, options.features.resolve()))
        if quick:
            cases = [(small(case), folder) for case, folder in cases]
        seeds = range(1, 1 + (1 if quick else options.seeds or SEEDS))
        found = {
            case.name: {side: [reached(kept, case, folder, side, seed) for seed in seeds] for side in SIDES}
            for case, folder in cases
        }
    notes = [] if real else [simulate_data.MADE]
    if options.features is None:
        notes.append("no linear model: --features names no folder of scripts/scattering.py")
    return told([case for case, _ in cases], found, notes)


def small(case: Case) -> Case:
    """A few steps of a smaller network."""
    settings = case.settings | ({"width": 8} if "width" in case.settings else {})
    return replace(case, settings=settings, steps=replace(case.steps, rounds=10))


def reached(kept: Kept, case: Case, folder: Path, side: str, seed: int) -> Row:
    """Accuracy in percent, epsilon of the attempts that were made, and noise, of one run."""
    federation = case.federation(folder)
    words = asdict(federation) | {"population": {**federation.population, "data": case.name}}
    asked = {
        "case": case.name,
        "side": side,
        "seed": seed,
        "epsilon": EPSILON,
        "delta": DELTA,
        "steps": asdict(case.steps),
        "federation": words,
    }

    def measured() -> Row:
        task, shard = _loaded(case.name, folder, case.reference, tuple(case.settings.items()))
        if side == "central":
            quick = utility_tasks.closed_form(shard.train) if isinstance(task, utility_tasks.Scattered) else None
            found = runs.central(task, shard.train, case.steps, EPSILON, DELTA, seed, quick)
        else:
            found = runs.distributed(federation, case.steps, EPSILON, DELTA, seed)
        score = runs.accuracy(task, found.model, shard.held_out)
        return {"accuracy": score, "spent": found.epsilon, "noise": found.noise}

    return kept.run(asked, measured)


@functools.lru_cache(maxsize=1)
def _loaded(name: str, folder: Path, reference: str, settings: tuple[tuple[str, Any], ...]) -> tuple[Task, Shard]:
    del name
    from fedsus.tasks import registry
    from fedsus.tasks.task import DataSource

    task = registry.build(registry.resolve(reference), dict(settings))
    return task, task.load(DataSource(folder))


def told(cases: list[Case], found: dict[str, dict[str, list[Row]]], notes: list[str]) -> dict[str, Any]:
    """The figures, by test errors: less is better."""
    figures: dict[str, Any] = {}
    rows = []
    for case in cases:
        accuracies = {side: [row["accuracy"] for row in found[case.name][side]] for side in SIDES}
        ours, central = (
            figure([100 - value for value in accuracies[side]], "% test error", f"{case.name}, {side}")
            for side in SIDES[::-1]
        )
        most = statistics.mean([100 - value for value in accuracies["central"]]) + POINTS
        label = f"{case.name}: distributed and central"
        figures[label] = comparison(ours, central, f"within {POINTS:g} points of central's mean", most=most)
        paper = figure([100 - case.peer], "% test error", "Tramèr and Boneh 2021")
        figures[f"{case.name}: central and Tramèr and Boneh's"] = comparison(
            central, paper, f"accuracy of {case.least:g} % or more", most=100 - case.least
        )
        lost = statistics.mean(accuracies["central"]) - statistics.mean(accuracies["distributed"])
        for side in SIDES:
            first = found[case.name][side][0]
            values = (mean(accuracies[side]), f"{first['spent']:.4g}", f"{first['noise']:.3f}")
            rows.append((case.name, side, len(accuracies[side]), *values, f"{lost:.2f}" if side != "central" else ""))
    columns = ("model", "side", "seeds", "accuracy, %", "epsilon", "noise / clip", "points lost")
    top = next(iter(figures))
    return {
        **figures.pop(top),
        "figures": figures,
        "tables": [{"title": "accuracy on the 10,000 test images", "columns": columns, "rows": tuple(rows)}],
        "notes": [
            f"epsilon at delta {DELTA:g}; of distributed against a server with A = {COLLUDERS} of {CLIENTS} clients, "
            f"by its shares of noise of {CLIENTS - DROPOUTS} survivors, without spare attempts",
            "noise / clip: standard deviation of the noise on a sum of gradients when nobody falls out. Central is by "
            "the PLD accountant; distributed by Renyi divergences, with the shares of colluders and dropouts on top",
            "the CNN's learning rate was chosen of 4 and 16, by 73 steps of a network of half the width, on the last "
            "10,000 training images; nothing was chosen on the test images",
            *(_words(case) for case in cases),
            *notes,
        ],
    }


def _words(case: Case) -> str:
    steps = case.steps
    return (
        f"{case.name}: {steps.rounds} steps, batches of {steps.denominator:.0f} in the mean, clip {steps.clip:g}, "
        f"learning rate {steps.learning_rate:g} ({steps.schedule}), momentum {steps.momentum:g}"
    )
