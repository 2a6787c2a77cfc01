"""The federations whose costs are compared with fewer bytes, up and down."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Final

from fedsus_simulations.benchmarks import utility_runs as runs
from fedsus_simulations.benchmarks import utility_tasks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DELTA: Final = 1e-5
HEART: Final = "heart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A federation, and how it learns.

    Attributes:
        privacy: of the plan, beside epsilon and delta.
        training: without DP, and with it where ``private_training`` is not given.
    """

    name: str
    federation: runs.Federation
    rounds: int
    training: Mapping[str, Any]
    privacy: Mapping[str, Any]
    private_training: Mapping[str, Any] = field(default_factory=dict)

    def scenario(self, how: tuple[str, float], epsilon: float, seed: int) -> dict[str, Any]:
        """One run."""
        name, share = how
        parts: dict[str, Any] = {"training": self.training, "privacy": {"unit": "none"}, "encoding": {}}
        if epsilon < inf:
            parts["privacy"] = {**self.privacy, "epsilon": epsilon, "delta": DELTA}
            parts["training"] = self.private_training or self.training
        if share < 1:
            parts["encoding"] = {"uplink": {"name": name, "share": share}}
        return self.federation.scenario(self.rounds, seed, strategy={"name": "fedavg"}, **parts)


def fashion(folder: Path) -> Case:
    """A tenth may collude, another tenth fall out."""
    population = {"data": str(folder), "partition": "dirichlet", "alpha": 0.5, "clients": 100}
    return Case(
        name="fashion",
        federation=runs.Federation(
            reference=utility_tasks.LINEAR,
            settings={},
            population=population,
            clients=100,
            colluders=10,
            dropouts=10,
            spares=0,
        ),
        rounds=15,
        training={"local_epochs": 1, "batch_size": 10, "optimizer": {"name": "sgd", "learning_rate": 0.1}},
        privacy={"unit": "client", "placement": "distributed", "clip": 0.5},
    )


def heart() -> Case:
    """One hospital may work with the server."""
    population = {"data": "heart", "partition": "groups"}
    steps = runs.Steps(rounds=20, rate=1.0, examples=691, clip=1.0, learning_rate=2.0, momentum=0.0)
    privacy = runs.private(steps, 1.0, DELTA, "distributed")
    return Case(
        name=HEART,
        federation=runs.Federation(reference="heart", settings={}, population=population, clients=4, colluders=1),
        rounds=steps.rounds,
        training={"local_epochs": 1, "batch_size": 16, "optimizer": {"name": "sgd", "learning_rate": 0.1}},
        privacy=privacy,
        private_training=steps.plain,
    )
