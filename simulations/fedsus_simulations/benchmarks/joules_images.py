"""Fashion-MNIST on whole devices in this process: what the variants cost where training outweighs messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.config import RunConfig, validate
from fedsus.errors import DataError
from fedsus.plan import Scalar
from fedsus.tasks import registry
from fedsus.tasks.fashion import FILES
from fedsus.tasks.task import DataSource
from fedsus_simulations.benchmarks import simulate_data
from fedsus_simulations.benchmarks import utility_runs as runs
from fedsus_simulations.benchmarks.joules_memory import Whole
from fedsus_simulations.benchmarks.joules_variants import DELTA, EPSILON, Variant
from fedsus_simulations.benchmarks.processes import timed

if TYPE_CHECKING:
    from torch import Tensor

    from fedsus.tasks.task import Batch, Shard, Task
    from fedsus_simulations.benchmarks.joules_spent import Spent

TASK: Final = "fashion-mnist"
SETTINGS: Final[dict[str, Scalar]] = {"network": "mlp", "width": 64}
_BATCH: Final = 50
_HELD: Final = 100


def divided(folder: Path, shard: Shard, clients: int, each: int) -> dict[str, DataSource]:
    """Training images dealt out at random, as files of each device's own below ``folder``.

    Raises:
        DataError: there are too few.
    """
    if shard.size < clients * each:
        raise DataError(f"{shard.size} images are too few: {clients} devices have {each} each; name more with --data")
    order = np.random.default_rng(1).permutation(shard.size)[: clients * each].reshape(clients, -1)
    found = {}
    for number, chosen in enumerate(order, 1):
        place = folder / f"device-{number:02}"
        _hand_over(place, [*(part[chosen] for part in shard.train), *shard.held_out])
        found[place.name] = DataSource(place)
    return found


@dataclass(slots=True)
class Images:
    """Runs of all variants, block by block.

    Args:
        folder: for journals, ledgers and records, and each device's own images.
        data: the four IDX files.
        each: training images of a device.
        rounds: of each run.
        clients: devices.

    Attributes:
        held_out: images that accuracy is of.

    Raises:
        DataError: no such files, or too few images.
    """

    folder: Path
    data: Path
    each: int
    rounds: int
    clients: int = 10
    task: Task = field(init=False)
    held_out: Batch = field(init=False)
    devices: Whole = field(init=False)

    def __post_init__(self) -> None:
        self.task = registry.build(registry.resolve(TASK), SETTINGS)
        shard = self.task.load(DataSource(self.data))
        self.held_out = shard.held_out
        sources = divided(self.folder / "data", shard, self.clients, self.each)
        self.devices = Whole(folder=self.folder / "runs", reference=TASK, sources=sources)

    def block(self, order: Sequence[Variant], number: int) -> dict[str, Spent]:
        """Variant -> what its run used, one after the other.

        Raises:
            RunFailed: a round lost a device, or a figure is missing.
        """
        with timed(f"images, block {number + 1}"):
            return {variant.name: self.run(variant, number) for variant in order}

    def run(self, variant: Variant, block: int) -> Spent:
        """One run with fresh devices; the initial model and the order of training are the block's."""
        spent, model = self.devices.run(self.config(variant), f"{variant.file}-{block}", block)
        return replace(spent, accuracy=runs.accuracy(self.task, model, self.held_out))

    def config(self, variant: Variant) -> RunConfig:
        """As many steps with DP as without, of as many images on average: Poisson batches."""
        plain: dict[str, Any] = {
            "rounds": self.rounds,
            "deadline": 600.0,
            "cohort": {"size": self.clients, "minimum": self.clients // 2 + 1},
            "training": {
                "local_epochs": 1,
                "batch_size": _BATCH,
                "optimizer": {"name": "sgd", "learning_rate": 0.1},
            },
        }
        privacy = {"unit": "example", "placement": "local", "epsilon": EPSILON, "delta": DELTA, "clip": 1.0}
        # A larger step, as the demo's: each gradient is clipped.
        steps = plain["training"] | {"optimizer": {"name": "sgd", "learning_rate": 0.5}}
        private = plain | {
            "training": steps,
            "privacy": privacy | {"sampling_rate": _BATCH / self.each, "denominator": float(_BATCH)},
        }
        fields = {"task": {"name": TASK, "settings": SETTINGS}, "plan": variant.plan(plain, private)}
        return validate(fields, RunConfig, "benchmark")


def _hand_over(folder: Path, tensors: Sequence[Tensor]) -> None:
    """The files of one device; of the held-out images a few, for it reports no metrics of them."""
    folder.mkdir(parents=True)
    for file, tensor in zip(FILES, tensors, strict=True):
        kept = tensor if file in FILES[:2] else tensor[:_HELD]
        simulate_data.write_idx(folder / file, kept.numpy().astype(np.uint8))
