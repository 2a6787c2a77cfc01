"""The heart task as the `agent` benchmark trains it, on both sides alike: DP-SGD, one local epoch a round."""

from __future__ import annotations

import os
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.plan import ExamplePrivacy, Training

if TYPE_CHECKING:
    from fedsus.types import Vector

DATA: Final = Path(str(files("fedsus.tasks"))) / "data" / "heart" / "cleveland.csv"
ROUNDS: Final = 6
MARKS: Final = "FEDSUS_BENCH_MARKS"
"""Environment variable of the peer: the file that gets a line when its client begins to train."""

PRIVACY: Final = ExamplePrivacy(
    epsilon=8.0, delta=1e-5, clip=1.0, sampling_rate=0.1, steps=10, denominator=20.0, noise_multiplier=1.0
)


def train_once(model: Vector) -> Vector:
    """One round of local training with the trainer of fedsus; the model after it, (d,) float32."""
    from fedsus.learning import trainer_for
    from fedsus.learning.settings import Compute, TrainSettings
    from fedsus.privacy.noise import SystemNoise
    from fedsus.tasks import registry
    from fedsus.tasks.task import DataSource

    task = registry.build(registry.resolve("heart"), {})
    trainer = trainer_for(task, PRIVACY, Compute("cpu", os.cpu_count() or 1), SystemNoise())
    with Path(os.environ[MARKS]).open("a", encoding="ascii") as file:
        file.write(f"{time.time()}\n")
    settings = TrainSettings(Training(), PRIVACY, 1, ROUNDS)
    (update,) = trainer.train(model, [task.load(DataSource(DATA))], settings, [1], lambda: False)
    return model + update.delta
