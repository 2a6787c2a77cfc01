"""One gradient step a round: what leaves a device, and the same for many clients at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stacked_private import MODELS, Images, Recorded, shards, task_of
from torch import nn

from fedsus import plan
from fedsus.errors import Cancelled, ConfigError
from fedsus.learning.dp_sgd import DpSgdTrainer
from fedsus.learning.evaluation import totals
from fedsus.learning.gradient_sums import GradientSumTrainer
from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.learning.stacked_sums import NotStackable, StackedSumsTrainer, passes
from fedsus.privacy.noise import SeededNoise
from fedsus.protection import ExampleDistributed, Shares
from fedsus.tasks.task import Shard
from fedsus.types import LocalUpdate, LocalUpdates

CLIP = 0.5
SHARES = Shares(scale=1000.0, variance=1e6, bits=32, colluders=1, survivors=3)


def settings(rate: float = 0.4, **training: Any) -> TrainSettings:
    privacy = ExampleDistributed(epsilon=8.0, delta=1e-5, clip=CLIP, sampling_rate=rate, denominator=3.0, shares=SHARES)
    return TrainSettings(plan.Training(**training), privacy, 2, 10)


def alone(task: Images, data: list[Shard], chosen: TrainSettings) -> tuple[list[LocalUpdate], list[Recorded]]:
    noises = [Recorded(i) for i in range(len(data))]
    found: list[LocalUpdate] = []
    for shard, noise in zip(data, noises, strict=True):
        trainer = GradientSumTrainer(task, Compute("cpu", 1), noise)
        found += trainer.train(flatten(task.model(1)), [shard], chosen, [0], lambda: False)
    return found, noises


def together(task: Images, data: list[Shard], chosen: TrainSettings) -> tuple[LocalUpdates, list[Recorded]]:
    noises = [Recorded(i) for i in range(len(data))]
    trainer = StackedSumsTrainer(task, Compute("cpu", 1))
    return trainer.train_stack(flatten(task.model(1)), data, chosen, noises, lambda: False), noises


def of_hand(task: Images, shard: Shard, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    module = task.model(1)
    parameters = [p for p in module.parameters() if p.requires_grad]
    total = np.zeros(sum(p.numel() for p in parameters))
    for row in rows:
        loss = task.loss(module, tuple(t[row : row + 1] for t in shard.train)).sum()
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        gradient = torch.cat([g.reshape(-1) for g in found]).double().numpy()
        total -= gradient * min(1.0, CLIP / np.linalg.norm(gradient))
    return total


def test_minus_the_sum_of_a_poisson_batch_of_the_devices_own() -> None:
    task = task_of("cnn")
    data = shards(task)
    found, noises = alone(task, data, settings())
    for number, (update, shard, noise) in enumerate(zip(found, data, noises, strict=True)):
        again = SeededNoise(number)
        again.uniform(1)
        rows = np.flatnonzero(again.uniform(shard.size) < 0.4)
        np.testing.assert_allclose(update.delta, of_hand(task, shard, rows), rtol=1e-4, atol=1e-6)
        assert update.delta.dtype == np.float64
        assert (update.weight, update.totals.shape, update.held_out, update.event) == (1.0, (0,), 0, None)
        assert noise.drawn == [("uniform", 1), ("uniform", shard.size)], "nothing is noised here"
    assert found[2].delta.any()
    assert not found[1].delta.any(), "no examples, zeros"


def test_sums_are_of_the_cpu_where_the_hardware_has_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    task = task_of("cnn")
    for trainer in (
        GradientSumTrainer(task, Compute("mps", 1), SeededNoise(0)),
        DpSgdTrainer(task, Compute("mps", 1), SeededNoise(0)),
        StackedSumsTrainer(task, Compute("mps", 1)),
    ):
        assert (trainer._device.type, trainer._sums.wide) == ("cpu", torch.float64)


@pytest.mark.parametrize("name", [*MODELS, "text"])
def test_many_clients_at_once(name: str) -> None:
    """To 1e-6 of each sum, and draw by draw."""
    task = task_of(name)
    data = shards(task, (9, 0, 40, 1, 17, 0))
    expected, others = alone(task, data, settings())
    found, noises = together(task, data, settings())
    assert [n.drawn for n in noises] == [n.drawn for n in others]
    assert found.deltas.dtype == np.float64
    for delta, update in zip(found.deltas, expected, strict=True):
        assert np.linalg.norm(delta - update.delta) <= 1e-6 * np.linalg.norm(update.delta)
    assert (found.weights == 1).all() and not found.held_out.any()
    assert found.totals.shape == (6, 0) and found.event is None


def test_passes_do_not_change_the_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of("cnn")
    data = shards(task)
    whole = together(task, data, settings())[0].deltas
    monkeypatch.setattr(StackedSumsTrainer, "_most", lambda self, shards: 5)
    np.testing.assert_allclose(together(task, data, settings())[0].deltas, whole, rtol=1e-4, atol=1e-7)


def test_every_example_is_in_one_pass() -> None:
    assert list(passes([0, 3, 0, 4, 1, 0], 4)) == [
        [(1, slice(0, 3)), (3, slice(0, 1))],
        [(3, slice(1, 4)), (4, slice(0, 1))],
    ]
    assert list(passes([9], 4)) == [[(0, slice(0, 4))], [(0, slice(4, 8))], [(0, slice(8, 9))]]
    assert not list(passes([0, 0], 4)) and not list(passes([], 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_examples_are_zero_for_their_client_and_no_other(bad: float) -> None:
    task = task_of("cnn")
    data, broken = shards(task), shards(task)
    broken[2].train[0][:] = bad
    right, found = (together(task, some, settings(1.0))[0].deltas for some in (data, broken))
    assert not found[2].any()
    assert np.array_equal(np.delete(found, 2, axis=0), np.delete(right, 2, axis=0))
    assert not alone(task, [broken[2]], settings(1.0))[0][0].delta.any()


def test_a_broken_model_gives_zeros_whatever_the_data() -> None:
    task = task_of("mlp")
    model = np.full(len(flatten(task.model(1))), np.nan, dtype=np.float32)
    trainer = GradientSumTrainer(task, Compute("cpu", 1), SeededNoise(1))
    (update,) = trainer.train(model, shards(task)[:1], settings(), [0], lambda: False)
    assert not update.delta.any()


def test_who_cannot_share_a_batch_is_trained_alone() -> None:
    dropping = Images(lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(72, 3)))
    noises = [Recorded(i) for i in range(5)]
    with pytest.raises(NotStackable, match=r"task 'Images': the model cannot be stacked: it draws at random"):
        StackedSumsTrainer(dropping, Compute("cpu", 1)).train_stack(
            flatten(dropping.model(1)), shards(dropping), settings(), noises, lambda: False
        )
    assert not any(noise.drawn for noise in noises)
    assert alone(dropping, shards(dropping), settings())[0][2].delta.any()


def test_settings_that_are_not_for_it_are_refused() -> None:
    task = task_of("mlp")
    model, none = flatten(task.model(1)), TrainSettings(plan.Training(), plan.NoPrivacy(), 1, 1)
    one, many = GradientSumTrainer(task, Compute("cpu", 1), SeededNoise(1)), StackedSumsTrainer(task, Compute("cpu", 1))
    for chosen, reason in (
        (none, r"privacy\.unit = 'none': gradient sums need 'example', placement 'distributed'"),
        (settings(precision="bfloat16"), r"training\.precision = 'bfloat16': gradient sums need 'float32'"),
    ):
        with pytest.raises(ConfigError, match=reason):
            next(one.train(model, shards(task), chosen, [0] * 5, lambda: False))
        with pytest.raises(ConfigError, match=reason):
            many.train_stack(model, [], chosen, [], lambda: False)


def test_stops_when_asked() -> None:
    task = task_of("mlp")
    model, data = flatten(task.model(1)), shards(task)
    with pytest.raises(Cancelled):
        list(GradientSumTrainer(task, Compute("cpu", 1), SeededNoise(1)).train(model, data, settings(), [0] * 5, yes))
    with pytest.raises(Cancelled):
        StackedSumsTrainer(task, Compute("cpu", 1)).train_stack(
            model, data, settings(), [SeededNoise(i) for i in range(5)], yes
        )


def yes() -> bool:
    return True


def measuring(task: Images, data: list[Shard]) -> tuple[list[Shard], TrainSettings]:
    """Shards with 0, 1, 2, ... held-out examples, and settings whose plan has noise for metrics."""
    plain = settings()
    assert isinstance(plain.privacy, ExampleDistributed)
    noised = plain.privacy.model_copy(update={"shares": SHARES.model_copy(update={"metrics": 1e9})})
    generator = torch.Generator().manual_seed(3)
    held = [Shard(shard.train, task.examples(count, generator)) for count, shard in enumerate(data)]
    return held, replace(plain, privacy=noised)


def same(one: LocalUpdate, other: LocalUpdate) -> bool:
    return one.delta.tobytes() == other.delta.tobytes() and one.weight == other.weight


def test_metrics_are_measured_where_the_plan_has_noise_for_them_and_nothing_else_changes() -> None:
    task = task_of("cnn")
    data, noised = measuring(task, shards(task))
    plain, before = alone(task, data, settings())
    found, noises = alone(task, data, noised)
    assert all(map(same, found, plain)) and [n.drawn for n in noises] == [n.drawn for n in before]
    assert [update.held_out for update in found] == [0, 1, 2, 3, 4]
    module = task.model(1)
    for update, shard in zip(found, data, strict=True):
        assert update.totals == pytest.approx(totals(task, module, shard.held_out)) and update.totals.shape == (1,)
    assert found[4].totals[0] > 0
    many, noises = together(task, data, noised)
    assert [n.drawn for n in noises] == [n.drawn for n in before]
    assert many.totals.tobytes() == np.stack([update.totals for update in found]).tobytes(), "bit for bit"
    assert many.held_out.tolist() == [0, 1, 2, 3, 4]
    assert many.deltas.tobytes() == together(task, data, settings())[0].deltas.tobytes()


class Spiteful(Images):
    """Fails, counts and disturbs where it is measured."""

    def measure(self, model: Any, batch: Any) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7.0)
        torch.manual_seed(99)
        raise RuntimeError("a held-out row that cannot be read")


def test_a_held_out_example_that_spoils_its_measurement_does_not_reach_the_gradients() -> None:
    """Else it would move the sum by all gradients, where the noise is for one."""
    task, spiteful = task_of("mlp"), Spiteful(MODELS["mlp"])
    data, noised = measuring(task, shards(task))
    plain = alone(task, data, settings())[0]
    trainer = GradientSumTrainer(spiteful, Compute("cpu", 1), SeededNoise(0))
    for _ in range(2):  # the round after it too
        trainer._noise = SeededNoise(2)
        (found,) = trainer.train(flatten(task.model(1)), [data[2]], noised, [0], lambda: False)
        assert same(found, plain[2]) and found.delta.any()
        assert (found.totals.tolist(), found.held_out) == ([0.0], 0)
    many = together(spiteful, data, noised)[0]
    assert many.deltas.tobytes() == together(task, data, settings())[0].deltas.tobytes()
    assert not many.totals.any() and not many.held_out.any()
