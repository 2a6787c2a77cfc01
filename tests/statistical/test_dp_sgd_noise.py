"""DP-SGD adds the noise that it claims, and one example moves a step by no more than its clip."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy import stats
from torch import Tensor, nn

from fedsus import plan
from fedsus.learning.clipped_sums import ClippedSums
from fedsus.learning.dp_sgd import DpSgdTrainer
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.privacy.noise import SeededNoise, SystemNoise
from fedsus.tasks.task import Batch, DataSource, Forward, Shard
from fedsus.types import Noise

NEVER = 1e-9
CLIP, MULTIPLIER, DENOMINATOR = 0.7, 1.3, 40.0


class Linear:
    """Loss <w, x>: the gradient of an example is the example itself, so that tests choose gradients."""

    Settings = BaseModel
    bounds = {"loss": (-1.0, 1.0)}  # noqa: RUF012

    def __init__(self, width: int) -> None:
        self.width = width

    def model(self, seed: int) -> nn.Module:
        return nn.Linear(self.width, 1, bias=False)

    def load(self, source: DataSource) -> Shard:
        raise NotImplementedError

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        return model(batch[0])[:, 0]

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        return self.loss(model, batch)[:, None]


class Silent:
    """No noise, but the sampling of a seed."""

    def __init__(self, seed: int) -> None:
        self._seeded = SeededNoise(seed)

    def normal(self, size: int) -> NDArray[np.float64]:
        return np.zeros(size)

    def uniform(self, size: int) -> NDArray[np.float64]:
        return self._seeded.uniform(size)

    def words(self, size: int) -> NDArray[np.uint64]:
        return self._seeded.words(size)


def never() -> bool:
    return False


def one_step(examples: Tensor, noise: Noise, *, rate: float = 1.0, steps: int = 1) -> NDArray[np.float32]:
    """Minus the summed private gradients: the learning rate is 1."""
    privacy = plan.ExamplePrivacy(
        epsilon=8.0,
        delta=1e-5,
        clip=CLIP,
        sampling_rate=rate,
        steps=steps,
        denominator=DENOMINATOR,
        noise_multiplier=MULTIPLIER,
    )
    settings = TrainSettings(plan.Training(optimizer=plan.Optimizer(learning_rate=1.0)), privacy, 1, 1)
    width = examples.shape[1]
    trainer = DpSgdTrainer(Linear(width), Compute("cpu"), noise)
    data = Shard((examples,), (examples[:0],))
    (update,) = trainer.train(np.zeros(width, np.float32), [data], settings, [0], never)
    return update.delta


def p_of_scale(draws: NDArray[np.float32], scale: float) -> float:
    return float(stats.kstest(draws / scale, "norm").pvalue)


@pytest.mark.parametrize("examples", [torch.zeros(50, 20_000), torch.zeros(0, 20_000)], ids=["zeros", "empty batch"])
def test_noise_of_one_step(examples: Tensor) -> None:
    scale = MULTIPLIER * CLIP / DENOMINATOR
    draws = one_step(examples, SystemNoise())
    assert p_of_scale(draws, scale) > NEVER
    assert p_of_scale(draws, scale * 2 / 3) < NEVER
    assert p_of_scale(draws, scale * 3 / 2) < NEVER


def test_noise_of_several_steps_is_fresh_each_time() -> None:
    scale = MULTIPLIER * CLIP / DENOMINATOR
    draws = one_step(torch.zeros(5, 20_000), SystemNoise(), rate=0.3, steps=4)
    assert p_of_scale(draws, 2 * scale) > NEVER
    assert p_of_scale(draws, 4 * scale) < NEVER, "noise repeated at each step would be twice as wide"


def test_without_noise_the_sum_of_clipped_gradients_remains() -> None:
    """The control of the sensitivity test: the streams really cancel there."""
    examples = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 0.1], [0.0, -0.2, 0.0]])
    expected = -np.array([CLIP * 0.6, CLIP * 0.8 - 0.2, 0.1]) / DENOMINATOR
    np.testing.assert_allclose(one_step(examples, Silent(0)), expected, rtol=1e-5)


ADVERSARIES = {
    "large": torch.full((1, 300), 1e20),
    "largest": torch.full((1, 300), 3e38),
    "tiny": torch.full((1, 300), 1e-30),
    "at the clip": torch.full((1, 300), CLIP / math.sqrt(300)),
    "zero": torch.zeros(1, 300),
    "nan": torch.full((1, 300), math.nan),
    "one nan": torch.cat([torch.full((1, 299), 5.0), torch.full((1, 1), math.nan)], dim=1),
    "inf": torch.full((1, 300), math.inf),
    "inf and -inf": torch.tensor([[math.inf, -math.inf] * 150]),
    "one coordinate": torch.nn.functional.one_hot(torch.tensor([7]), 300) * 1e9,
}


@pytest.mark.parametrize("name", ADVERSARIES)
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_one_example_moves_a_step_by_at_most_the_clip(name: str, rate: float) -> None:
    """Neighbours with the same streams: the added example comes last, so the others are sampled alike."""
    generator = torch.Generator().manual_seed(1)
    others = 3 * torch.randn(64, 300, generator=generator)
    with_one = torch.cat([others, ADVERSARIES[name].float()])
    differences = []
    for seed in range(4):
        less = one_step(others, Silent(seed), rate=rate).astype(np.float64)
        more = one_step(with_one, Silent(seed), rate=rate).astype(np.float64)
        assert np.isfinite(more).all()
        differences.append(np.linalg.norm(more - less))
    rounding = np.finfo(np.float32).eps * 64 * CLIP / DENOMINATOR  # of the float32 result, after the noise
    assert max(differences) <= CLIP / DENOMINATOR + rounding
    if name in ("large", "largest", "at the clip", "one coordinate"):
        assert max(differences) > 0.999 * CLIP / DENOMINATOR, "the bound is reached: the example did count"
    if name in ("nan", "one nan", "inf", "inf and -inf", "zero"):
        assert max(differences) == 0


def test_the_sensitivity_test_sees_a_larger_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    original = ClippedSums.sum

    def loose(
        self: ClippedSums, batch: Batch, chosen: NDArray[np.intp], clip: float, lanes: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        return original(self, batch, chosen, 1.5 * clip, lanes)

    monkeypatch.setattr(ClippedSums, "sum", loose)
    with pytest.raises(AssertionError):
        test_one_example_moves_a_step_by_at_most_the_clip("large", 1.0)


def test_poisson_sampling_takes_each_example_at_its_rate() -> None:
    """Orthogonal examples: a coordinate moves exactly when its example was in the batch."""
    chosen = np.array([one_step(torch.eye(400), Silent(seed), rate=0.25) != 0 for seed in range(100)])
    assert stats.binomtest(int(chosen.sum()), chosen.size, 0.25).pvalue > NEVER
    assert stats.binomtest(int(chosen.sum()), chosen.size, 0.25 * 3 / 2).pvalue < NEVER
    sizes = chosen.sum(axis=1)
    spread = 99 * sizes.var(ddof=1) / (400 * 0.25 * 0.75)
    assert stats.chi2.sf(spread, 99) > NEVER, "batch sizes vary too much"
    assert stats.chi2.cdf(spread, 99) > NEVER, "batches of a fixed size are not Poisson batches"


def test_a_diverged_update_becomes_the_zero_vector() -> None:
    class Broken(SeededNoise):
        def normal(self, size: int) -> NDArray[np.float64]:
            return np.full(size, 1e300)

    assert not one_step(torch.ones(4, 10), Broken(1)).any()


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = torch.randn(64, 30, generator=torch.Generator().manual_seed(2))
    whole = one_step(examples, SeededNoise(5), rate=0.7, steps=3)
    monkeypatch.setattr("fedsus.learning.clipped_sums._CHUNK", 5 * 30)
    np.testing.assert_allclose(one_step(examples, SeededNoise(5), rate=0.7, steps=3), whole, rtol=1e-5)


def test_torch_seeds_do_not_decide_noise_or_samples() -> None:
    torch.manual_seed(0)
    first = one_step(torch.eye(50), SystemNoise(), rate=0.5)
    torch.manual_seed(0)
    assert not np.array_equal(first, one_step(torch.eye(50), SystemNoise(), rate=0.5))
