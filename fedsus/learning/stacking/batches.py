"""Which examples of which client are in which batch, for many clients of unequal size at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def schedule(sizes: Sequence[int], seeds: Sequence[int], epochs: int, batch: int) -> list[Step]:
    """All steps of local training; clients in the order of `by_steps`, as their examples are.

    Each client's batches are those of the loop trainer: one permutation an epoch, from its own seed.
    """
    counts = [-(-size // batch) for size in sizes]
    longest = epochs * max(counts)
    widest = min(batch, max(sizes))
    index = torch.zeros(longest, len(sizes), widest, dtype=torch.int64)
    weights = torch.zeros(longest, len(sizes), widest)
    first = 0
    for i, (size, count, seed) in enumerate(zip(sizes, counts, seeds, strict=True)):
        shuffle = torch.Generator().manual_seed(seed)
        orders = torch.stack([torch.randperm(size, generator=shuffle) for _ in range(epochs)]) + first
        first += size
        last = size - (count - 1) * batch
        if size < count * batch:
            orders = torch.cat([orders, orders[:, -1:].expand(-1, count * batch - size)], dim=1)
        index[: epochs * count, i] = orders.view(epochs * count, batch)[:, :widest]
        weights[: epochs * count, i] = 1 / min(batch, size)
        weights[count - 1 : epochs * count : count, i] = 0.0
        weights[count - 1 : epochs * count : count, i, :last] = 1 / last
    return [_step(s, counts, epochs, index, weights) for s in range(longest)]


def _step(s: int, counts: Sequence[int], epochs: int, index: Tensor, weights: Tensor) -> Step:
    live = sum(s < epochs * count for count in counts)
    used = int((weights[s, :live] > 0).sum(1).max())
    return Step(live, index[s, :live, :used].reshape(-1), weights[s, :live, :used].reshape(-1))
