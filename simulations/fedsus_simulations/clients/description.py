"""A partition in numbers and as a picture: how much each client has, and of which classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus_simulations.clients.partitions import classes
from fedsus_simulations.clients.population import Divided, Sampled
from fedsus_simulations.pictures import saved

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fedsus.tasks.task import Shard
    from fedsus_simulations.clients.population import Population

LOOKED_AT: Final = 1000
"""Of more clients, so many, spread evenly, are looked at for their classes."""

DRAWN: Final = 100
NAME: Final = "population"


@dataclass(frozen=True, slots=True)
class Description:
    """A population in numbers.

    Attributes:
        fewest, median, most: training examples of a client.
        kinds: classes of all clients together; None where targets are no classes.
        classes: fewest, median and most classes of a client, of those looked at.
        largest: median over these of the share of a client's examples that are of its commonest class.
    """

    clients: int
    examples: int
    fewest: int
    median: float
    most: int
    kinds: int | None = None
    classes: tuple[int, float, int] | None = None
    largest: float | None = None

    def __str__(self) -> str:
        told = f"{self.clients} clients, {self.examples} training examples"
        told += f"; of a client {_range((self.fewest, self.median, self.most))}"
        if self.kinds is None or self.classes is None or self.largest is None:
            return told
        return (
            f"{told}; classes of a client {_range(self.classes)} of {self.kinds}, "
            f"its commonest {self.largest:.0%} of its examples"
        )


def describe(population: Population) -> Description:
    """The numbers of a population."""
    sizes = population.sizes
    count = len(sizes)
    examples = (count, int(sizes.sum()), int(sizes.min()), float(np.median(sizes)), int(sizes.max()))
    found = counts(population, np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(np.int64)).tolist())
    if found is None:
        return Description(*examples)
    own = np.count_nonzero(found, axis=1)
    largest = float(np.median(found.max(axis=1) / found.sum(axis=1).clip(min=1)))
    spread = int(own.min()), float(np.median(own)), int(own.max())
    return Description(*examples, found.shape[1], spread, largest)


def described(population: Population) -> str:
    """A population in one line."""
    return str(describe(population))


def counts(population: Population, positions: Sequence[int]) -> NDArray[np.int64] | None:
    """Training examples of each class, (clients, classes), of the clients at these positions.

    None where targets are no classes. Classes that none of these clients has are counted where all share one data set.
    """
    if isinstance(population, Divided | Sampled):
        whole = classes(population.whole)
        labels = None if whole is None else whole[1]
    else:
        every = [classes(population.shard(position)) for position in positions]
        known = [one[1] for one in every if one is not None]
        labels = np.unique(np.concatenate(known)) if len(known) == len(every) else None
    if labels is None:
        return None
    return np.stack([_counted(population.shard(position), labels) for position in positions])


def draw(population: Population, folder: Path) -> tuple[Path, Path] | None:
    """Write population.png and population.svg into ``folder``: classes by client, of the first 100 clients.

    None, and no file, where targets are no classes.
    """
    shown = min(len(population.names), DRAWN)
    found = counts(population, range(shown))
    if found is None:
        return None
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    with mpl.rc_context({"svg.hashsalt": "fedsus"}):
        figure, axis = pyplot.subplots(figsize=(max(4.0, 1.5 + 0.08 * shown), 3.2), layout="constrained")
        picture = axis.imshow(found.T, aspect="auto", cmap="viridis", interpolation="nearest", origin="lower")
        everybody = len(population.names)
        title = f"{everybody} clients" if shown == everybody else f"the first {shown} of {everybody} clients"
        axis.set(xlabel="client", ylabel="class", title=title, yticks=range(found.shape[1]))
        figure.colorbar(picture, label="training examples")
        return saved(figure, folder / NAME)


def _counted(shard: Shard, labels: NDArray[np.float64]) -> NDArray[np.int64]:
    own = np.searchsorted(labels, shard.train[1].numpy().astype(np.float64))
    return np.bincount(own, minlength=len(labels))


def _range(numbers: tuple[int, float, int]) -> str:
    low, median, high = numbers
    return f"{low}" if low == high else f"{low} to {high}, median {median:g}"
