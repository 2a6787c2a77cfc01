"""Lower bounds on epsilon: below the truth, near it, and above what a wrong claim says."""

from __future__ import annotations

import math
from typing import Any

import dp_accounting as dpa
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fedsus.errors import ConfigError
from fedsus.privacy.auditing import DELTAS, Bound, audit, clopper_pearson, lower_bounds, sharpest

DRAWS = 100_000


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def gaussians(shift: float, draws: int = DRAWS, seed: int = 1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    random = generator(seed)
    return random.standard_normal(draws), random.standard_normal(draws) + shift


def claim(shift: float) -> Any:
    return lambda delta: dpa.get_epsilon_gaussian(1 / shift, delta)


@pytest.mark.parametrize("draws", [1, 10, 5000])
@pytest.mark.parametrize("failure", [0.05, 1e-4])
def test_rates_are_bounded_as_by_clopper_and_pearson(draws: int, failure: float) -> None:
    counts = np.unique(np.array([0, 1, draws // 3, draws - 1, draws]))
    lower, upper = clopper_pearson(counts, draws, failure)
    for count, low, high in zip(counts, lower, upper, strict=True):
        interval = stats.binomtest(int(count), draws).proportion_ci(1 - 2 * failure, "exact")
        assert (low, high) == pytest.approx((interval.low, interval.high), rel=1e-9)


@pytest.mark.parametrize("shift", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_gaussians_are_bounded_from_near_below(shift: float, sign: int) -> None:
    absent, present = gaussians(shift)
    bounds = audit(sign * absent, sign * present, claim(shift), 1e-5)
    assert [bound.delta for bound in bounds] == [1e-5, *DELTAS][: len(bounds)]
    assert not any(bound.broken for bound in bounds)
    assert sharpest(bounds).share > 0.75
    assert all(bound.lower > 0 for bound in bounds)


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("factor", [1.0, 2 / 3, 1 / 2])
def test_noise_of_two_thirds_of_the_scale_is_found_and_of_the_whole_is_not(shift: float, factor: float) -> None:
    bounds = audit(*gaussians(shift / factor, seed=2), claim(shift), 1e-5)
    assert any(bound.broken for bound in bounds) == (factor < 1)


def test_either_input_may_be_the_one_that_is_told() -> None:
    """Present draws lie within the absent ones' range, with a spike: only one direction of the four shows it."""
    random = generator(3)
    absent, present = random.uniform(0, 10, DRAWS), random.uniform(4, 10, DRAWS)
    there, back = lower_bounds(absent, present, [1e-5]), lower_bounds(present, absent, [1e-5])
    assert there == pytest.approx(back, rel=0.05)
    assert there[0] > 6, "what only the absent input gives tells it for sure"


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_pure_privacy_of_few_values(epsilon: float) -> None:
    """Randomised response: the truth is known, and it has two values alone."""
    random, chance = generator(4), 1 / (1 + math.exp(-epsilon))
    absent = (random.uniform(size=DRAWS) > chance).astype(np.float64)
    present = (random.uniform(size=DRAWS) < chance).astype(np.float64)
    for delta, truth in ((0.0, epsilon), (0.05, math.log((chance - 0.05) / (1 - chance)))):
        [found] = lower_bounds(absent, present, [delta])
        assert 0.9 * truth < found < truth


def test_a_chance_of_delta_to_give_all_away_is_no_breach_of_delta_and_is_one_of_less() -> None:
    random = generator(5)
    absent, present = random.standard_normal(DRAWS), random.standard_normal(DRAWS)
    present[random.uniform(size=DRAWS) < 0.02] = 100.0
    assert lower_bounds(absent, present, [1e-5])[0] > 4
    assert lower_bounds(absent, present, [0.025])[0] == 0


def test_equal_laws_show_nothing() -> None:
    random = generator(6)
    shown = [lower_bounds(random.standard_normal(400), random.standard_normal(400), [0.0], 0.01)[0] for _ in range(100)]
    assert sum(epsilon > 0 for epsilon in shown) <= 8, "expected below 1, and above 8 once in 1e6"
    same = random.standard_normal(DRAWS)
    assert lower_bounds(same, same.copy(), [1e-5, 0.01]) == [0.0, 0.0]
    assert lower_bounds(np.ones(100), np.ones(100), [0.0]) == [0.0]


def test_bounds_fail_no_more_often_than_said() -> None:
    """Randomised response, where one test is tight: audits of few draws may fail with a chance of 0.2 each."""
    random, epsilon, failure, audits = generator(7), 1.0, 0.2, 500
    chance = 1 / (1 + math.exp(-epsilon))
    failed = 0
    for _ in range(audits):
        draws = random.uniform(size=(2, 200))
        absent, present = (draws[0] > chance).astype(float), (draws[1] < chance).astype(float)
        failed += lower_bounds(absent, present, [0.0], failure)[0] > epsilon
    assert stats.binomtest(failed, audits, failure, "greater").pvalue > 1e-6
    assert failed > 0, "a bound that never fails is no bound of that chance"


def test_more_draws_show_more_and_equal_draws_the_same() -> None:
    absent, present = gaussians(1.0)
    some = lower_bounds(absent[:5000], present[:5000], [0.01])
    assert some < lower_bounds(absent, present, [0.01]) == lower_bounds(absent, present, [0.01])


def test_shares_and_verdicts() -> None:
    assert not Bound(1e-5, 1.0, 1.0).broken and Bound(1e-5, 1.0, 1.01).broken
    assert not Bound(1e-5, math.inf, 9.0).broken and Bound(1e-5, math.inf, 9.0).share == 0
    assert Bound(1e-5, 0.0, 0.1).broken and sharpest([Bound(1e-5, 1.0, 0.5), Bound(0.1, 0.0, 0.1)]).delta == 0.1
    assert sharpest([Bound(1e-5, 1.0, 0.0), Bound(0.1, 0.5, 0.0)]).delta == 1e-5


@pytest.mark.parametrize(
    ("absent", "deltas", "failure", "said"),
    [
        (np.zeros(3), [0.0], 0.1, "3 draws"),
        (np.array([0.0, 1.0, 2.0, np.nan]), [0.0], 0.1, "not a number"),
        (np.zeros(4), [1.0], 0.1, "delta = 1.0"),
        (np.zeros(4), [-0.1], 0.1, "delta = -0.1"),
        (np.zeros(4), [0.0], 0.0, "failure = 0.0"),
        (np.zeros(4), [0.0], 1.0, "failure = 1.0"),
    ],
)
def test_bad_input_is_refused(absent: NDArray[np.float64], deltas: list[float], failure: float, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        lower_bounds(absent, np.zeros(10), deltas, failure)
