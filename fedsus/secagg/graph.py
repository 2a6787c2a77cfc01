"""Who holds whose shares and who masks with whom: everybody, or the neighbours on a random Harary graph.

Clients are their indices 0..size - 1 in the sorted cohort. Sparse graphs: Bell et al. (CCS 2020).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED_BYTES: Final = 32
_TAG: Final = b"fedsus secagg ring\x01"  # the last byte is the version
_WORD: Final = 4


@dataclass(frozen=True)
class Graph(ABC):
    """A symmetric graph over ``size`` clients: i is a neighbour, or a holder, of j whenever j is one of i.

    Attributes:
        size: clients.
        degree: holders of each client's shares: k of the thresholds.
    """

    size: int
    degree: int

    @abstractmethod
    def holders(self, index: int) -> tuple[int, ...]:
        """Sorted indices of the ``degree`` clients that hold shares of client ``index``; IndexError for no client."""

    @abstractmethod
    def neighbours(self, index: int) -> tuple[int, ...]:
        """Sorted indices of the clients that ``index`` masks with, never itself; IndexError for no client."""

    def _check(self, index: int) -> None:
        if not 0 <= index < self.size:
            raise IndexError(f"client {index} is not in 0..{self.size - 1}")


@dataclass(frozen=True)
class _Complete(Graph):
    """All with all; the share that a client keeps for itself counts."""

    def holders(self, index: int) -> tuple[int, ...]:
        self._check(index)
        return _all(self.size)

    def neighbours(self, index: int) -> tuple[int, ...]:
        self._check(index)
        others = _all(self.size)
        return others[:index] + others[index + 1 :]


@dataclass(frozen=True)
class _Ring(Graph):
    """A Harary graph: joined are those at most degree / 2 places apart on a ring.

    No share is kept for oneself: thresholds rely on 2t > t1 + k, and the extra share would make it k + 1.
    """

    order: tuple[int, ...] = field(repr=False)  # place on the ring -> client
    places: tuple[int, ...] = field(repr=False)  # client -> place on the ring

    def holders(self, index: int) -> tuple[int, ...]:
        self._check(index)
        place, reach = self.places[index], self.degree // 2
        around = (*range(place - reach, place), *range(place + 1, place + reach + 1))
        return tuple(sorted(self.order[other % self.size] for other in around))

    neighbours = holders


def complete(n: int) -> Graph:
    """The complete graph over n clients: all n hold a client's shares, itself included; it masks with all others.

    Raises:
        ValueError: n is not at least 1.
    """
    if n < 1:
        raise ValueError(f"a graph needs at least 1 client, not {n}")
    return _Complete(n, n)


@lru_cache(maxsize=4)
def harary(n: int, k: int, seed: bytes) -> Graph:
    """The Harary graph of even degree k < n over the ring that the 32-byte seed draws; neighbours hold the shares.

    Only the ring is drawn here, in O(n); neighbours are found when asked for.

    Raises:
        ValueError: k is odd or not in 2..n - 1, or the seed has another length.
    """
    if not 2 <= k < n or k % 2:
        raise ValueError(f"degree {k} is not an even number in 2..{n - 1}")
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
    order = permutation(n, seed)
    places = [0] * n
    for place, index in enumerate(order):
        places[index] = place
    return _Ring(n, k, order, tuple(places))


def permutation(n: int, seed: bytes) -> tuple[int, ...]:
    """A permutation of 0..n - 1, uniform when the seed is, the same on every platform (golden vectors in the tests).

    Fisher-Yates from the identity: for i = n - 1 down to 1, swap entries i and j with j uniform in 0..i. j is the next
    word of `_words` modulo i + 1; words at or above the largest multiple of i + 1 are skipped, so no j is favoured.
    """
    order, words = list(range(n)), _words(seed)
    for i in range(n - 1, 0, -1):
        limit = (1 << 8 * _WORD) // (i + 1) * (i + 1)
        word = next(words)
        while word >= limit:
            word = next(words)
        j = word % (i + 1)
        order[i], order[j] = order[j], order[i]
    return tuple(order)


def _words(seed: bytes) -> Iterator[int]:
    """Words of 32 bits, big-endian, of SHA-256(tag || seed || counter), the counter 8 bytes big-endian from 0."""
    counter = 0
    while True:
        block = hashlib.sha256(_TAG + seed + counter.to_bytes(8, "big")).digest()
        for at in range(0, len(block), _WORD):
            yield int.from_bytes(block[at : at + _WORD], "big")
        counter += 1


@lru_cache(maxsize=4)
def _all(n: int) -> tuple[int, ...]:
    return tuple(range(n))
