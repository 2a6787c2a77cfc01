"""Skellam draws have the distribution that is accounted; each test can fail on draws that have another."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from skellam_reference import Reference, quantile_bins

from fedsus.privacy.noise import SeededNoise, SystemNoise
from fedsus.privacy.sampling import skellam
from fedsus.types import Noise

DRAWS = 200_000
NEVER = 1e-9
"""Significance: true noise fails once in a billion runs, each of the wrong ones always."""
VARIANCES = [0.05, 1.0, 37.5, 1e4, 1e7]


def p_value(draws: NDArray[np.int64], variance: float) -> float:
    """Chi-square against the exact probabilities of about 40 bins."""
    edges, chances = quantile_bins(variance, 40)
    counts = np.bincount(np.searchsorted(edges, draws, side="left"), minlength=len(chances))
    return float(stats.chisquare(counts, chances * draws.size).pvalue)


@pytest.mark.parametrize("variance", [*VARIANCES, 3e8])
@pytest.mark.parametrize("noise", [SystemNoise(), SeededNoise(1)], ids=["system", "seeded"])
def test_draws_are_skellam(noise: Noise, variance: float) -> None:
    draws = skellam(variance).draw(noise, DRAWS)
    assert draws.shape == (DRAWS,) and draws.dtype == np.int64
    assert p_value(draws, variance) > NEVER


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("factor", [2 / 3, 3 / 2])
def test_another_variance_is_rejected(variance: float, factor: float) -> None:
    assert p_value(skellam(factor * variance).draw(SeededNoise(2), DRAWS), variance) < NEVER


@pytest.mark.parametrize("variance", VARIANCES)
def test_a_shifted_mean_and_a_biased_sign_are_rejected(variance: float) -> None:
    draws = skellam(variance).draw(SeededNoise(3), DRAWS)
    assert p_value(draws + max(1, round(0.05 * variance**0.5)), variance) < NEVER
    flipped = np.where(SeededNoise(4).uniform(DRAWS) < 0.2, np.abs(draws), draws)  # positive with chance 0.6
    assert p_value(flipped, variance) < NEVER


@pytest.mark.parametrize("variance", [1.0, 1e4])
def test_rounded_gaussians_and_numpy_poissons_of_the_same_variance(variance: float) -> None:
    """The control of the control: the test tells a Gaussian from a Skellam where they differ, and passes numpy's."""
    generator = np.random.Generator(np.random.PCG64(5))
    poisson = generator.poisson(variance / 2, DRAWS) - generator.poisson(variance / 2, DRAWS)
    assert p_value(poisson, variance) > NEVER
    gaussian = np.rint(generator.standard_normal(DRAWS) * variance**0.5).astype(np.int64)
    assert (p_value(gaussian, variance) < NEVER) == (variance == 1.0)


@pytest.mark.parametrize("variance", VARIANCES)
def test_mean_variance_and_symmetry(variance: float) -> None:
    """The fourth central moment is 3 v**2 + v; 6 standard deviations of each mean never happen."""
    draws = skellam(variance).draw(SystemNoise(), DRAWS)
    assert abs(draws.mean()) < 6 * np.sqrt(variance / DRAWS)
    squares = draws.astype(np.float64) ** 2
    assert abs(squares.mean() - variance) < 6 * np.sqrt((2 * variance**2 + variance) / DRAWS)
    positive, nonzero = int((draws > 0).sum()), int((draws != 0).sum())
    assert stats.binomtest(positive, nonzero, 0.5).pvalue > NEVER


@pytest.mark.parametrize("bound", [3000, 4000])
def test_tails(bound: int) -> None:
    """Where the guide leaves several entries open."""
    variance = 1e6
    draws = skellam(variance).draw(SystemNoise(), 1 << 20)
    chance = float(1 - Reference(variance).within(bound)) / 2
    for sign in (-1, 1):
        beyond = int((sign * draws > bound).sum())
        assert stats.binomtest(beyond, draws.size, chance).pvalue > NEVER
    beyond = int((np.abs(draws) > bound).sum())
    assert bound > 3000 or stats.binomtest(beyond, draws.size, 3 / 2 * 2 * chance).pvalue < NEVER
    assert np.abs(draws).max() > 4000


def test_sign_size_and_neighbours_are_independent() -> None:
    draws = skellam(400.0).draw(SystemNoise(), DRAWS)
    nonzero = draws[draws != 0]
    table = np.zeros((2, 4))
    np.add.at(table, ((nonzero > 0).astype(int), np.minimum(np.abs(nonzero) // 8, 3)), 1)
    assert stats.chi2_contingency(table).pvalue > NEVER
    for lag in (1, 2, 7, 64):
        for values in (draws, np.abs(draws)):
            assert abs(np.corrcoef(values[:-lag], values[lag:])[0, 1]) < 6.5 / np.sqrt(DRAWS - lag)


def test_shares_add_up() -> None:
    """The sum of five clients' shares is Skellam of the sum of their variances; four of five are not."""
    share = skellam(2e5)
    shares = np.stack([share.draw(SystemNoise(), DRAWS) for _ in range(5)])
    assert p_value(shares.sum(axis=0), 1e6) > NEVER
    assert p_value(shares[:4].sum(axis=0), 1e6) < NEVER
