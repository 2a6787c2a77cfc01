"""Images for the attacks: Fashion-MNIST as its task loads it, or blots of the same shape where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from fedsus.tasks.fashion import CLASSES, SIDE, FashionMnist, FashionMnistSettings
from fedsus.tasks.task import DataSource, Shard

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Literal

    from numpy.typing import NDArray
    from torch import Tensor

    from fedsus.tasks.task import Batch

Images = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
"""(n, 28, 28) float64, from 0 to 1."""

_BLOTS: Final = 4


@dataclass(frozen=True, slots=True)
class Pool:
    """Images whose owners are attacked, and others that the attacker has.

    Attributes:
        private, public: images (n, 28, 28) uint8 and labels (n,) int64.
    """

    private: Batch
    public: Batch

    def shards(self, rows: NDArray[np.int64], examples: int) -> list[Shard]:
        """Clients of ``examples`` private images each, in the order of ``rows`` (clients * examples,)."""
        return [self.shard(part) for part in rows.reshape(-1, examples)]

    def shard(self, rows: NDArray[np.int64]) -> Shard:
        """One client's. What it holds out is a public image: nothing of it leaves a device here."""
        images, labels = self.private
        index = torch.from_numpy(rows)
        return Shard((images[index], labels[index]), tuple(tensor[:1] for tensor in self.public))


def real(folder: Path) -> Pool:
    """Fashion-MNIST: its training images are private, its test images public.

    Raises:
        DataError: the files are not there.
    """
    shard = task("mlp", 4).load(DataSource(folder))
    return Pool(shard.train, shard.held_out)


def made_up(count: int, seed: int = 0) -> Pool:
    """``count`` private and as many public images of bright blots; the label is the first blot's place."""
    random = np.random.default_rng(seed)
    places, sizes = random.uniform(4, SIDE - 4, (2 * count, _BLOTS, 2)), random.uniform(1.5, 4, (2 * count, _BLOTS))
    heights = random.uniform(0.3, 1.0, (2 * count, _BLOTS))
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), axis=-1)
    squares = ((grid - places[:, :, None, None]) ** 2).sum(axis=-1)
    blots = heights[:, :, None, None] * np.exp(-squares / (2 * sizes[:, :, None, None] ** 2))
    images = torch.from_numpy((255 * np.clip(blots.sum(axis=1), 0, 1)).astype(np.uint8))
    labels = torch.from_numpy((places[:, 0, 0] * CLASSES / SIDE).astype(np.int64))
    return Pool((images[:count], labels[:count]), (images[count:], labels[count:]))


def task(network: Literal["mlp", "cnn"], width: int) -> FashionMnist:
    """The task, whatever its images."""
    return FashionMnist(FashionMnistSettings(network=network, width=width))


def scaled(images: Tensor) -> Images:
    """Pixels from 0 to 1, as the model sees them."""
    pixels: Images = images.numpy().astype(np.float64) / 255.0
    return pixels


def together(shards: Sequence[Shard]) -> Images:
    """All training images of some clients, in order."""
    return scaled(torch.cat([shard.train[0] for shard in shards]))
