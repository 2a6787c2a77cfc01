"""Which examples of which client are in which batch, for many clients of unequal size at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor


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
    size = np.array(sizes)
    counts = -(-size // batch)
    order = _orders(size, seeds, epochs, int(counts[0]) * batch)
    place = np.arange(order.shape[2])
    # Client, epoch, batch of the epoch, example. Past its size, a client repeats its last example at weight 0.
    index = np.take_along_axis(order, np.minimum(place, size[:, None] - 1)[:, None], axis=2)
    in_batch = np.minimum(batch, size[:, None] - place // batch * batch)
    weights = np.where(place < size[:, None], 1 / np.maximum(in_batch, 1), 0.0).astype(np.float32)
    index = index.reshape(len(size), epochs, -1, batch)
    weights = weights.reshape(len(size), -1, batch)
    for s in range(epochs * int(counts[0])):
        live = int((epochs * counts > s).sum())
        epoch, now = s // counts[:live], s % counts[:live]
        chosen = weights[np.arange(live), now]
        used = int((chosen > 0).sum(axis=1).max())
        rows = index[np.arange(live), epoch, now, :used]
        yield Step(live, torch.from_numpy(rows.reshape(-1)), torch.from_numpy(chosen[:, :used].reshape(-1)))


def _orders(sizes: NDArray[np.int64], seeds: Sequence[int], epochs: int, longest: int) -> NDArray[np.int64]:
    """(clients, epochs, longest): permuted positions of each client's examples; what is past its size is not set."""
    orders = np.empty((len(sizes), epochs, longest), dtype=np.int64)
    shuffle, first = torch.Generator(), 0
    for i, (size, seed) in enumerate(zip(sizes.tolist(), seeds, strict=True)):
        shuffle.manual_seed(seed)
        for epoch in range(epochs):
            orders[i, epoch, :size] = torch.randperm(size, generator=shuffle).numpy()
        orders[i, :, :size] += first
        first += size
    return orders
