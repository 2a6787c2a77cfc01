"""The noise has the distribution that the accounting assumes; each test can fail on noise that is not."""

from __future__ import annotations

import copy
import os
import pickle

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fedsus.privacy import noise
from fedsus.privacy.noise import SeededNoise, SystemNoise
from fedsus.types import Noise

DRAWS = 200_000
NEVER = 1e-9
"""Significance: true noise fails once in a billion runs, noise of 2/3 or 3/2 of the scale always."""

SOURCES = pytest.mark.parametrize("noise", [SystemNoise(), SeededNoise(1)], ids=["system", "seeded"])


def p_normal(draws: NDArray[np.float64]) -> float:
    return float(stats.kstest(draws, "norm").pvalue)


def p_uniform(draws: NDArray[np.float64]) -> float:
    return float(stats.kstest(draws, "uniform").pvalue)


@SOURCES
def test_normal_draws_are_standard_normal(noise: Noise) -> None:
    draws = noise.normal(DRAWS)
    assert draws.shape == (DRAWS,) and draws.dtype == np.float64 and np.isfinite(draws).all()
    assert p_normal(draws) > NEVER


@SOURCES
@pytest.mark.parametrize("scale", [2 / 3, 3 / 2, 0.95, 1.05])
def test_the_test_rejects_noise_of_another_scale(noise: Noise, scale: float) -> None:
    assert p_normal(scale * noise.normal(DRAWS)) < NEVER


@SOURCES
def test_variance_and_tails(noise: Noise) -> None:
    """The variance of n draws has standard deviation sqrt(2 / n); 6 of them never happen."""
    draws = noise.normal(DRAWS)
    assert abs(draws.var() - 1) < 6 * np.sqrt(2 / DRAWS)
    beyond = int((np.abs(draws) > 3).sum())
    assert stats.binomtest(beyond, DRAWS, 2 * stats.norm.sf(3)).pvalue > NEVER


@SOURCES
def test_uniform_draws(noise: Noise) -> None:
    draws = noise.uniform(DRAWS)
    assert draws.shape == (DRAWS,) and draws.dtype == np.float64
    assert draws.min() >= 0 and draws.max() < 1
    assert p_uniform(draws) > NEVER
    assert p_uniform(draws**1.5) < NEVER


@SOURCES
def test_words_are_uniform_in_all_64_bits_and_independent(noise: Noise) -> None:
    words = noise.words(DRAWS)
    assert words.shape == (DRAWS,) and words.dtype == np.uint64 and noise.words(0).shape == (0,)
    bits = np.unpackbits(words.view(np.uint8)).reshape(DRAWS, 64)
    assert np.abs(bits.sum(axis=0) - DRAWS / 2).max() < 7 * np.sqrt(DRAWS / 4)
    correlation = np.corrcoef(bits[:20_000], rowvar=False) - np.eye(64)
    assert np.abs(correlation).max() < 7 / np.sqrt(20_000)
    assert p_uniform(words * 2.0**-64) > NEVER
    assert np.unique(words).size == DRAWS


def test_uniform_uses_all_53_bits() -> None:
    integers = (SystemNoise().uniform(10_000) * 2**53).astype(np.uint64)
    ones = sum(int(((integers >> np.uint64(bit)) & np.uint64(1)).sum()) for bit in range(53))
    assert abs(ones - 53 * 5000) < 6 * np.sqrt(53 * 2500)
    assert (integers & np.uint64(1)).any() and not (integers & np.uint64(1)).all()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 353, 32_768, 32_769, 65_537])
def test_every_size_is_filled(size: int) -> None:
    noise = SystemNoise()
    assert noise.normal(size).shape == (size,) and noise.uniform(size).shape == (size,)
    assert np.unique(noise.normal(size)).size == size


def test_coordinates_are_uncorrelated() -> None:
    """Also those that share pairs of uniforms inside the sampler: cosine and sine halves, at any shift."""
    noise, rows, size = SystemNoise(), 20_000, 8
    draws = noise.normal(rows * size).reshape(rows, size)
    small = np.stack([noise.normal(size) for _ in range(rows)])
    for sample in (draws, small):
        for values in (sample, sample**2, np.abs(sample)):
            correlation = np.corrcoef(values, rowvar=False) - np.eye(size)
            assert np.abs(correlation).max() < 6.5 / np.sqrt(rows)


def test_the_sum_of_outputs_has_the_right_scale() -> None:
    """Outputs of one small call are jointly normal: their sum over sqrt(size) is standard normal."""
    noise = SystemNoise()
    sums = np.array([noise.normal(4).sum() / 2 for _ in range(10_000)])
    assert p_normal(sums) > NEVER
    assert p_normal(sums * 2 / 3) < NEVER and p_normal(sums * 3 / 2) < NEVER


def test_two_sources_and_two_calls_differ() -> None:
    first, second = SystemNoise(), SystemNoise()
    draws = [first.normal(100), first.normal(100), second.normal(100), second.normal(100)]
    assert np.unique(np.concatenate(draws)).size == 400


def test_a_seed_repeats() -> None:
    np.testing.assert_array_equal(SeededNoise(7).normal(50), SeededNoise(7).normal(50))
    np.testing.assert_array_equal(SeededNoise(7).words(50), SeededNoise(7).words(50))
    assert not np.array_equal(SeededNoise(7).normal(50), SeededNoise(8).normal(50))


def test_nothing_secret_prints_or_is_copied() -> None:
    noise = SystemNoise()
    assert repr(noise) == "SystemNoise()" and repr(SeededNoise(12345)) == "SeededNoise()"
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="same noise"):
            duplicate(noise)


def test_a_new_process_gets_a_new_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_FORKS", [0])
    source = SystemNoise()
    before = source._stream
    noise._forked()
    source.uniform(1)
    assert source._stream is not before
    again = source._stream
    source.uniform(1)
    assert source._stream is again


def test_parent_and_child_draw_different_noise() -> None:
    """Whatever number the child's process has."""
    source = SystemNoise()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, source.words(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = np.frombuffer(os.read(read, 32), dtype=np.uint64)
    os.close(read)
    os.close(write)
    assert not np.intersect1d(theirs, source.words(4)).size


def test_points_on_the_circle_are_those_of_their_angles() -> None:
    words = SeededNoise(4).words(100_000)
    words[:6] = [0, (1 << 64) - 1, 1 << 63, 1 << 62, 1 << 52, (1 << 52) - 1]
    cosines, sines = noise._on_the_circle(words)
    angles = (words >> np.uint64(11)).astype(np.float64) * (2 * np.pi * 2.0**-53)
    assert np.abs(cosines - np.cos(angles)).max() < 2e-15  # float64 angles are off by 4e-16 themselves
    assert np.abs(sines - np.sin(angles)).max() < 2e-15
    assert np.abs(cosines**2 + sines**2 - 1).max() < 2e-15
