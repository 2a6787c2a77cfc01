"""Random signs and a Walsh-Hadamard transform: an orthonormal map after which no coordinate of an update is large.

For x of length n = 2**m (padded with zeros): y = H D x / sqrt(n), D the diagonal of n random signs, H the Hadamard
matrix in natural order (Sylvester's). Each coordinate of y is then of the order of |x| / sqrt(n), the largest about
sqrt(2 log n) times that (Ailon and Chazelle 2009), so that a common scale for rounding wastes few bits (Kairouz, Liu
and Steinke, arXiv:2102.06387, algorithm 1).

The signs come from a public seed, a round's: they flatten, and hide nothing. Only sums and differences of two numbers
are ever taken, each in a fixed place of the tree, so the result has the same bits whatever the machine, its threads,
and the other rows. A level of the transform is y[2i], y[2i+1] = x[i] + x[i+n/2], x[i] - x[i+n/2], which rotates the
bits of the indices by one (Pease 1968) and reads and writes in order; levels are grouped so that the data of each
group stay in the cache.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SIZE: Final = 1 << 14
"""Values at a time: two buffers of 128 KiB."""
_GROUP: Final = 6
"""Levels at a time across blocks: columns of 256 values, so that memory is read in runs."""
_SHORT: Final = 128
"""Rows up to this length are transformed all at once: one by one, calls would take most of the time."""
_BITS: Final = np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1, bitorder="little")
_SIGNS: Final = np.where(_BITS, -1.0, 1.0)
"""The eight signs of each byte, (256, 8) float64: the lowest bit first, 1 is minus."""


def padded(dimension: int) -> int:
    """The length of a rotated vector: the least power of two that is ``dimension`` >= 1 or more."""
    if dimension < 1:
        raise ValueError(f"dimension = {dimension}: expected 1 or more")
    return 1 << (dimension - 1).bit_length()


def signs(seed: bytes, size: int) -> NDArray[np.float64]:
    """+1.0 and -1.0 from SHAKE-128 of ``seed``, (size,) float64: the same everywhere; fewer are the first of more."""
    return _SIGNS[_sign_bytes(seed, size)].reshape(-1)[:size]


def rotate(rows: NDArray[np.float32] | NDArray[np.float64], seed: bytes) -> NDArray[np.float64]:
    """The rotation of each row, (m, d) -> (m, padded(d)) or (d,) -> (padded(d),), float64.

    Norms are kept to within rounding. What is not finite spreads over its whole row.
    """
    dimension = rows.shape[-1]
    size = padded(dimension)
    if rows.ndim == 2 and size <= _SHORT:
        return _short(rows, _sign_bytes(seed, size), size)
    out = np.zeros((*rows.shape[:-1], size))
    drawn, (here, there) = _sign_bytes(seed, size), np.empty((2, min(size, _SIZE)))
    for row, rotated in zip(np.atleast_2d(rows), np.atleast_2d(out), strict=True):
        _flip(row, drawn, rotated[:dimension], size)
        _transform(rotated, here, there)
    return out


def _short(rows: NDArray[Any], drawn: NDArray[np.uint8], size: int) -> NDArray[np.float64]:
    """The rotation of short rows (m, d), (m, size): the same sums and differences as of one row, of all at once."""
    here, there = np.zeros((2, len(rows), size))
    factors = (_SIGNS / math.sqrt(size)).take(drawn, axis=0).reshape(-1)[: rows.shape[1]]
    np.multiply(rows, factors, out=here[:, : rows.shape[1]])
    half = size // 2
    for _ in range(size.bit_length() - 1):
        np.add(here[:, :half], here[:, half:], out=there[:, 0::2])
        np.subtract(here[:, :half], here[:, half:], out=there[:, 1::2])
        here, there = there, here
    return here


def rotate_back(values: NDArray[np.float64], seed: bytes, dimension: int) -> NDArray[np.float64]:
    """The vector whose rotation is ``values`` (padded(dimension),) float64: (dimension,) float64.

    Raises:
        ValueError: another length of ``values``.
    """
    size = padded(dimension)
    if values.shape != (size,):
        raise ValueError(f"values: shape {values.shape}, expected ({size},)")
    out: NDArray[np.float64] = values.astype(np.float64)
    here, there = np.empty((2, min(size, _SIZE)))
    _transform(out, here, there)
    found = out[:dimension]
    _flip(found, _sign_bytes(seed, size), found, size)
    return found


def l2_squared_int(values: NDArray[np.int64]) -> int:
    """The sum of the squares of ``values`` (n,) int64, exactly, whatever their size."""
    if not values.size:
        return 0
    largest = max(int(values.max()), -int(values.min()))
    count = (2**63 - 1) // max(largest * largest, 1)  # so many squares can be added in int64
    if not count:
        return sum(value * value for value in values.tolist())
    parts = (values[start : start + count] for start in range(0, values.size, count))
    return sum(int(np.dot(part, part)) for part in parts)


def _sign_bytes(seed: bytes, size: int) -> NDArray[np.uint8]:
    """A sign a bit, (ceil(size / 8),) uint8."""
    return np.frombuffer(hashlib.shake_128(b"fedsus rotation 1\0" + seed).digest(-(-size // 8)), dtype=np.uint8)


def _flip(row: NDArray[Any], drawn: NDArray[np.uint8], out: NDArray[np.float64], size: int) -> None:
    """``row`` (d,) times its signs over sqrt(size), into ``out`` (d,), which may be the same."""
    table = _SIGNS / math.sqrt(size)
    for start in range(0, row.size, _SIZE):
        part = slice(start, min(start + _SIZE, row.size))
        factors = table.take(drawn[start // 8 : -(-part.stop // 8)], axis=0).reshape(-1)
        np.multiply(row[part], factors[: part.stop - start], out=out[part])


def _transform(row: NDArray[np.float64], here: NDArray[np.float64], there: NDArray[np.float64]) -> None:
    """H ``row`` (n,), in place: first within blocks, then across them, a few levels at a time in columns."""
    inner = min(row.size, here.size)
    for block in row.reshape(-1, inner):
        np.copyto(here, block)
        block[:] = _levels(here, there, inner.bit_length() - 1)
    while inner < row.size:
        height = min(1 << _GROUP, row.size // inner)
        width = here.size // height
        for group in row.reshape(-1, height, inner):
            for start in range(0, inner, width):
                panel = group[:, start : start + width]
                np.copyto(here.reshape(height, width), panel)
                panel[:] = _levels(here, there, height.bit_length() - 1).reshape(width, height).T
        inner *= height


def _levels(here: NDArray[np.float64], there: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """``count`` levels of all that is in ``here``, which moves the highest ``count`` bits of the indices to the end."""
    half = here.size // 2
    for _ in range(count):
        np.add(here[:half], here[half:], out=there[0::2])
        np.subtract(here[:half], here[half:], out=there[1::2])
        here, there = there, here
    return here
