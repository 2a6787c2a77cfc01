"""Graphs of a session: symmetric, of the stated degree, and the same ring for every client on every platform."""

import hashlib
import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.secagg import graph

SEEDS = st.binary(min_size=32, max_size=32)


@st.composite
def ring_sizes(draw):
    n = draw(st.integers(3, 60))
    return n, 2 * draw(st.integers(1, (n - 1) // 2))


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_complete_masks_with_all_others_and_keeps_a_share_for_itself(n):
    found = graph.complete(n)
    assert (found.size, found.degree) == (n, n)
    for i in range(n):
        assert found.holders(i) == tuple(range(n))
        assert found.neighbours(i) == tuple(j for j in range(n) if j != i)


@given(size=ring_sizes(), seed=SEEDS)
@settings(deadline=None)
def test_harary_is_symmetric_regular_and_keeps_no_share_for_oneself(size, seed):
    n, k = size
    found = graph.harary(n, k, seed)
    assert (found.size, found.degree) == (n, k)
    for i in range(n):
        around = found.neighbours(i)
        assert around == found.holders(i) == tuple(sorted(set(around)))
        assert len(around) == k and i not in around
        assert all(i in found.neighbours(j) for j in around)


@given(size=ring_sizes(), seed=SEEDS)
@settings(deadline=None)
def test_harary_joins_who_is_at_most_half_the_degree_apart_on_the_ring(size, seed):
    n, k = size
    order = graph.permutation(n, seed)
    assert sorted(order) == list(range(n))
    found = graph.harary(n, k, seed)
    for p, q in itertools.combinations(range(n), 2):
        apart = min(q - p, n - (q - p))
        assert (order[q] in found.neighbours(order[p])) == (apart <= k // 2)


def test_only_a_gap_of_half_the_degree_on_both_sides_cuts_a_ring():
    found = graph.harary(30, 4, bytes(32))
    order = graph.permutation(30, bytes(32))

    def connected(gone):
        left = set(range(30)) - gone
        reached, todo = set(), [min(left)]
        while todo:
            reached.add(i := todo.pop())
            todo += [j for j in found.neighbours(i) if j in left and j not in reached]
        return reached == left

    assert connected({order[3], order[4], order[15]})
    assert not connected({order[3], order[4], order[15], order[16]})


GOLDEN = {
    (8, bytes(32)): (3, 1, 6, 5, 7, 4, 0, 2),
    (12, bytes(range(32))): (4, 11, 2, 9, 0, 3, 7, 1, 10, 6, 8, 5),
}


@pytest.mark.parametrize(("n", "seed"), GOLDEN)
def test_golden_rings(n, seed):
    assert graph.permutation(n, seed) == GOLDEN[n, seed]


def test_golden_ring_of_a_large_cohort():
    order = graph.permutation(10_000, bytes(range(32)))
    digest = hashlib.sha256(b"".join(i.to_bytes(4, "big") for i in order)).hexdigest()
    assert digest == "30abf5721801bcbb895d0be4734dc3efcd127616fa869339f0538ca7fe8e79c4"
    found = graph.harary(10_000, 202, bytes(range(32)))
    assert order.index(found.neighbours(0)[0]) in {(order.index(0) + d) % 10_000 for d in range(-101, 102)}


def by_the_book(n, seed):
    """The documented shuffle, written a second time."""
    stream = itertools.chain.from_iterable(
        hashlib.sha256(b"fedsus secagg ring\x01" + seed + i.to_bytes(8, "big")).digest() for i in itertools.count()
    )
    order = list(range(n))
    for last in reversed(range(1, n)):
        choices = last + 1
        while (word := int.from_bytes(bytes(itertools.islice(stream, 4)), "big")) >= 2**32 - 2**32 % choices:
            pass
        order[last], order[word % choices] = order[word % choices], order[last]
    return tuple(order)


@given(n=st.integers(1, 300), seed=SEEDS)
@settings(deadline=None)
def test_the_shuffle_is_the_documented_one(n, seed):
    assert graph.permutation(n, seed) == by_the_book(n, seed)


def test_words_that_would_favour_some_places_are_skipped(monkeypatch):
    # Of 3 places: 2**32 = 3 * 1431655765 + 1, so the last word is skipped and the one before gives place 2.
    words = [2**32 - 1, 2**32 - 2, 2**32 - 1]
    monkeypatch.setattr(graph, "_words", lambda seed: iter(words))
    assert graph.permutation(3, bytes(32)) == (0, 1, 2)  # keeps 2 in its place, then 1


def spread(shuffle, draws=4800):
    """Chi-square of the orders of four clients against all 24 alike; 23 degrees of freedom."""
    counts = Counter(shuffle(4, hashlib.sha256(i.to_bytes(4, "big")).digest()) for i in range(draws))
    return sum((counts[order] - draws / 24) ** 2 / (draws / 24) for order in itertools.permutations(range(4)))


def naive(n, seed):
    """The well-known wrong shuffle: every entry is swapped with any other."""
    order = list(range(n))
    for i, word in zip(range(n), graph._words(seed), strict=False):
        order[i], order[word % n] = order[word % n], order[i]
    return tuple(order)


def test_all_orders_are_equally_likely():
    limit = 70.0  # exceeded with probability 1e-6
    assert spread(graph.permutation) < limit
    assert spread(naive) > 2 * limit


def test_other_seeds_give_other_rings():
    rings = {graph.permutation(50, bytes([i]) * 32) for i in range(100)}
    assert len(rings) == 100


@pytest.mark.parametrize("i", [-1, 5])
@pytest.mark.parametrize("found", [graph.complete(5), graph.harary(5, 2, bytes(32))], ids=["complete", "harary"])
def test_who_is_no_client_has_no_neighbours(found, i):
    with pytest.raises(IndexError, match=f"client {i} is not in 0..4"):
        found.holders(i)
    with pytest.raises(IndexError, match=f"client {i} is not in 0..4"):
        found.neighbours(i)


@pytest.mark.parametrize(("n", "k"), [(5, 3), (5, 0), (4, 4), (4, 6), (2, 2), (5, -2)])
def test_impossible_degrees_are_refused(n, k):
    with pytest.raises(ValueError, match=f"degree {k} is not an even number in 2..{n - 1}"):
        graph.harary(n, k, bytes(32))


def test_impossible_sizes_and_seeds_are_refused():
    with pytest.raises(ValueError, match="at least 1 client, not 0"):
        graph.complete(0)
    for size in (0, 31, 33):
        with pytest.raises(ValueError, match=f"32 bytes, not {size}"):
            graph.harary(5, 2, bytes(size))


def test_a_graph_is_frozen_and_its_repr_short():
    found = graph.harary(1000, 160, bytes(32))
    with pytest.raises(AttributeError):
        found.size = 3
    assert len(repr(found)) < 60
    assert found == graph.harary(1000, 160, bytes(32)) != graph.harary(1000, 160, bytes([1]) * 32)
