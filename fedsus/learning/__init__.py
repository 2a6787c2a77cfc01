"""Local training and evaluation: the trainers of a device and of a simulation.

Importing this package loads no torch; `trainer_for` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fedsus.protection import ExampleDistributed, ExamplePrivacy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fedsus.learning.settings import Compute, TrainSettings
    from fedsus.plan import Privacy
    from fedsus.tasks.task import Shard, Task
    from fedsus.types import LocalUpdate, Noise, Stop, Vector


class Trainer(Protocol):
    """Turns the global model and shards into updates."""

    def train(
        self, model: Vector, shards: Sequence[Shard], settings: TrainSettings, seeds: Sequence[int], stop: Stop
    ) -> Iterator[LocalUpdate]:
        """One update for each shard, in order; ``model`` (d,) float32 is not changed.

        Raises:
            Cancelled: ``stop`` said so.
            ConfigError: the settings do not fit this trainer, the model or the hardware.
        """
        ...


def trainer_for(
    task: Task,
    privacy: Privacy,
    compute: Compute,
    noise: Noise,
) -> Trainer:
    """The trainer for the privacy part of a plan: whose noise, if any, is added while training.

    Raises:
        ConfigError: the model is not trainable so, or the device is not there.
    """
    match privacy:
        case ExamplePrivacy():
            from fedsus.learning.dp_sgd import DpSgdTrainer

            return DpSgdTrainer(task, compute, noise)
        case ExampleDistributed():
            from fedsus.learning.gradient_sums import GradientSumTrainer

            return GradientSumTrainer(task, compute, noise)
        case _:
            from fedsus.learning.loop import LoopTrainer

            return LoopTrainer(task, compute)
