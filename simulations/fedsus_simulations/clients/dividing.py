"""Which rows of a data set each client has: equal shares, or shares in which clients differ in their classes.

Two ways to divide by a Dirichlet distribution are in use, and papers call both "Dirichlet(alpha)":

    by client   each client's class proportions q ~ Dirichlet(alpha K p), with K classes and p the data's own
                proportions, so alpha for each class where they are equal; all clients have equally many rows
                (Hsu, Qi and Brown 2019, https://arxiv.org/abs/1909.06335)
    by class    each class is divided over the clients in proportions ~ Dirichlet(alpha, ..., alpha); clients differ in
                size too, and with many clients some have next to nothing (Yurochkin et al. 2019,
                https://arxiv.org/abs/1905.12022)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus_simulations.clients.population import Rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

REDRAWS: Final = 100
"""How often a division by class is drawn before it is refused."""

_NOTHING: Final = 1e-300


def sizes(rows: int, clients: int) -> NDArray[np.int64]:
    """Rows of each client, (clients,): equal, but for one more for the first ones."""
    return np.full(clients, rows // clients) + (np.arange(clients) < rows % clients)


def kept(count: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """How many of so many rows are left to train on when a ``share`` in [0, 1) is held out, rounded down."""
    out: NDArray[np.int64] = np.floor(count * share + 1e-9).astype(np.int64)
    return count - out


def iid(rows: int, clients: int, rng: np.random.Generator) -> Rows:
    """All rows in a random order, cut into equal parts."""
    return Rows.of_sizes(rng.permutation(rows), sizes(rows, clients))


def dirichlet(labels: NDArray[np.int64], clients: int, alpha: float, rng: np.random.Generator) -> Rows:
    """Equally many rows each, with class proportions of their own (Hsu, Qi and Brown 2019).

    A client whose class is used up draws from its other classes, in its proportions: the rows are drawn in rounds, in
    each of which the last to come find a class empty; one class at least is emptied by each, or all have their rows.

    Args:
        labels: 0 to K - 1, (rows,).
    """
    left = np.bincount(labels)
    wanted = rng.dirichlet(alpha * len(left) * left / len(labels), size=clients)
    missing = sizes(len(labels), clients)
    counts = np.zeros((clients, len(left)), dtype=np.int64)
    while missing.any():
        chances = wanted * (left > 0)
        without = chances.sum(axis=1) < _NOTHING
        chances[without] = left
        drawn = rng.multinomial(missing, chances / chances.sum(axis=1, keepdims=True))
        order = rng.permutation(clients)
        before = np.cumsum(drawn[order], axis=0) - drawn[order]
        given = np.empty_like(drawn)
        given[order] = np.clip(left - before, 0, drawn[order])
        counts += given
        missing = missing - given.sum(axis=1)
        left = left - given.sum(axis=0)
    return _rows(labels, counts, rng)


def dirichlet_by_class(
    labels: NDArray[np.int64], clients: int, alpha: float, least: int, share: float, rng: np.random.Generator
) -> Rows | None:
    """Each class divided over the clients (Yurochkin et al. 2019); drawn again where a client has too few rows.

    Args:
        labels: 0 to K - 1, (rows,).
        least: fewest rows of a client once a ``share`` of them is held out.

    Returns:
        None where no draw gave each client enough.
    """
    pools = np.bincount(labels)
    for _ in range(REDRAWS):
        shares = np.cumsum(rng.dirichlet(np.full(clients, alpha), size=len(pools)), axis=1)
        ends: NDArray[np.int64] = np.rint(shares * pools[:, np.newaxis]).astype(np.int64)
        ends[:, -1] = pools  # a cumulative sum may end just below 1
        counts = np.diff(ends, axis=1, prepend=0).T
        if int(kept(counts.sum(axis=1), share).min()) >= least:
            return _rows(labels, counts, rng)
    return None


def held_out(rows: Rows, share: float, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Each client's rows as those to train on and those held out, a random ``share`` of its own, rounded down."""
    count = np.diff(rows.starts)
    if not share:
        return rows, Rows.of_sizes(rows.rows[:0], np.zeros_like(count))
    owners = np.repeat(np.arange(len(rows)), count)
    shuffled = rows.rows[np.lexsort((rng.random(len(owners)), owners))]
    train = kept(count, share)
    place = np.arange(len(owners)) - rows.starts[owners]
    first = place < train[owners]
    return Rows.of_sizes(shuffled[first], train), Rows.of_sizes(shuffled[~first], count - train)


def _rows(labels: NDArray[np.int64], counts: NDArray[np.int64], rng: np.random.Generator) -> Rows:
    """Random rows of each class, as many as each client has of it: counts (clients, K), all rows used."""
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    owners = np.concatenate([np.repeat(np.arange(len(counts)), column) for column in counts.T])
    return Rows.of_sizes(by_class[np.argsort(owners, kind="stable")], counts.sum(axis=1))
