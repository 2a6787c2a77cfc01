"""Which examples of which client are in which batch, for many clients of unequal size at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

_TOGETHER: Final = 64
_LAID_OUT: Final = 1 << 20
"""Rows laid out at once, at about 30 bytes each."""


@dataclass(frozen=True, slots=True)
class Step:
    """One batch of each client that still has one.

    Attributes:
        live: m clients: those with the most batches come first, so they are always the first m.
        index: (m * B,) int64, rows of all clients' examples side by side; short batches repeat one of their rows.
        weights: (m * B,) float32: 1 / size of the client's batch; 0 for repeated rows.
    """

    live: int
    index: Tensor
    weights: Tensor


def by_steps(sizes: Sequence[int], batch: int) -> list[int]:
    """Positions of clients, those with the most batches an epoch first."""
    return sorted(range(len(sizes)), key=lambda i: -(-sizes[i] // batch), reverse=True)


def schedule(sizes: Sequence[int], seeds: Sequence[int], epochs: int, batch: int) -> Iterator[Step]:
    """All steps of local training; clients in the order of `by_steps`, as their examples are.

    Each client's batches are those of the loop trainer: one permutation an epoch, from its own seed.
    """
    batch = min(batch, max(sizes))  # the plan's may be a million: room is made for whole batches
    orders = _orders(sizes, seeds, epochs, batch)
    together = max(1, min(_TOGETHER, _LAID_OUT // (len(sizes) * batch)))
    for first in range(0, epochs * orders.shape[2], together):
        yield from _steps(first, together, np.array(sizes), orders)


def _orders(sizes: Sequence[int], seeds: Sequence[int], epochs: int, batch: int) -> NDArray[np.int64]:
    """(clients, epochs, batches, batch): rows of the examples; short batches repeat their last, the rest is unset."""
    longest = -(-sizes[0] // batch) * batch
    orders = np.empty((len(sizes), epochs, longest), dtype=np.int64)
    shuffle, first = torch.Generator(), 0
    for i, (size, seed) in enumerate(zip(sizes, seeds, strict=True)):
        shuffle.manual_seed(seed)
        for epoch in range(epochs):
            orders[i, epoch, :size] = torch.randperm(size, generator=shuffle).numpy()
        orders[i, :, size : -(-size // batch) * batch] = orders[i, :, size - 1 : size]
        orders[i, :, : -(-size // batch) * batch] += first
        first += size
    return orders.reshape(len(sizes), epochs, -1, batch)


def _steps(first: int, together: int, sizes: NDArray[np.int64], orders: NDArray[np.int64]) -> Iterator[Step]:
    """The ``together`` steps from number ``first`` on, laid out at once: one alone costs as much as many."""
    _, epochs, longest, batch = orders.shape
    counts = -(-sizes // batch)
    number = np.arange(first, min(first + together, epochs * longest))[:, None]
    alive = number < epochs * counts
    epoch, now = np.minimum(number // counts, epochs - 1), number % counts
    rows = orders[np.arange(len(sizes)), epoch, now]
    filled = np.minimum(batch, sizes - now * batch)
    place = np.arange(batch)
    weights = ((place < filled[:, :, None]) / filled[:, :, None]).astype(np.float32)
    used = (filled * alive).max(axis=1).tolist()
    for i, live in enumerate(alive.sum(axis=1).tolist()):
        chosen = slice(live), slice(used[i])
        yield Step(live, *(torch.from_numpy(part[i][chosen].reshape(-1)) for part in (rows, weights)))
