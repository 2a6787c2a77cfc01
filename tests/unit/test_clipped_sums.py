"""Sums of clipped per-example gradients: against one backward pass an example, layer by layer and by hooks."""

from __future__ import annotations

import logging
import re
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stacked_private import MODELS, Images, task_of
from torch import Tensor, nn
from torch.nn import functional

from fedsus.learning import clipped_sums
from fedsus.learning.clipped_sums import ClippedSums
from fedsus.learning.parameters import Flat
from fedsus.learning.per_example import Hooked, Layerwise
from fedsus.learning.places import Steady, drawn_lanes, laid_out
from fedsus.tasks.fashion import FashionMnist, FashionMnistSettings
from fedsus.tasks.task import Batch, Forward

CPU = torch.device("cpu")
CLIP = 0.4


class Shift(nn.Module):
    """A parameter of its own, which Opacus trains by functorch."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        shifted: Tensor = x + self.by
        return shifted


class Tied(nn.Module):
    """One weight in two layers, a linear layer on sequences, activations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(6, 6), nn.Linear(6, 6)
        self.again.weight = self.first.weight
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x.flatten(1, 2)), inplace=True)
        logits: Tensor = self.last(torch.tanh(self.again(x)).mean(1))
        return logits


class Folded(nn.Module):
    """A linear layer on rows that are no examples."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(36, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.outer(self.inner(x.reshape(-1, 36)).reshape(len(x), 8))
        return logits


def padded() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.Conv2d(3, 2, 2, padding="same")),
        *(nn.Flatten(), nn.Linear(72, 3)),
    )


def normed() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.Tanh(), nn.Flatten()), nn.Linear(64, 3)
    )


LAYERWISE: dict[str, Any] = {**MODELS, "tied": Tied, "other padding": padded, "text": None}
HOOKED: dict[str, Any] = {
    "own parameter": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 3), Shift()),
    "instance norm": normed,
}


def sums(task: Any, seed: int = 1) -> ClippedSums:
    return ClippedSums(task, Flat(task.model(seed), CPU), CPU)


def examples(task: Images, count: int = 21) -> Batch:
    return task.examples(count, torch.Generator().manual_seed(4))


def task_named(name: str) -> Images:
    return task_of(name) if name in MODELS or name == "text" else Images({**LAYERWISE, **HOOKED}[name])


def by_hand(task: Any, batch: Batch, chosen: NDArray[np.intp], clip: float = CLIP) -> NDArray[np.float64]:
    """One backward pass an example; one that is not finite counts as zero."""
    module = task.model(1)
    trainable = [p for p in module.parameters() if p.requires_grad]
    total = np.zeros(sum(p.numel() for p in trainable))
    for row in chosen:
        loss = task.loss(module, tuple(t[row : row + 1] for t in batch)).sum()
        found = torch.autograd.grad(loss, trainable, allow_unused=True, materialize_grads=True)
        gradient = torch.cat([g.reshape(-1) for g in found]).double().numpy()
        if np.isfinite(gradient).all():
            total += gradient * min(1.0, clip / np.linalg.norm(gradient))
    return total


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("name", [*LAYERWISE, *HOOKED])
def test_the_sum_of_every_model(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    task = task_named(name)
    batch, chosen = examples(task), np.array([0, 2, 3, 5, 8, 11, 19, 20])
    found = sums(task)
    expected = by_hand(task, batch, chosen)
    for _ in range(2):
        np.testing.assert_allclose(found.sum(batch, chosen, CLIP), expected, rtol=1e-4, atol=1e-6)
    assert isinstance(found._way, Hooked if name in HOOKED else Layerwise), found.alone
    assert len([r for r in caplog.records if "Opacus' hooks" in r.message]) == (name in HOOKED), "said once"


@pytest.mark.parametrize("name", ["cnn", "branches", "instance norm"])
def test_chunks_and_groups_do_not_change_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    task = task_named(name)
    batch, chosen = examples(task, 50), np.arange(50)
    whole = sums(task).sum(batch, chosen, CLIP)
    monkeypatch.setattr(clipped_sums, "_CHUNK", 1)
    monkeypatch.setattr("fedsus.learning.per_example_parts._CACHED", 100)
    np.testing.assert_allclose(sums(task).sum(batch, chosen, CLIP), whole, rtol=1e-4, atol=1e-6)
    grouped = sums(task)
    grouped.settle(batch)
    totals = torch.zeros(3, len(whole), dtype=torch.float64)
    grouped.add(batch, (20, 20, 45), CLIP, list(totals))
    assert not totals[1].any()
    np.testing.assert_allclose(totals[0], by_hand(task, batch, np.arange(20)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(totals[2], by_hand(task, batch, np.arange(20, 45)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("name", ["mlp", "cnn", "pooled", "instance norm"])
def test_what_is_not_finite_counts_as_zero_and_leaves_the_others_alone(name: str, bad: float) -> None:
    task = task_named(name)
    batch, chosen = examples(task, 32), np.arange(32)
    others = np.delete(chosen, [3, 17])
    found = sums(task)
    expected = found.sum(batch, others, CLIP)
    batch[0][[3, 17], 1, 2, 2] = bad
    difference = found.sum(batch, chosen, CLIP) - expected
    assert np.linalg.norm(difference) <= 2 * CLIP * (1 + 1e-9)
    if not np.isfinite(bad):
        np.testing.assert_allclose(difference, 0, atol=1e-13)


@pytest.mark.parametrize("name", ["mlp", "cnn", "signal", "text", "halves", "instance norm"])
def test_one_example_moves_the_sum_by_at_most_the_clip(name: str) -> None:
    """In whatever row it comes, and to 1e-9: the others' gradients are the same to the last bit."""
    task = task_named(name)
    batch = examples(task, 130)
    found = sums(task)
    clip, longest = 0.02, 0.0
    for count in (15, 16, 17, 31, 47, 95, 129):
        rows = np.arange(count)
        for extra in (0, count // 2, count):
            more = np.insert(rows, extra, 129)
            moved = np.linalg.norm(found.sum(batch, more, clip) - found.sum(batch, rows, clip))
            longest = max(longest, float(moved))
    assert longest <= clip * (1 + 1e-9)
    assert longest > 0.99 * clip, "the example does count"


@pytest.mark.parametrize(("network", "threads"), [("cnn", 1), ("mlp", 1), ("mlp", 2)])
def test_the_number_of_examples_does_not_round_the_gradients_of_the_others(network: Any, threads: int) -> None:
    """Gradients of the task that is timed, with batches from 16 to 256."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        task = FashionMnist(FashionMnistSettings(network=network))
        generator = torch.Generator().manual_seed(2)
        batch = (
            torch.randint(0, 256, (256, 28, 28), generator=generator, dtype=torch.uint8),
            torch.randint(0, 10, (256,), generator=generator),
        )
        found = sums(task)
        alone = [found.sum(batch, np.array([row]), 1.0) for row in (0, 7)]
        for count in (16, 112, 240):
            rest = np.arange(8, 8 + count - 1)
            for row, expected in zip((0, 7), alone, strict=True):
                more = found.sum(batch, np.insert(rest, count // 2, row), 1.0) - found.sum(batch, rest, 1.0)
                np.testing.assert_allclose(more, expected, rtol=0, atol=1e-12)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", ["signal", "text", "halves"])
def test_without_lanes_an_example_does_change_the_gradients_of_others(name: str) -> None:
    """The control: these models round by place, by as much as float32 does, if the library does at all."""
    task = task_named(name)
    found, batch = sums(task), examples(task, 64)
    found.settle(batch)
    if found._steady.lanes == 1:
        pytest.skip("this machine's matrix library rounds alike in all places")
    rows = np.arange(60)
    lane = np.insert(rows, 3, 60) % 4
    moved = [found.sum(batch, np.insert(rows, 3, 60), 9.0, lane)]
    found._steady = Steady(1, 16)
    moved.append(found.sum(batch, np.insert(rows, 3, 60), 9.0))
    assert 0 < np.linalg.norm(moved[0] - moved[1]) < 1e-3


def test_lanes_keep_the_place_of_every_other_example() -> None:
    """Whatever is added, up to whole turns of all lanes; and each pass is whole."""
    random = np.random.Generator(np.random.PCG64(1))
    lanes = random.integers(0, 16, 50)
    for steady in (Steady(1, 16), Steady(4, 16), Steady(16, 16), Steady(8, 0)):
        before, used = laid_out(np.arange(49), lanes[:49], steady, 64)
        more, also = laid_out(np.insert(np.arange(49), 20, 49), np.insert(lanes[:49], 20, lanes[49]), steady, 64)
        for rows, mask, count in ((before, used, 49), (more, also, 50)):
            assert sorted(rows[mask]) == list(range(count))
            assert len(rows) % (steady.rows or 64) == 0
        for row in range(49):
            (place,), (moved,) = (np.flatnonzero((r == row) & m) for r, m in ((before, used), (more, also)))
            assert (moved - place) % steady.lanes == 0


def test_lanes_are_uniform_whatever_the_rate() -> None:
    draws = np.random.Generator(np.random.PCG64(2)).uniform(size=100_000)
    lanes = drawn_lanes(draws[draws < 0.3], 0.3)
    counts = np.bincount(lanes, minlength=16)
    assert len(counts) == 16 and (abs(counts - len(lanes) / 16) < 6 * np.sqrt(len(lanes) / 16)).all()
    assert drawn_lanes(np.array([np.nextafter(0.3, 0)]), 0.3)[0] == 15


def test_no_example_decides_how(caplog: pytest.LogCaptureFixture) -> None:
    """What would be broken in every way is no reason: the examples of the trial are made up."""
    caplog.set_level(logging.INFO)
    task = task_of("cnn")
    batch = examples(task)
    batch[0][:] = float("nan")
    found = sums(task)
    assert not found.sum(batch, np.arange(21), CLIP).any()
    assert isinstance(found._way, Layerwise)
    assert not caplog.records


class Choosy(Images):
    """Fails at pixels of 7, and forgets the loss of those of 8, whoever is beside them."""

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        pixels = batch[0].flatten(1).amax(1)
        if bool((pixels == 7).any()):
            raise ValueError("row 17: Jane")
        return super().loss(model, batch)[pixels != 8]


@pytest.mark.parametrize("name", ["cnn", "own parameter"])
@pytest.mark.parametrize("worst", [7.0, 8.0])
def test_an_example_at_which_the_tasks_code_fails_counts_as_zero_and_leaves_the_others_alone(
    name: str, worst: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Were the whole sum dropped with it, one example would move the sum by all the others."""
    task = Choosy({**MODELS, **HOOKED}[name])
    batch = examples(task, 60)
    batch[0][[5, 40]] = worst
    found, others = sums(task), np.delete(np.arange(60), [5, 40])
    without = found.sum(batch, others, CLIP, others % 16)
    assert not caplog.records
    np.testing.assert_allclose(found.sum(batch, np.arange(60), CLIP), without, rtol=0, atol=1e-12)
    assert np.linalg.norm(without) > CLIP
    assert "training: " in caplog.text


def test_a_batch_without_examples_is_zero() -> None:
    task = task_of("cnn")
    found = sums(task)
    assert not found.sum(examples(task, 0), np.arange(0), CLIP).any()
    assert found._way is None
    assert found.sum(examples(task, 3), np.arange(3), CLIP).any()


class Mixing(Images):
    """The loss of an example depends on the examples beside it."""

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        logits = model(batch[0])
        return functional.cross_entropy(logits - logits.mean(0) * 0.5, batch[1], reduction="none")


class Reading(Images):
    def loss(self, model: Forward, batch: Batch) -> Tensor:
        losses = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return losses if float(losses.detach().max()) < 100 else losses * 0.5


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (Mixing(MODELS["mlp"]), "the gradient of an example is not what its layers make of it"),
        (Images(Folded), "a Linear sees"),
        (Reading(MODELS["mlp"]), "it reads values"),
        (Images(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, 3))), "draws at random"),
        (Images(HOOKED["own parameter"]), r"'2' \(Shift\) has trainable parameters of its own"),
    ],
)
def test_who_may_not_share_a_batch_is_said(task: Images, reason: str) -> None:
    found = sums(task)
    found.settle(examples(task))
    assert found.alone is not None
    assert re.search(reason, found.alone), found.alone


def test_dropout_is_layer_by_layer_all_the_same() -> None:
    task = Images(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, 3)))
    found = sums(task)
    found._flat.module.train()
    assert found.sum(examples(task), np.arange(9), CLIP).any()
    assert isinstance(found._way, Layerwise)
