"""What the demo compares: one task, four hospitals, six answers, and how they are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import util
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from fedsus.config import RunConfig

if TYPE_CHECKING:
    from fedsus.tasks.task import Batch, DataSource, Shard, Task
    from fedsus.types import Vector

HOSPITALS: Final[Mapping[str, str]] = {
    "cleveland": "Cleveland",
    "hungary": "Budapest",
    "switzerland": "Zurich and Basel",
    "va": "VA Long Beach",
}
COUNTRIES: Final[Mapping[str, str]] = {"cleveland": "USA", "hungary": "HUN", "switzerland": "CHE", "va": "USA"}
"""Whose grid each hospital is on. The server stands in the United States."""
SEEDS: Final = range(5)
DELTA: Final = 1e-5
POOLED, ALONE = "pooled", "alone"
TASK: Final = "heart"


@dataclass(frozen=True, slots=True)
class Federated:
    """One federated answer: its name in the table, its privacy, and how updates are summed."""

    name: str
    title: str
    epsilon: float | None
    exchange: Literal["secure_sum", "clear_sum"] = "secure_sum"

    def config(self, rounds: int) -> RunConfig:
        """Its run.toml as configuration."""
        return RunConfig.model_validate(self.fields(rounds))

    def fields(self, rounds: int) -> dict[str, Any]:
        """Its run.toml as plain data. Under DP a larger step, since each gradient is clipped to 0.5."""
        private = self.epsilon is not None
        plan: dict[str, Any] = {
            "rounds": rounds,
            "deadline": 60.0,
            "exchange": self.exchange,
            "cohort": {"size": 4, "minimum": 3},
            "training": {
                "local_epochs": 1,
                "batch_size": 16,
                "optimizer": {"name": "sgd", "learning_rate": 0.5 if private else 0.1},
            },
            "strategy": {"name": "fedavg"},
        }
        if private:
            plan["privacy"] = {
                "unit": "example",
                "epsilon": self.epsilon,
                "delta": DELTA,
                "clip": 0.5,
                "sampling_rate": 0.1,
                "denominator": 20.0,
            }
        else:
            plan["metrics"] = [
                {"name": "loss", "low": 0.0, "high": 10.0},
                {"name": "accuracy", "low": 0.0, "high": 1.0},
            ]
            if self.exchange == "secure_sum":  # in clear the server would see each hospital's own figures
                plan["costs"] = {"joules": 1000.0, "grams": 1.0}
        asked = {"name": self.name, "task": {"name": TASK}, "plan": plan, "server": {"model": "model.safetensors"}}
        outside = {"network": {}, "embodied": {"machine": "laptop"}}  # by published figures, marked as assumed
        return asked | {"carbon": grid("USA").get("carbon", {}) | outside}


FEDERATED: Final = (
    Federated("federated", "federated", None),
    Federated("epsilon-8", "federated, epsilon 8", 8.0),
    Federated("epsilon-3", "federated, epsilon 3", 3.0),
    Federated("in-clear", "federated, sums in clear", None, "clear_sum"),
)
SECURE, CLEAR = FEDERATED[0], FEDERATED[3]
"""The same training, with secure aggregation and without: what it costs is their difference."""

DEPLOYED: Final = (*FEDERATED[1:3], SECURE, CLEAR)
"""In this order: the two that are timed come last, when the repetitions beside them are done."""


@dataclass(frozen=True, slots=True)
class Judged:
    """How one model does on one hospital's held-out patients.

    Attributes:
        accuracy: share of right answers.
        auc: area under the ROC curve; None with fewer than 5 patients of a class.
        low, high: 95% interval of the AUC (DeLong).
    """

    accuracy: float
    auc: float | None
    low: float | None
    high: float | None


def grid(country: str) -> dict[str, dict[str, str]]:
    """``[carbon]`` of a machine: its country's yearly average, where the table of such averages is installed."""
    return {"carbon": {"country": country}} if util.find_spec("codecarbon") else {}


def packaged(hospital: str) -> Path:
    """The CSV that fedsus ships for a hospital."""
    return Path(str(files("fedsus") / "tasks" / "data" / "heart" / f"{hospital}.csv"))


def heart() -> Task:
    """The task with its default settings."""
    from fedsus.tasks import registry

    return registry.build(registry.resolve(TASK), {})


def judge(task: Task, model: Vector, held_out: Batch) -> Judged:
    """Judge a model on held-out patients."""
    from fedsus.learning.evaluation import auc_interval, owner_report, scores_of
    from fedsus.learning.parameters import load_into

    report = owner_report(task, model, held_out)
    if "auc" not in report:
        return Judged(report["accuracy"], None, None, None)
    module = task.model(0)
    load_into(module, model)
    scores, labels = scores_of(task, module, held_out)  # type: ignore[arg-type]
    _, low, high = auc_interval(scores, labels)
    return Judged(report["accuracy"], report["auc"], low, high)


def train_centrally(task: Task, model: Vector, shard: Shard, rounds: int, seed: int) -> Vector:
    """As many epochs as a federated run has, with the same trainer, on one shard."""
    from fedsus.learning.loop import LoopTrainer
    from fedsus.learning.settings import Compute, TrainSettings
    from fedsus.plan import NoPrivacy

    trainer = LoopTrainer(task, Compute("cpu", 1))
    training = FEDERATED[0].config(rounds).plan.training
    for number in range(1, rounds + 1):
        settings = TrainSettings(training, NoPrivacy(), number, rounds)
        (update,) = trainer.train(model, [shard], settings, [1000 * seed + number], lambda: False)
        model = (model + update.delta).astype(np.float32)
    return model


def pooled(shards: Sequence[Shard]) -> Shard:
    """The hospitals' data brought together: what federation avoids, shown as the ceiling."""
    import torch

    from fedsus.tasks.task import Shard

    def joined(parts: Sequence[Batch]) -> Batch:
        return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

    return Shard(joined([shard.train for shard in shards]), joined([shard.held_out for shard in shards]))


def sources(folder: Path) -> dict[str, DataSource]:
    """Each hospital's own file, below the demo's folder."""
    from fedsus.tasks.task import DataSource

    return {hospital: DataSource(folder / hospital / "data" / "heart.csv") for hospital in HOSPITALS}
