"""The stacked DP-SGD trainer: the loop trainer's batches, clipping and noise, for many clients at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional

from fedsus import plan
from fedsus.errors import Cancelled, ConfigError
from fedsus.learning.dp_sgd import DpSgdTrainer
from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.learning.stacked_dp import NotStackable, StackedDpSgdTrainer
from fedsus.learning.stacking import clipping, poisson
from fedsus.privacy.accounting import dp_sgd_event
from fedsus.privacy.noise import SeededNoise
from fedsus.tasks.task import Batch, DataSource, Forward, Shard

TOLERANCE = 1e-5
"""Largest deviation of a delta, as a part of its largest coordinate."""

SIZES = (9, 0, 40, 1, 17)
CLIP = 0.5


class Branches(nn.Module):
    """One layer used twice, one linear layer used twice, and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.mix, self.last, self.unused = nn.Linear(36, 36), nn.Linear(36, 3), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        x = x + torch.tanh(self.again(x + torch.tanh(self.again(x))))
        x = functional.avg_pool2d(x, 2, 2).flatten(1)
        logits: Tensor = self.last(torch.tanh(self.mix(torch.tanh(self.mix(x)))))
        return logits


class Reader(nn.Module):
    """Next token: embedding, normalisation and linear layers on (B, T, ...)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(6, 5), nn.LayerNorm(5)
        self.hidden, self.out = nn.Linear(5, 7), nn.Linear(7, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.tanh(self.hidden(self.norm(self.words(x)))))
        return logits


def halves() -> nn.Module:
    """A frozen layer, a frozen bias beside a trainable weight, and the other way round."""
    module = nn.Sequential(
        *(nn.Flatten(), nn.Linear(72, 9), nn.Tanh(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh()),
        nn.Linear(8, 3),
    )
    module[1].requires_grad_(False)
    module[3].bias.requires_grad_(False)
    module[5].weight.requires_grad_(False)
    return module


MODELS: dict[str, Any] = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 3)),
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.Tanh(), nn.Linear(8, 3)),
    "cnn": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, 5, stride=2, padding=2), nn.GroupNorm(2, 4), nn.Tanh()),
        *(nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), nn.GroupNorm(3, 6), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(24, 3)),
    ),
    "pooled": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, (3, 2)), nn.Tanh(), nn.AvgPool2d(2, 1)),
        *(nn.Conv2d(4, 6, 2, stride=(1, 2), padding=(0, 1)), nn.LayerNorm((6, 2, 3)), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(36, 3)),
    ),
    "grouped": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=2, dilation=2, groups=2), nn.Tanh()),
        *(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Flatten(), nn.Linear(64, 3)),
    ),
    "signal": lambda: nn.Sequential(
        *(nn.Flatten(2), nn.Conv1d(2, 4, 5, stride=3, padding=1), nn.Tanh(), nn.Conv1d(4, 5, 2)),
        *(nn.Flatten(), nn.Linear(55, 3)),
    ),
    "branches": Branches,
    "halves": halves,
}


class Images:
    """Three classes of (2, 6, 6) images."""

    Settings = BaseModel
    bounds = {"loss": (0.0, 20.0)}  # noqa: RUF012

    def __init__(self, make: Any) -> None:
        self._make = make

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            module: nn.Module = self._make()
            return module

    def load(self, source: DataSource) -> Shard:
        raise NotImplementedError

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return self.loss(model, batch)[:, None]

    def examples(self, count: int, generator: torch.Generator) -> Batch:
        inputs = torch.randn(count, 2, 6, 6, generator=generator)
        inputs *= torch.rand(count, generator=generator)[:, None, None, None]  # some are clipped, some are not
        return inputs, torch.randint(0, 3, (count,), generator=generator)


class Text(Images):
    """Sequences of 5 tokens; the loss of an example is the mean over its tokens."""

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        logits = model(batch[0][:, :-1])
        return functional.cross_entropy(logits.transpose(1, 2), batch[0][:, 1:], reduction="none").mean(1)

    def examples(self, count: int, generator: torch.Generator) -> Batch:
        return (torch.randint(0, 6, (count, 6), generator=generator),)


def task_of(name: str) -> Images:
    return Text(Reader) if name == "text" else Images(MODELS[name])


def shards(task: Images, sizes: tuple[int, ...] = SIZES) -> list[Shard]:
    generator = torch.Generator().manual_seed(3)
    return [Shard(task.examples(n, generator), task.examples(0, generator)) for n in sizes]


def settings(
    rate: float = 0.3, steps: int = 4, noise: float = 0.5, clip: float = CLIP, **training: Any
) -> TrainSettings:
    privacy = plan.ExamplePrivacy(
        epsilon=8.0, delta=1e-5, clip=clip, sampling_rate=rate, steps=steps, denominator=3.0, noise_multiplier=noise
    )
    return TrainSettings(plan.Training(**training), privacy, 2, 10)


class Recorded(SeededNoise):
    """Tells what was drawn, in order."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.drawn: list[tuple[str, int]] = []

    def normal(self, size: int) -> NDArray[np.float64]:
        self.drawn.append(("normal", size))
        return super().normal(size)

    def uniform(self, size: int) -> NDArray[np.float64]:
        self.drawn.append(("uniform", size))
        return super().uniform(size)


def compare(task: Images, chosen: TrainSettings, data: list[Shard] | None = None, threads: int = 1) -> float:
    """The largest deviation from the loop trainer; draws, weights and events are compared here."""
    data = shards(task) if data is None else data
    model = flatten(task.model(1))
    noises, others = ([Recorded(seed) for seed in range(len(data))] for _ in range(2))
    expected = []
    for shard, noise in zip(data, others, strict=True):
        loop = DpSgdTrainer(task, Compute("cpu", 1), noise)
        expected += loop.train(model, [shard], chosen, [0], lambda: False)
    state = torch.get_rng_state()
    before = model.copy()
    found = StackedDpSgdTrainer(task, Compute("cpu", threads)).train_stack(model, data, chosen, noises, lambda: False)
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(model, before)
    assert [noise.drawn for noise in noises] == [noise.drawn for noise in others]
    assert found.deltas.dtype == np.float32
    assert found.weights.tolist() == [update.weight for update in expected]
    assert found.totals.shape == (len(data), 0) and not found.held_out.any()
    assert found.event == expected[0].event
    deltas = np.array([update.delta for update in expected])
    assert all(row.any() for row in deltas)
    return float((np.abs(found.deltas - deltas).max(1) / np.abs(deltas).max(1)).max())


@pytest.mark.parametrize("noise", [0.5, 1e-9])
@pytest.mark.parametrize("name", [*MODELS, "text"])
def test_every_model(name: str, noise: float) -> None:
    """Without noise to speak of, too: it would hide an error of a few hundredths."""
    task = task_of(name)
    data = [shard for shard in shards(task) if noise > 1e-3 or shard.size > 1]
    assert compare(task, settings(noise=noise), data) < TOLERANCE


TRAININGS: dict[str, dict[str, Any]] = {
    "momentum": {"optimizer": plan.Optimizer(momentum=0.9, nesterov=True, weight_decay=0.1)},
    "proximal and clip": {"proximal": 0.7, "gradient_clip": 0.5},
    "adam": {"optimizer": plan.Optimizer(name="adam", learning_rate=0.01)},
    "schedule": {"schedule": plan.Schedule(name="exponential", factor=0.5)},
}


@pytest.mark.parametrize("training", TRAININGS.values(), ids=TRAININGS)
def test_every_kind_of_local_step(training: dict[str, Any]) -> None:
    assert compare(task_of("mlp"), settings(**training)) < TOLERANCE


@pytest.mark.parametrize(("name", "chunk"), [("mlp", 1), ("cnn", 1), ("cnn", 5_000), ("text", 5_000)])
def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch, name: str, chunk: int) -> None:
    monkeypatch.setattr("fedsus.learning.stacked_dp._CHUNK", chunk)
    monkeypatch.setattr(clipping, "_CACHED", chunk)
    monkeypatch.setattr(poisson, "_FEW", 2)
    task = task_of(name)
    assert compare(task, settings(rate=0.6, steps=2), shards(task, (9, 0, 13))) < TOLERANCE


def test_threads_share_the_clients_and_keep_their_draws() -> None:
    threads = torch.get_num_threads()
    try:
        assert compare(task_of("mlp"), settings(), threads=2) < TOLERANCE
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_examples_that_are_not_finite_count_as_zero_for_their_client_alone(bad: float) -> None:
    task = task_of("cnn")
    data = shards(task)
    for client, rows in ((0, slice(0, 1)), (2, slice(1, None, 2)), (3, slice(None))):
        data[client].train[0][rows, 1, 2, 2] = bad
    assert compare(task, settings(rate=0.8), data) < TOLERANCE


def test_batches_that_are_all_empty() -> None:
    task = task_of("mlp")
    assert compare(task, settings(rate=1e-9)) < TOLERANCE
    assert compare(task, settings(), shards(task, (0, 0))) < TOLERANCE
    nobody = StackedDpSgdTrainer(task, Compute("cpu")).train_stack(
        flatten(task.model(1)), [], settings(), [], lambda: False
    )
    assert nobody.deltas.shape == (0, len(flatten(task.model(1))))


class Silent:
    """No noise; every uniform draw is 0, so that every example is chosen."""

    def normal(self, size: int) -> NDArray[np.float64]:
        return np.zeros(size)

    def uniform(self, size: int) -> NDArray[np.float64]:
        return np.zeros(size)


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


class Mixing(Images):
    """The loss of an example depends on the examples beside it."""

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        logits = model(batch[0])
        return functional.cross_entropy(logits - logits.mean(0).detach() * 0.5, batch[1], reduction="none")


class Shift(nn.Module):
    """A parameter of its own, outside of torch's layers."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        shifted: Tensor = x + self.by
        return shifted


class Folded(nn.Module):
    """A linear layer on rows that are no examples."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(36, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.outer(self.inner(x.reshape(-1, 36)).reshape(len(x), 8))
        return logits


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (Mixing(MODELS["mlp"]), "depends? on the examples"),
        (Images(lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 3), Shift())), r"'2' \(Shift\) has trainable"),
        (
            Images(lambda: nn.Sequential(nn.Embedding(9, 3, padding_idx=0), nn.Flatten())),
            r"'0' \(Embedding\) has a padding",
        ),
        (Images(Folded), "its Linear layer sees 12 rows of 6 examples"),
        (Images(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, 3))), "Dropout"),
    ],
)
def test_what_cannot_be_stacked_is_refused_before_any_noise_is_drawn(task: Images, reason: str) -> None:
    noises = [Recorded(i) for i in range(5)]
    with pytest.raises(NotStackable, match=f"task '{type(task).__name__}'.*{reason}.*; use the loop trainer"):
        StackedDpSgdTrainer(task, Compute("cpu")).train_stack(
            flatten(task.model(1)), shards(task), settings(), noises, lambda: False
        )
    assert not any(noise.drawn for noise in noises)


def test_settings_that_are_not_for_it_are_refused() -> None:
    task = task_of("mlp")
    trainer, model = StackedDpSgdTrainer(task, Compute("cpu")), flatten(task.model(1))
    none = TrainSettings(plan.Training(), plan.NoPrivacy(), 1, 1)
    with pytest.raises(ConfigError, match=r"privacy\.unit = 'none': DP-SGD needs unit = 'example'"):
        trainer.train_stack(model, [], none, [], lambda: False)
    with pytest.raises(ConfigError, match=r"training\.precision = 'bfloat16': DP-SGD needs 'float32'"):
        trainer.train_stack(model, [], settings(precision="bfloat16"), [], lambda: False)
    with pytest.raises(ConfigError, match="GroupNorm"):
        StackedDpSgdTrainer(Images(lambda: nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))), Compute("cpu"))


def test_stops_before_a_step_of_all_clients() -> None:
    task = task_of("mlp")
    trainer, model, data = StackedDpSgdTrainer(task, Compute("cpu")), flatten(task.model(1)), shards(task)
    asked = iter([False, False, True])
    with pytest.raises(Cancelled):
        trainer.train_stack(model, data, settings(), [SeededNoise(i) for i in range(5)], lambda: next(asked))
    assert next(asked, None) is None
    again = trainer.train_stack(model, data, settings(), [SeededNoise(i) for i in range(5)], lambda: False)
    fresh = StackedDpSgdTrainer(task, Compute("cpu"))
    first = fresh.train_stack(model, data, settings(), [SeededNoise(i) for i in range(5)], lambda: False)
    assert np.array_equal(again.deltas, first.deltas), "what was trained before leaves nothing behind"
    assert again.event == dp_sgd_event(0.5, 0.3, 4)


def test_a_diverged_update_becomes_the_zero_vector_and_the_others_stay() -> None:
    class Broken(SeededNoise):
        def normal(self, size: int) -> NDArray[np.float64]:
            return np.full(size, 1e300)

    task = task_of("mlp")
    noises = [SeededNoise(0), Broken(1), SeededNoise(2)]
    found = StackedDpSgdTrainer(task, Compute("cpu")).train_stack(
        flatten(task.model(1)), shards(task, (5, 5, 5)), settings(), noises, lambda: False
    )
    assert found.deltas.any(axis=1).tolist() == [True, False, True]
    assert np.isfinite(found.deltas).all()


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
