"""The two sides of the utility benchmarks: a federation in which nobody is trusted, and its data brought together.

The federation is a scenario as ``fedsus simulate`` runs it: the real plan, calibration, trainer and mechanism, without
masks, which change no sum. The other side is DP-SGD over the union (Abadi et al. 2016, Algorithm 1) and nothing else:
Poisson batches of the same rate, the same clip, steps, learning rates and momentum, Gaussian noise by the PLD
accountant, no spare attempts, nobody who drops out.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus import plan as plans

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import nn

    from fedsus.rounds.planning.specification import Specification
    from fedsus.tasks.task import Batch, Task
    from fedsus.types import Vector

    Sums = Callable[[Vector, NDArray[np.intp], float], NDArray[np.float64]]
    """Of the clipped gradients at a model (d,), of the examples in some rows, with a clip: (d,) float64."""

MOMENTUM: Final = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Gradient steps that both sides take.

    Attributes:
        rounds: as many steps.
        rate: q, the chance of each example to be in a step's batch.
        examples: of all clients together; a public number.
        clip: L2 bound of one example's gradient.
        learning_rate: of the first step.
        momentum: the server's, or the optimizer's.
        schedule: of the learning rate, as a plan names it.
    """

    rounds: int
    rate: float
    examples: float
    clip: float
    learning_rate: float
    momentum: float = MOMENTUM
    schedule: str = "cosine"

    @property
    def denominator(self) -> float:
        """What divides a noised sum of gradients."""
        return self.rate * self.examples

    @property
    def training(self) -> plans.Training:
        """As a plan has it."""
        return plans.Training.model_validate(self.plain)

    @property
    def plain(self) -> dict[str, Any]:
        """As a scenario has it."""
        return {
            "local_epochs": 1,
            "optimizer": {"name": "sgd", "learning_rate": self.learning_rate},
            "schedule": {"name": self.schedule},
        }


@dataclass(frozen=True, slots=True)
class Reached:
    """A model, and what it spent.

    Attributes:
        epsilon: infinity without privacy.
        noise: standard deviation of the noise on a sum of gradients, or of updates, over the clip.
        update: bytes of one client's packed update in a round; 0 where nothing is sent.
        down: bytes that one client receives in a round after the first, without masks.
    """

    model: Vector
    epsilon: float
    noise: float
    update: int = 0
    down: float = 0.0


@functools.lru_cache(maxsize=64)
def gaussian(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The noise multiplier of DP-SGD by the PLD accountant; 0 without privacy."""
    from fedsus.privacy.calibration import calibrate

    return 0.0 if epsilon == float("inf") else calibrate(epsilon, delta, rate, steps)


def central(
    task: Task, train: Batch, steps: Steps, epsilon: float, delta: float, seed: int, sums: Sums | None = None
) -> Reached:
    """DP-SGD over ``train``; plain SGD with clipped gradients for an infinite epsilon.

    Args:
        sums: a quicker way to the sum of clipped gradients; None for that of any model.
    """
    from fedsus.learning.parameters import flatten
    from fedsus_simulations.scenario.seeding import generator, number

    multiplier = gaussian(epsilon, delta, steps.rate, steps.rounds)
    random = generator(seed, "central")
    module = task.model(number(seed, "model") % 2**31)
    model = flatten(module).astype(np.float64)
    sums = sums or layerwise(task, module, train)
    velocity = np.zeros_like(model)
    for step in range(1, steps.rounds + 1):
        chosen = np.flatnonzero(random.random(len(train[0])) < steps.rate)
        total = sums(model.astype(np.float32), chosen, steps.clip)
        total += random.normal(0.0, 1.0, model.size) * (multiplier * steps.clip)
        velocity *= steps.momentum
        velocity -= total * (plans.learning_rate(steps.training, step, steps.rounds) / steps.denominator)
        model += velocity
    return Reached(model.astype(np.float32), epsilon, multiplier)


def layerwise(task: Task, module: nn.Module, train: Batch) -> Sums:
    """The sums of any model, as devices compute them."""
    import torch

    from fedsus.learning.clipped_sums import ClippedSums
    from fedsus.learning.parameters import Flat

    flat = Flat(module, torch.device("cpu"))
    sums = ClippedSums(task, flat, torch.device("cpu"))

    def total(model: Vector, chosen: NDArray[np.intp], clip: float) -> NDArray[np.float64]:
        flat.load(torch.from_numpy(model))
        return sums.sum(train, chosen, clip)

    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Federation:
    """Whose examples they are, and what its sums withstand.

    Attributes:
        reference: the task's class, or its name.
        settings: of the task.
        population: as a scenario has it.
        clients: all are asked in each round.
        colluders: A.
        dropouts: clients of a round that may fall out; the noise is enough without them.
        spares: attempts that may fail, and are accounted; None for the default of a run.
    """

    reference: str
    settings: dict[str, Any]
    population: dict[str, Any]
    clients: int
    colluders: int
    dropouts: int = 0
    spares: int | None = None

    def scenario(self, rounds: int, seed: int, **plan: Any) -> dict[str, Any]:
        """The scenario with these parts of the plan."""
        return {
            "name": "utility",
            "seed": seed,
            "task": {"name": self.reference.rpartition(":")[2].lower(), "settings": self.settings},
            "plan": {
                "rounds": rounds,
                **({} if self.spares is None else {"spare_attempts": self.spares}),
                "deadline": 3600.0,
                "cohort": {"size": self.clients, "minimum": max(3, self.clients - self.dropouts)},
                "exchange": "secure_sum",
                "secure_sum": {"colluders": self.colluders, "dropouts": self.dropouts},
                **plan,
            },
            "population": self.population,
            "simulation": {"masks": "none", "evaluate_every": 0},
        }


def private(steps: Steps, epsilon: float, delta: float, placement: str) -> dict[str, Any]:
    """The plan's part for a unit of one example."""
    return {
        "unit": "example",
        "placement": placement,
        "epsilon": epsilon,
        "delta": delta,
        "clip": steps.clip,
        "sampling_rate": steps.rate,
        "denominator": steps.denominator,
    }


def distributed(federation: Federation, steps: Steps, epsilon: float, delta: float, seed: int) -> Reached:
    """The same steps by the federation: one a round, its noise in shares."""
    strategy = {"name": "fedavgm", "momentum": steps.momentum} if steps.momentum else {"name": "fedavg"}
    privacy = private(steps, epsilon, delta, "distributed")
    return federated(
        federation, federation.scenario(steps.rounds, seed, training=steps.plain, privacy=privacy, strategy=strategy)
    )


def federated(federation: Federation, scenario: dict[str, Any]) -> Reached:
    """Run a scenario; epsilon is of the attempts that it made and the noise that its plans say.

    Raises:
        RunFailed: no attempts are left.
    """
    from fedsus.rounds.server_half.traffic import upload
    from fedsus_simulations.running.outcome import outcome
    from fedsus_simulations.running.simulation import Simulation
    from fedsus_simulations.scenario.config import Scenario

    wanted = Scenario.model_validate(scenario)
    with tempfile.TemporaryDirectory(prefix="fs-") as name:
        folder = Path(name) / "run"
        simulation = Simulation.of(wanted, Path(name), federation.reference, loader=_loader(federation.reference))
        try:
            model = simulation.run(folder, "utility")
        finally:
            simulation.close()
        found = outcome(folder, wanted.seed)
        opened = _opened(folder)
        update = upload(opened.first_plan, None).update
        spent = float("inf") if found.epsilon is None else found.epsilon
        return Reached(model, spent, _noise(opened), update, _down(folder, federation.clients))


@functools.lru_cache(maxsize=1)
def _loader(reference: str) -> Any:
    """Keeps the data of one task between runs."""
    from fedsus_simulations.running.simulation import Loader

    return Loader(Path(), reference)


def _opened(folder: Path) -> Specification:
    from fedsus.journal.entries import RunOpened
    from fedsus.reporting import read
    from fedsus.rounds.planning.specification import specification_of

    return specification_of(next(entry for entry in read(folder) if isinstance(entry, RunOpened)))


def _down(folder: Path, clients: int) -> float:
    """Mean bytes that a client received in each released round after the first; 0 where there is none."""
    from fedsus.journal.entries import RoundReleased
    from fedsus.reporting import read

    sent = [entry.bytes_sent for entry in read(folder) if isinstance(entry, RoundReleased) and entry.round > 1]
    return sum(sent) / max(len(sent), 1) / clients


def _noise(opened: Specification) -> float:
    """Standard deviation over the clip of the noise on the sum over all clients; 0 without."""
    from fedsus.protection import ClientCentral, ClientDistributed, ExampleDistributed, ExamplePrivacy

    clients = opened.config.plan.cohort.size
    match opened.privacy:
        case ExampleDistributed() | ClientDistributed() as privacy:
            return float((privacy.shares.variance * clients) ** 0.5 / privacy.shares.scale / privacy.clip)
        case ClientCentral() as privacy:
            return privacy.noise_multiplier
        case ExamplePrivacy() as privacy:
            return float(privacy.noise_multiplier * clients**0.5)
        case _:
            return 0.0


def accuracy(task: Task, model: Vector, batch: Batch) -> float:
    """Share of the examples of ``batch`` whose class is found, in percent."""
    from fedsus.learning.evaluation import totals
    from fedsus.learning.parameters import load_into

    module = task.model(0)
    load_into(module, model)
    sums = totals(task, module, batch)
    return 100 * float(sums[list(task.bounds).index("accuracy")]) / len(batch[0])
