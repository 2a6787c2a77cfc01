"""Where in a batch an example comes, so that an example more does not change how the gradients of others are rounded.

Matrix libraries add in another order for a few rows than for many, and for rows that begin at another place of a
processor's vectors. A model that was made for it turns such a rounding error into another gradient: one example more
would then change those of all. So batches are filled up to a multiple of `ROWS`, and where the model rounds by place,
each example has a lane: it comes only to every n-th place. Its lane is drawn with the example, so that it has the same
beside others. How many lanes a model needs is found out on made-up examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from fedsus.learning.per_example import PerExample
    from fedsus.tasks.task import Batch

ROWS: Final = 16
"""Batches are filled up to a multiple of this; also the most lanes. 16 float32 are one vector or several of all
processors in use."""


@dataclass(frozen=True, slots=True)
class Steady:
    """What keeps rounding as it is.

    Attributes:
        lanes: an example comes to every so many-th place; 1 where the model rounds alike in all.
        rows: batches are a multiple of this; 0 where all must be of one size.
    """

    lanes: int
    rows: int


def drawn_lanes(draws: NDArray[np.float64], rate: float) -> NDArray[np.intp]:
    """Lanes of a Poisson batch, from the uniform draws below ``rate`` that chose its examples: uniform again."""
    lanes: NDArray[np.intp] = np.minimum(draws / rate * ROWS, ROWS - 1).astype(np.intp)
    return lanes


def laid_out(
    chosen: NDArray[np.intp], lanes: NDArray[np.intp], steady: Steady, most: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Rows of the examples in their places, some twice to fill up, and which of them count.

    Args:
        most: places of one pass; each pass is filled up like a batch.
    """
    if not len(chosen):
        return chosen, np.zeros(0, dtype=np.bool_)
    count = min(steady.lanes, most)
    own = lanes % count
    order = np.argsort(own, kind="stable")
    sizes = np.bincount(own, minlength=count)
    before = np.cumsum(sizes) - sizes
    place = np.empty(len(chosen), dtype=np.intp)
    place[order] = (np.arange(len(chosen)) - before[own[order]]) * count + own[order]
    whole = min(steady.rows, most) or most
    length = -(-int(sizes.max()) * count // whole) * whole
    rows, used = np.resize(chosen, length), np.zeros(length, dtype=np.bool_)
    rows[place], used[place] = chosen, True
    return rows, used


def passes(length: int, most: int, steady: Steady) -> Iterator[slice]:
    """Places laid out, at most ``most`` at a time, and about as many in each pass."""
    whole = min(steady.rows, most) or most
    step = -(-length // max(1, -(-length // most)) // whole) * whole
    for first in range(0, length, max(step, 1)):
        yield slice(first, min(first + step, length))


def made_up(batch: Batch, rows: int) -> Batch:
    """Examples that are nobody's, of the same shapes and types: floats within [0, 1), integers 0 or 1."""
    found = []
    for tensor in batch:
        values = torch.rand((rows, *tensor.shape[1:]))
        found.append((values if tensor.is_floating_point() else values > 0.5).to(tensor.device, tensor.dtype))
    return tuple(found)


def steady(way: PerExample, module: nn.Module, batch: Batch) -> Steady:
    """How few lanes will do, and whether batches may differ in size; only shapes of ``batch`` are looked at.

    A model that cannot be tried, or that rounds otherwise however it is laid out, gets all lanes and one size.
    """
    module.train()
    for part in module.modules():
        if not any(True for _ in part.parameters()):
            part.eval()  # dropout would draw otherwise for each
    try:
        return _tried(way, made_up(batch, 5 * ROWS))
    except Exception:  # as in training, where it says what is wrong
        return Steady(ROWS, 0)
    finally:
        module.train()


def _tried(way: PerExample, batch: Batch) -> Steady:
    def found(count: int, shift: int) -> list[Tensor]:
        index = (torch.arange(count) - shift) % len(batch[0])
        parts = way.parts(tuple(tensor[index.to(tensor.device)] for tensor in batch))
        return [values[shift : shift + ROWS] for part in parts for values in part.values()]

    first = found(ROWS, 0)
    sizes = all(_same(first, found(count * ROWS, 0)) for count in (2, 3, 5))
    for lanes in (1, 2, 4, 8, ROWS):
        if all(_same(found(5 * ROWS, 0), found(5 * ROWS, times * lanes)) for times in (1, 3)):
            return Steady(lanes, ROWS if sizes else 0)
    return Steady(ROWS, 0)


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
