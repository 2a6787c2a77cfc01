"""Fashion-MNIST on 1,000 clients, unit a client: accuracy against epsilon, noise in shares or at the server.

Each client has 60 images, divided by Dirichlet(0.5), all are asked in each round, and send a clipped update of a linear
model after an epoch of their own (FedAvg with momentum at the server). No amplification is claimed: every round counts
in full.

    distributed  against a server that works with 100 clients, of whom 100 more may fall out
    central      against who receives the models; the server is trusted with the sum

Both are test errors in percent.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsus_simulations.benchmarks import simulate_data, utility_tasks
from fedsus_simulations.benchmarks import utility_runs as runs
from fedsus_simulations.benchmarks.result import comparison, figure
from fedsus_simulations.benchmarks.utility_kept import Kept, Options, mean

if TYPE_CHECKING:
    from fedsus_simulations.benchmarks.utility_kept import Row

EPSILONS: Final = (2.0, 8.0)
DELTA: Final = 1e-5
SEEDS: Final = 3
SIDES: Final = ("central", "distributed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large the federation is, and how it learns.

    Attributes:
        clip: L2 bound of a client's update.
        alpha: of the Dirichlet distribution.
    """

    clients: int = 1000
    rounds: int = 15
    clip: float = 0.5
    learning_rate: float = 0.1
    local_epochs: int = 1
    batch_size: int = 10
    momentum: float = 0.9
    alpha: float = 0.5

    def federation(self, folder: Path) -> runs.Federation:
        """A tenth may collude, another tenth fall out."""
        return runs.Federation(
            reference=utility_tasks.LINEAR,
            settings={},
            population={
                "data": str(folder),
                "partition": "dirichlet",
                "alpha": self.alpha,
                "clients": self.clients,
            },
            clients=self.clients,
            colluders=self.clients // 10,
            dropouts=self.clients // 10,
            spares=0,
        )

    @property
    def training(self) -> dict[str, Any]:
        """As a scenario has it."""
        return {
            "local_epochs": self.local_epochs,
            "batch_size": self.batch_size,
            "optimizer": {"name": "sgd", "learning_rate": self.learning_rate},
        }


FULL: Final = Size()
QUICK: Final = Size(clients=100, rounds=3)


def run(quick: bool, options: Options = Options()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Each side at each epsilon, with every seed; and without privacy."""
    kept = Kept.of(options, "utility-clients")
    size, seeds = (QUICK, 1) if quick else (FULL, options.seeds or SEEDS)
    with tempfile.TemporaryDirectory(prefix="fs-") as name:
        files, real = simulate_data.images(options.data, Path(name) / "images")
        found = {
            (side, epsilon): [reached(kept, size, files, side, epsilon, seed) for seed in range(1, 1 + seeds)]
            for side, epsilon in (("clear", inf), *((side, epsilon) for epsilon in EPSILONS for side in SIDES))
        }
    return told(found, size, [] if real else [simulate_data.MADE])


def privacy(size: Size, side: str, epsilon: float) -> dict[str, Any]:
    """The plan's part; without privacy there is none."""
    if side == "clear":
        return {"unit": "none"}
    return {"unit": "client", "placement": side, "epsilon": epsilon, "delta": DELTA, "clip": size.clip}


def reached(kept: Kept, size: Size, folder: Path, side: str, epsilon: float, seed: int) -> Row:
    """Accuracy in percent, epsilon of the attempts that were made, and noise, of one run."""
    federation = size.federation(folder)
    words = asdict(federation) | {"population": {**federation.population, "data": "fashion-mnist"}}
    asked = {
        "side": side,
        "epsilon": None if epsilon == inf else epsilon,
        "seed": seed,
        "delta": DELTA,
        "size": asdict(size),
        "federation": words,
    }

    def measured() -> Row:
        from fedsus.tasks import registry
        from fedsus.tasks.task import DataSource

        strategy = {"name": "fedavgm", "momentum": size.momentum}
        parts = {"training": size.training, "privacy": privacy(size, side, epsilon), "strategy": strategy}
        found = runs.federated(federation, federation.scenario(size.rounds, seed, **parts))
        task = registry.build(registry.resolve(federation.reference), {})
        score = runs.accuracy(task, found.model, task.load(DataSource(folder)).held_out)
        return {"accuracy": score, "spent": min(found.epsilon, 1e9), "noise": found.noise}

    return kept.run(asked, measured)


def told(found: dict[tuple[str, float], list[Row]], size: Size, notes: list[str]) -> dict[str, Any]:
    """The figures, by test errors: less is better."""
    accuracies = {key: [row["accuracy"] for row in rows] for key, rows in found.items()}

    def error(side: str, epsilon: float) -> dict[str, Any]:
        label = side if epsilon == inf else f"{side}, epsilon {epsilon:g}"
        return figure([100 - value for value in accuracies[side, epsilon]], "% test error", label)

    figures = {
        f"epsilon {epsilon:g}": comparison(error("distributed", epsilon), error("central", epsilon))
        for epsilon in EPSILONS
    }
    clear = statistics.mean(accuracies["clear", inf])
    rows = tuple(
        (
            "none" if epsilon == inf else f"{epsilon:g}",
            side,
            len(values),
            mean(values),
            f"{clear - statistics.mean(values):.2f}",
            f"{found[side, epsilon][0]['noise']:.3f}",
        )
        for (side, epsilon), values in accuracies.items()
    )
    columns = ("epsilon", "noise", "seeds", "accuracy, %", "points below no privacy", "noise / clip")
    top = next(iter(figures))
    return {
        **figures.pop(top),
        "figures": figures,
        "tables": [{"title": "accuracy on the 10,000 test images", "columns": columns, "rows": rows}],
        "notes": [
            f"{size.clients} clients, all asked in each of {size.rounds} rounds, Dirichlet({size.alpha:g}); a linear "
            f"model; {size.local_epochs} local epochs, batches of {size.batch_size}, learning rate "
            f"{size.learning_rate:g}, server momentum {size.momentum:g}, clip {size.clip:g}",
            f"epsilon at delta {DELTA:g}, zero-out adjacency, without spare attempts. Of distributed against a server "
            f"with A = {size.clients // 10} colluders; of central against recipients of the models, and infinity "
            "against the server",
            "noise / clip: standard deviation of the noise on the sum of all updates, over the clip",
            "the clip was chosen of 0.2 and 0.5, and the momentum of 0 and 0.9, on the last 10,000 training images, "
            "with the others on the clients; nothing was chosen on the test images",
            *notes,
        ],
    }
