"""The networks of `peer_work` as tasks of fedsus, so that ours and its peers train the same."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import BaseModel, Field
from torch import Tensor, nn

from fedsus.plan import Strict
from fedsus.tasks.fashion import FashionMnist, FashionMnistSettings
from fedsus.tasks.seeding import seeded
from fedsus.tasks.task import Batch, DataSource, Forward, Shard
from fedsus_simulations.benchmarks.peer_work import network, trivial

IMAGES: Final = f"{__name__}:Images"
TRIVIAL: Final = f"{__name__}:Trivial"


class ImagesSettings(Strict):
    """Which of the networks."""

    network: Literal["mlp", "cnn"] = "mlp"


class Images(FashionMnist):
    """Fashion-MNIST with one of the networks that the peers train."""

    Settings: ClassVar[type[BaseModel]] = ImagesSettings

    def __init__(self, settings: ImagesSettings) -> None:
        super().__init__(FashionMnistSettings())
        self._network = settings.network

    def model(self, seed: int) -> nn.Module:
        """(B, 1, 28, 28) float32 -> (B, 10) logits."""
        with seeded(seed):
            return network(self._network)


class TrivialSettings(Strict):
    """How many examples there are, each another client's."""

    rows: Annotated[int, Field(ge=1, le=10_000_000)] = 1000


class Trivial:
    """1,000 parameters, trained on one number: see `fedsus.tasks.task.Task`. The source is not read."""

    Settings: ClassVar[type[BaseModel]] = TrivialSettings
    bounds: ClassVar[dict[str, tuple[float, float]]] = {"loss": (0.0, 100.0)}

    def __init__(self, settings: TrivialSettings) -> None:
        self._rows = settings.rows

    def model(self, seed: int) -> nn.Module:
        """(B, 1) -> (B, 500)."""
        with seeded(seed):
            return network("trivial")

    def load(self, source: DataSource) -> Shard:
        """The numbers of all clients: (rows, 1) float32 and (rows,) float32; nothing held out."""
        del source
        inputs, targets = trivial(self._rows)
        return Shard((inputs, targets), (inputs[:0], targets[:0]))

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        """Half the squared error, (B,)."""
        inputs, targets = batch
        return 0.5 * (model(inputs).mean(dim=1) - targets) ** 2

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        """The loss, (B, 1)."""
        return self.loss(model, batch).clamp(max=100.0)[:, None]
