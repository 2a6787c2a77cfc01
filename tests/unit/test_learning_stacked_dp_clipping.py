"""No example counts for more than the clip in a stack, and a weaker stack would be seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stacked_private import (
    TOLERANCE,
    compare,
    settings,
    shards,
    task_of,
)

from fedsus import plan
from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute
from fedsus.learning.stacked_dp import NotStackable, StackedDpSgdTrainer
from fedsus.learning.stacking import clipping, poisson
from fedsus.privacy.noise import SeededNoise
from fedsus.tasks.task import Shard


class Silent:
    """No noise; every uniform draw is 0, so that every example is chosen."""

    def normal(self, size: int) -> NDArray[np.float64]:
        return np.zeros(size)

    def uniform(self, size: int) -> NDArray[np.float64]:
        return np.zeros(size)

    def words(self, size: int) -> NDArray[np.uint64]:
        return np.zeros(size, dtype=np.uint64)


def lengths(name: str = "linear") -> NDArray[np.float64]:
    """How far one step moves clients of one example each, in clips; the examples are of very different sizes."""
    task = task_of(name)
    generator = torch.Generator().manual_seed(7)
    inputs, labels = task.examples(6, generator)
    inputs *= torch.tensor([1e-4, 1e-2, 1.0, 10.0, 1e3, 1e6])[:, None, None, None]
    data = [Shard((inputs[i : i + 1], labels[i : i + 1]), (inputs[:0], labels[:0])) for i in range(6)]
    chosen = settings(steps=1, clip=0.1, optimizer=plan.Optimizer(learning_rate=1.0))
    model = flatten(task.model(1)) * 1e-3
    trainer = StackedDpSgdTrainer(task, Compute("cpu"))
    found = trainer.train_stack(model, data, chosen, [Silent()] * 6, lambda: False)
    return np.linalg.norm(found.deltas.astype(np.float64), axis=1) * 3.0 / 0.1


def check_lengths(found: NDArray[np.float64]) -> None:
    assert found == pytest.approx(np.ones(6), rel=1e-3)


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn", "signal"])
def test_an_example_contributes_the_clip_and_no_more(name: str) -> None:
    check_lengths(lengths(name))


def test_an_example_below_the_clip_contributes_itself() -> None:
    task = task_of("mlp")
    assert compare(task, settings(clip=1e6, noise=1e-9), [shards(task)[0]]) < TOLERANCE


def unclipped(original: Any) -> Any:
    return lambda self, total, valid, clip: original(self, total, valid, 1e6 * clip)


def looser(original: Any) -> Any:
    return lambda self, total, valid, clip: original(self, total, valid, 1.01 * clip)


@pytest.mark.parametrize("wrong", [unclipped, looser])
def test_the_test_sees_clipping_that_is_weaker(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    monkeypatch.setattr(clipping.Clipping, "end", wrong(clipping.Clipping.end))
    monkeypatch.setattr("fedsus.learning.stacked_dp.probe_norms", lambda *_: None)
    with pytest.raises(AssertionError):
        check_lengths(lengths())
    assert compare(task_of("mlp"), settings(noise=1e-9), [shards(task_of("mlp"))[2]]) > TOLERANCE


@pytest.mark.parametrize("kind", [clipping.Products, clipping.Gradients])
def test_a_norm_that_is_too_small_is_found_by_the_probe(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    """A rule that is wrong for a layer, or a layer whose rule is not known to be right, trains nothing."""
    original = kind.squares
    monkeypatch.setattr(kind, "squares", lambda self: 0.99 * original(self))
    task = task_of("cnn")
    with pytest.raises(NotStackable, match="use the loop trainer"):
        StackedDpSgdTrainer(task, Compute("cpu")).train_stack(
            flatten(task.model(1)), shards(task), settings(), [SeededNoise(i) for i in range(5)], lambda: False
        )


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 100))
@hypothesis_settings(deadline=None)
def test_passes_hold_every_example_once_and_fill_up_with_the_clients_own(sizes: list[int], most: int) -> None:
    chosen = [np.arange(size) + 100 * i for i, size in enumerate(sizes)]
    order = poisson.by_size(chosen)
    seen: list[list[int]] = [[] for _ in sizes]
    for some in poisson.passes([chosen[i] for i in order], most):
        assert some.index.size <= max(most, some.live)
        for i, rows, valid in zip(order, some.index.reshape(some.live, -1), some.valid, strict=False):
            assert (rows // 100 == i).all()
            assert valid.any()
            seen[i] += rows[valid].tolist()
    assert [sorted(rows) for rows in seen] == [rows.tolist() for rows in chosen]


def never() -> bool:
    return False


def noise_scales() -> NDArray[np.float64]:
    """Standard deviation of each client's step without examples, in noise multiplier times clip."""
    task = task_of("mlp")
    trainer, model = StackedDpSgdTrainer(task, Compute("cpu")), flatten(task.model(1))
    chosen = settings(rate=1e-9, steps=1, clip=0.1, noise=2.0, optimizer=plan.Optimizer(learning_rate=1.0))
    blocks = [
        trainer.train_stack(
            model * 0, shards(task, (5, 9, 7)), chosen, [SeededNoise(3 * i + k) for k in range(3)], never
        ).deltas
        for i in range(20)
    ]
    drawn = np.concatenate(blocks, axis=1).astype(np.float64)
    assert np.abs(np.corrcoef(drawn) - np.eye(3)).max() < 5 / np.sqrt(drawn.shape[1])
    found: NDArray[np.float64] = drawn.std(axis=1) * 3.0 / (2.0 * 0.1)
    return found


def check_scales(found: NDArray[np.float64]) -> None:
    """20 times 611 draws: five standard errors of a standard deviation are 3.2 %."""
    assert found == pytest.approx(np.ones(3), rel=0.032)


def test_the_noise_of_each_client_is_that_of_its_plan_and_its_own() -> None:
    check_scales(noise_scales())


def weaker(original: Any) -> Any:
    def add(self: Any, total: Any, order: Any, noises: Any, privacy: Any, gradient: Any) -> None:
        less = privacy.model_copy(update={"noise_multiplier": 0.95 * privacy.noise_multiplier})
        original(self, total, order, noises, less, gradient)

    return add


def shared(original: Any) -> Any:
    def add(self: Any, total: Any, order: Any, noises: Any, privacy: Any, gradient: Any) -> None:
        original(self, total, order, noises, privacy, gradient)
        gradient[:] = gradient[0].clone()

    return add


@pytest.mark.parametrize("wrong", [weaker, shared])
def test_the_test_sees_noise_that_is_weaker_or_shared(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    monkeypatch.setattr(StackedDpSgdTrainer, "_add_noise", wrong(StackedDpSgdTrainer._add_noise))
    with pytest.raises(AssertionError):
        check_scales(noise_scales())
