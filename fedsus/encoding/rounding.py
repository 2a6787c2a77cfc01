"""Rows of float32 as whole numbers, each row on a scale of its own, a cache-sized chunk at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CHUNK: Final = 32 * 1024
"""Coordinates at a time: 256 KiB of float64."""


def chunks(length: int) -> Iterator[slice]:
    """Consecutive parts of at most `CHUNK` coordinates."""
    for start in range(0, length, CHUNK):
        yield slice(start, min(start + CHUNK, length))


def largest(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Largest |coordinate| of each row (m, d), (m,) float64; NaN or infinity where the row has one."""
    top: NDArray[np.float32] = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    return top.astype(np.float64)


def norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """L2 norm of each row (m, d), (m,) float64; NaN or infinity where the row has one."""
    found = np.empty(len(rows))
    buffer = np.empty(min(CHUNK, rows.shape[1]))
    for at, row in enumerate(rows):
        squares = 0.0
        for part in chunks(len(row)):
            values = buffer[: part.stop - part.start]
            np.copyto(values, row[part])
            squares += float(np.einsum("i,i->", values, values))  # a product of threads could round otherwise
        found[at] = squares
    return np.sqrt(found)


def broken(row: NDArray[np.float32]) -> int:
    """How many coordinates of a row (d,) are NaN or infinite."""
    return sum(int(np.count_nonzero(~np.isfinite(row[part]))) for part in chunks(len(row)))


def beyond(row: NDArray[np.float32], limit: float) -> int:
    """How many coordinates of a row (d,) are outside [-limit, limit]."""
    edge = np.float32(limit)
    if float(edge) > limit:  # the largest float32 inside: what is beyond it is beyond the limit
        edge = np.nextafter(edge, np.float32(0))
    return sum(int(np.count_nonzero(row[p] > edge) + np.count_nonzero(row[p] < -edge)) for p in chunks(len(row)))


def rounded(
    deltas: NDArray[np.float32], scales: NDArray[np.float64], limits: NDArray[np.float64], whole: np.ufunc = np.rint
) -> Iterator[tuple[slice, slice, NDArray[np.float64]]]:
    """``whole(clamp(delta, -limit, limit) * scale)`` of rows (m, d): rows, columns, and their values until the next.

    ``whole`` makes whole numbers: `numpy.rint` to nearest even, `numpy.trunc` towards zero.

    All rows of some columns come before other columns. A row of scale 0 is zeros, whatever it holds; one whose limit
    is infinite is not clamped, which is quicker. Products and rounding are float64.
    """
    count, dimension = deltas.shape
    together = max(1, CHUNK // max(1, dimension))
    buffer = np.empty((min(together, count), min(CHUNK, dimension)))
    dead, clamped = not scales.all(), bool(np.isfinite(limits).any())
    for columns in chunks(dimension):
        for start in range(0, count, together):
            rows = slice(start, min(start + together, count))
            values = buffer[: rows.stop - rows.start, : columns.stop - columns.start]
            np.copyto(values, deltas[rows, columns])
            if dead:
                values[scales[rows] == 0] = 0.0  # zero times NaN would still be NaN
            if clamped:
                limit = limits[rows, np.newaxis]
                np.clip(values, -limit, limit, out=values)
            values *= scales[rows, np.newaxis]
            whole(values, out=values)
            yield rows, columns, values


def summed(
    deltas: NDArray[np.float32], scales: NDArray[np.float64], limits: NDArray[np.float64], whole: np.ufunc = np.rint
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Columns, and the sums over all rows of what `rounded` gives for them: exact while they are below 2**53."""
    for rows, columns, values in rounded(deltas, scales, limits, whole):
        if rows.start == 0:
            total = np.zeros(columns.stop - columns.start)
        for row in values:
            total += row
        if rows.stop == len(deltas):
            yield columns, total
