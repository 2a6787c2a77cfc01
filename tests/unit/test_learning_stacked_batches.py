"""Batches of many clients side by side are those of the loop trainer."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsus.learning.stacking.batches import by_steps, schedule


def test_by_steps() -> None:
    assert by_steps([3, 9, 1, 8], 4) == [1, 3, 0, 2]


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    epochs=st.integers(1, 3),
    batch=st.integers(1, 12),
)
def test_batches_are_those_of_the_loop_trainer(sizes: list[int], epochs: int, batch: int) -> None:
    sizes = [sizes[i] for i in by_steps(sizes, batch)]
    found: list[list[list[int]]] = [[] for _ in sizes]
    for step in schedule(sizes, range(5, 5 + len(sizes)), epochs, batch):
        index, weights = step.index.view(step.live, -1), step.weights.view(step.live, -1)
        for client in range(step.live):
            first = sum(sizes[:client])
            real = weights[client] > 0
            assert ((index[client] >= first) & (index[client] < first + sizes[client])).all()
            assert weights[client].sum().item() == pytest.approx(1.0)
            assert len(set(weights[client][real].tolist())) == 1
            found[client].append((index[client][real] - first).tolist())
    for client, size in enumerate(sizes):
        shuffle = torch.Generator().manual_seed(5 + client)
        orders = [torch.randperm(size, generator=shuffle) for _ in range(epochs)]
        assert found[client] == [part.tolist() for order in orders for part in torch.split(order, batch)]


def test_a_batch_larger_than_every_shard_takes_no_room() -> None:
    tracemalloc.start()
    (step,) = schedule([7, 9], [1, 2], 1, 1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (step.live, step.index.numel()) == (2, 18)
    assert peak < 1_000_000
