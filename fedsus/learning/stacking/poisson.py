"""Poisson batches of many clients, whose sizes differ by chance, as few passes of a stack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_FEW: Final = 64
"""Rows that are not worth a pass of their own."""


@dataclass(frozen=True, slots=True)
class Pass:
    """Some examples of each of the first ``live`` clients of the order.

    Attributes:
        live: clients m.
        index: (m * B,) int64, rows of all clients' examples side by side.
        valid: (m, B); False where a row only fills up a shorter batch.
    """

    live: int
    index: NDArray[np.int64]
    valid: NDArray[np.bool_]


def by_size(chosen: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Positions of clients, those with the largest batches first."""
    return np.argsort([-len(rows) for rows in chosen], kind="stable")


def passes(chosen: Sequence[NDArray[np.int64]], most: int) -> Iterator[Pass]:
    """All chosen examples of clients in the order of `by_size`, at most about ``most`` rows (or one a client) a pass.

    Equal lengths would fill up half of all rows: each pass goes on until half of its clients have no more examples.
    """
    counts = np.array([len(rows) for rows in chosen])
    first, longest = 0, int(counts.max(initial=0))
    while first < longest:
        live = int(np.count_nonzero(counts > first))
        few = live * (longest - first) <= _FEW
        last = longest if few else max(first + 1, int(counts[live // 2]))
        last = min(last, first + max(1, most // live))
        yield _pass(chosen[:live], first, last)
        first = last


def _pass(chosen: Sequence[NDArray[np.int64]], first: int, last: int) -> Pass:
    index = np.empty((len(chosen), last - first), dtype=np.int64)
    valid = np.zeros(index.shape, dtype=np.bool_)
    for row, used, rows in zip(index, valid, chosen, strict=True):
        part = rows[first:last]
        row[: len(part)], row[len(part) :], used[: len(part)] = part, part[0], True
    return Pass(len(chosen), index.reshape(-1), valid)
