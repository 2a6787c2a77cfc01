"""The rotation against the Hadamard matrix, its inverse, and the same bits for whoever computes it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import hadamard

from fedsus.encoding.rotation import l2_squared_int, padded, rotate, rotate_back, signs

SEED = b"\x07" * 32
DIMENSIONS = [1, 2, 3, 8, 13, 1000, 1024, (1 << 14) - 1, (1 << 14) + 1, 100_000, 1 << 20, (1 << 20) + 1]


def vectors(*shape: int, seed: int = 1) -> NDArray[np.float64]:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


@pytest.mark.parametrize(
    ("dimension", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1 << 20, 1 << 20), (1_000_001, 1 << 20)]
)
def test_padding(dimension: int, size: int) -> None:
    assert padded(dimension) == size


@pytest.mark.parametrize("dimension", [0, -1])
def test_no_dimension_is_refused(dimension: int) -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        padded(dimension)


@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 64, 100, 1000])
def test_it_is_signs_then_the_hadamard_matrix(dimension: int) -> None:
    size = padded(dimension)
    rows = vectors(3, dimension)
    full = np.pad(rows, ((0, 0), (0, size - dimension))) * signs(SEED, size)
    np.testing.assert_allclose(rotate(rows, SEED), full @ hadamard(size) / np.sqrt(size), rtol=0, atol=1e-13)


@pytest.mark.parametrize("block", [1, 2, 8, 1 << 10])
def test_blocks_of_any_size_give_the_same_transform(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    row = vectors(1 << 11)
    whole = rotate(row, SEED)
    monkeypatch.setattr("fedsus.encoding.rotation._SIZE", max(block, 8))
    monkeypatch.setattr("fedsus.encoding.rotation._GROUP", min(3, max(block, 8).bit_length() - 1))
    np.testing.assert_allclose(rotate(row, SEED), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_norms_are_kept_and_it_can_be_undone(dimension: int) -> None:
    row = vectors(dimension)
    rotated = rotate(row, SEED)
    assert rotated.shape == (padded(dimension),) and rotated.dtype == np.float64
    assert abs(np.linalg.norm(rotated) / np.linalg.norm(row) - 1) < 1e-12
    before = rotated.copy()
    back = rotate_back(rotated, SEED, dimension)
    assert back.shape == (dimension,) and back.dtype == np.float64
    np.testing.assert_allclose(back, row, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(rotated, before, "the argument was changed")


@settings(max_examples=40, deadline=None)
@given(dimension=st.integers(1, 3000), seed=st.binary(max_size=40), scale=st.floats(-30, 30))
def test_any_vector_comes_back(dimension: int, seed: bytes, scale: float) -> None:
    row = vectors(dimension, seed=dimension) * 10.0**scale
    np.testing.assert_allclose(rotate_back(rotate(row, seed), seed, dimension), row, rtol=0, atol=1e-12 * 10.0**scale)


def test_inner_products_are_kept() -> None:
    rows = vectors(5, 3000)
    rotated = rotate(rows, SEED)
    np.testing.assert_allclose(rotated @ rotated.T, rows @ rows.T, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [1, 2, 1024, 1 << 17, 1 << 20])
@pytest.mark.parametrize("place", [0, -1])
def test_a_single_coordinate_is_spread_evenly(size: int, place: int) -> None:
    row = np.zeros(size)
    row[place] = 3.0
    np.testing.assert_allclose(np.abs(rotate(row, SEED)), 3.0 / np.sqrt(size), rtol=1e-15, atol=0)


def test_a_constant_vector_is_flattened_by_the_signs() -> None:
    """Without them, the transform of a constant is a single spike. 7 standard deviations never happen."""
    rotated = rotate(np.ones(1 << 16), SEED)
    assert np.abs(rotated).max() < 7


@pytest.mark.parametrize("dimension", [1, 3, 100, 128, 129, 1000, (1 << 15) + 1, 1 << 17])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_of_a_stack_has_the_bits_it_has_alone(dimension: int, dtype: type) -> None:
    rows = vectors(5, dimension).astype(dtype)
    stack = rotate(rows, SEED)
    assert stack.shape == (5, padded(dimension)) and stack.dtype == np.float64
    for row, rotated in zip(rows, stack, strict=True):
        np.testing.assert_array_equal(rotate(row, SEED), rotated)
        np.testing.assert_array_equal(rotate(row.astype(np.float64), SEED), rotated)
    np.testing.assert_array_equal(rotate(np.asfortranarray(rows), SEED), stack)
    assert rotate(rows[:0], SEED).shape == (0, padded(dimension))


@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_the_bits_do_not_depend_on_threads(threads: str) -> None:
    """Also a golden vector: other bits here would be another encoding."""
    code = (
        "import hashlib, numpy as np; from fedsus.encoding.rotation import rotate\n"
        "row = (np.arange(100_000, dtype=np.float64) % 1009 - 504) / 3\n"
        "print(hashlib.sha256(rotate(row, b'golden').astype('<f8').tobytes()).hexdigest())"
    )
    variables = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "5ed45c05757c291106142c9cb903ae8ad7465d0c25eae6ec6a1e03d9bc8638d2"


def test_signs_are_those_of_the_seed() -> None:
    drawn = signs(SEED, 100_003)
    assert drawn.shape == (100_003,) and drawn.dtype == np.float64 and set(np.unique(drawn)) == {-1.0, 1.0}
    assert abs(drawn.sum()) < 6 * np.sqrt(drawn.size)
    np.testing.assert_array_equal(drawn[:77], signs(SEED, 77))
    bits = hashlib.shake_128(b"fedsus rotation 1\0" + SEED).digest(3)
    assert drawn[:24].tolist() == [1 - 2 * (bits[i // 8] >> i % 8 & 1) for i in range(24)]
    assert abs(drawn @ signs(b"another", drawn.size)) < 6 * np.sqrt(drawn.size)
    assert abs(drawn[1:] @ drawn[:-1]) < 6 * np.sqrt(drawn.size)


def test_another_seed_does_not_undo_it() -> None:
    row = vectors(1000)
    assert np.abs(rotate_back(rotate(row, SEED), b"another", 1000) - row).max() > 1


@pytest.mark.parametrize("shape", [(4,), (16,), (1, 8), ()])
def test_values_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(8,\)"):
        rotate_back(np.zeros(shape), SEED, 7)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [0, 0],
        [3, -4],
        [2**31, -(2**31), 1],
        [2**40, 7],
        [-(2**63), 2**63 - 1, 5],
        [3_037_000_499] * 3,
        [46341] * 1000,
    ],
)
def test_squared_norms_are_exact(values: list[int]) -> None:
    assert l2_squared_int(np.array(values, dtype=np.int64)) == sum(value * value for value in values)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-(2**30), 2**30)))
def test_squared_norms_of_anything_are_exact(values: list[int]) -> None:
    assert l2_squared_int(np.array(values, dtype=np.int64)) == sum(value * value for value in values)
