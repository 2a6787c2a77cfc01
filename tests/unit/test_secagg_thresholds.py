"""Thresholds: the numbers of the published table, the conditions recomputed slowly, and what they are for."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsus.errors import ConfigError
from fedsus.secagg import thresholds

# (sigma, active) -> (k, t) for N = 1,000 and 10,000 with gamma = delta = 0.1, then with 0.2.
CELLS = {
    (40, False): [(96, 67), (122, 85), (302, 206), (482, 328)],
    (40, True): [(106, 75), (132, 93), (334, 231), (518, 355)],
    (128, True): [(160, 121), (202, 151), (468, 337), (784, 556)],
}
SIZES = [(1000, 0.1), (10_000, 0.1), (1000, 0.2), (10_000, 0.2)]


@pytest.mark.parametrize(
    ("sigma", "active", "n", "share", "expected"),
    [(*row, *size, cell) for row, cells in CELLS.items() for size, cell in zip(SIZES, cells, strict=True)],
)
def test_every_cell_of_the_table(sigma, active, n, share, expected):
    bad, dropouts = thresholds.colluders(n, share), thresholds.planned_dropouts(n, share)
    found = thresholds.sparse(n, bad, dropouts, sigma, eta=20, active=active)
    assert (found.neighbours, found.threshold, found.rule) == (*expected, "harary")


def test_many_dropouts_are_solved_too():
    assert thresholds.solve(1000, 100, 300) == thresholds.Thresholds(580, 364, "harary")
    assert thresholds.solve(10_000, 1000, 3000) == thresholds.Thresholds(1184, 733, "harary")


# gamma -> N -> dropouts that the complete graph tolerates
TOLERANCE = {
    None: {7: 2, 8: 2, 9: 2, 10: 3},
    0.01: {3: 0, 4: 1, 5: 1, 6: 2, 7: 2, 8: 3, 9: 3, 10: 4},
}


@pytest.mark.parametrize(
    ("gamma", "n", "dropouts"), [(g, n, d) for g, row in TOLERANCE.items() for n, d in row.items()]
)
def test_dropouts_that_the_complete_graph_tolerates(gamma, n, dropouts):
    bad = thresholds.colluders(n, gamma)
    assert thresholds.least_tolerance(n, bad) == dropouts
    found = thresholds.complete(n, bad, dropouts)
    assert (found.neighbours, found.rule) == (n, "complete")
    assert found.threshold == (n + bad) // 2 + 1 == n - dropouts or n - found.threshold == dropouts
    with pytest.raises(ConfigError, match=f"tolerate 0 to {dropouts}; plan fewer, or ask at least"):
        thresholds.complete(n, bad, dropouts + 1)


@pytest.mark.parametrize("n", range(3, 60))
def test_the_cohort_that_the_refusal_names_is_the_least_that_does(n):
    for bad, dropouts in itertools.product(range(1, n - 1), range(n)):
        needed = bad + 2 * dropouts + 1
        if n >= needed:
            assert thresholds.complete(n, bad, dropouts).threshold <= n - dropouts
        else:
            with pytest.raises(ConfigError, match=f"at least {needed} clients"):
                thresholds.complete(n, bad, dropouts)


def opens_both(answers, bad, t):
    """Whether honest answers ("b" or "s" each) and colluders, who give both, rebuild both secrets of one client."""
    return all(answers.count(secret) + bad >= t for secret in "bs")


@pytest.mark.parametrize(("n", "bad"), [(n, bad) for n in range(3, 11) for bad in range(1, n - 1)])
def test_no_split_of_the_honest_opens_both_secrets_and_one_share_less_would(n, bad):
    t = thresholds.complete(n, bad, 0).threshold
    assert t > bad
    splits = list(itertools.product("bs", repeat=n - bad))
    assert not any(opens_both(answers, bad, t) for answers in splits)
    assert any(opens_both(answers, bad, t - 1) for answers in splits)


@pytest.mark.parametrize(("n", "bad"), [(n, bad) for n in range(3, 11) for bad in range(1, n - 1)])
def test_two_certificates_share_an_honest_client(n, bad):
    size = thresholds.quorum(n, bad)
    assert 2 * size - n > bad  # least overlap of two sets of that size
    assert 2 * (size - 1) - n <= bad


def test_shares_of_a_cohort_are_read_as_the_decimals_they_print_as():
    assert math.ceil(0.07 * 100) == 8  # what floats would make of it
    assert thresholds.colluders(100, 0.07) == 7
    assert math.floor(0.29 * 100) == 28
    assert thresholds.planned_dropouts(100, 0.29) == 29
    assert thresholds.floor(100, 1, thresholds.planned_dropouts(100, 0.29)) == 71
    assert [thresholds.colluders(n) for n in (3, 4, 5, 10, 199, 200, 1000, 10_000)] == [1, 1, 2, 3, 50, 20, 100, 1000]
    for wrong in (-0.1, 1.1, math.nan, math.inf):
        with pytest.raises(ConfigError, match="gamma: .* not in 0..1"):
            thresholds.colluders(10, wrong)
        with pytest.raises(ConfigError, match="delta: .* not in 0..1"):
            thresholds.planned_dropouts(10, wrong)


@given(n=st.integers(3, 2000), bad=st.integers(1, 50), thousandths=st.integers(0, 1000), noise=st.integers(0, 50))
def test_the_floor_is_the_largest_of_its_four_parts(n, bad, thousandths, noise):
    expected = max(3, bad + 2, math.ceil((1 - Fraction(thousandths, 1000)) * n), noise)
    assert thresholds.floor(n, bad, thresholds.planned_dropouts(n, thousandths / 1000), noise) == expected


def tail(n, marked, draws, least):
    """Pr[HG(n, marked, draws) >= least], term by term."""
    ways = (math.comb(marked, j) * math.comb(n - marked, draws - j) for j in range(max(least, 0), draws + 1))
    return Fraction(sum(ways), math.comb(n, draws))


def fits(n, bad, dropouts, k, sigma, eta, active):
    """The t of degree k, or None: the four conditions as they are written, in fractions."""
    small = Fraction(1, 2 ** (sigma + 1))
    pairs = Fraction(n * (n - k - 1), 2)
    if pairs * math.prod(Fraction(bad + dropouts - j, n - j) for j in range(k)) > small:
        return None
    t1 = min(t for t in range(k + 1) if tail(n, bad, k, t + 1) <= small / n)
    t2 = max(t for t in range(k + 1) if 1 - tail(n, n - dropouts, k, t) <= Fraction(1, 2**eta) / n)
    t = math.ceil((Fraction(t1 + k) - Fraction(5, 4)) / 2) + 1
    while active and pairs * tail(n, bad, k // 2, t - k // 2) ** 2 > small:
        t += 1
    return t if t <= t2 else None


@given(
    n=st.integers(3, 70),
    shares=st.tuples(st.floats(0, 0.4), st.floats(0, 0.5)),
    sigma=st.integers(1, 24),
    eta=st.integers(1, 12),
    active=st.booleans(),
)
@settings(deadline=None, max_examples=200)
@example(15, (0.375, 0.25), 5, 1, True)  # only k = n - 1 would do
def test_sparse_finds_the_first_degree_that_fulfils_the_conditions(n, shares, sigma, eta, active):
    bad = max(1, int(shares[0] * n))
    dropouts = min(int(shares[1] * n), thresholds.least_tolerance(n, bad))
    for k in range(2, n - 1, 2):
        if t := fits(n, bad, dropouts, k, sigma, eta, active):
            assert thresholds.sparse(n, bad, dropouts, sigma, eta, active) == thresholds.Thresholds(k, t, "harary")
            return
    with pytest.raises(ConfigError, match=f"need more than {n - 2} neighbours each"):
        thresholds.sparse(n, bad, dropouts, sigma, eta, active)


def degree(*arguments, **options):
    """k of the sparse graph, infinite where there is none."""
    try:
        return thresholds.sparse(*arguments, **options).neighbours
    except ConfigError:
        return math.inf


@given(n=st.integers(200, 500), bad=st.integers(1, 60), dropouts=st.integers(0, 80), sigma=st.integers(40, 128))
@settings(deadline=None, max_examples=50)
def test_more_colluders_dropouts_or_security_never_need_fewer_neighbours(n, bad, dropouts, sigma):
    k = degree(n, bad, dropouts, sigma)
    assert degree(n, bad + 1, dropouts, sigma) >= k
    assert degree(n, bad, dropouts + 1, sigma) >= k
    assert degree(n, bad, dropouts, sigma + 1) >= k
    assert degree(n, bad, dropouts, sigma, active=False) <= k


def test_the_graph_is_complete_below_200_clients():
    assert thresholds.solve(199, 50, 19) == thresholds.Thresholds(199, 125, "complete")
    assert thresholds.solve(200, 20, 20).rule == "harary"


@pytest.mark.parametrize(
    ("n", "bad", "dropouts", "reason"),
    [
        (2, 1, 0, "2 clients cannot hide"),
        (3, 0, 0, "allowed are 1 to 1"),
        (3, 2, 0, "allowed are 1 to 1"),
        (300, 299, 0, "allowed are 1 to 298"),
        (300, 30, -1, "tolerate 0 to"),
        (300, 30, 135, "tolerate 0 to 134; plan fewer, or ask at least 301 clients"),
        (300, 30, 134, "need more than 298 neighbours each; plan fewer dropouts or fewer colluders"),
        (100_000, 10_000, 44_000, "need more than 4096 neighbours each"),
    ],
)
def test_impossible_cohorts_are_refused_with_a_way_out(n, bad, dropouts, reason):
    with pytest.raises(ConfigError, match=reason) as refusal:
        thresholds.solve(n, bad, dropouts)
    assert "\n" not in str(refusal.value)


@given(roster=st.integers(1, 60), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)), sigma=st.integers(1, 40))
@settings(deadline=None)
def test_drawn_colluders_are_the_exact_quantile(roster, shares, sigma):
    bad, cohort = int(shares[0] * roster), max(1, int(shares[1] * roster))
    found = thresholds.drawn_colluders(roster, bad, cohort, sigma)
    assert 0 <= found <= min(bad, cohort)
    assert tail(roster, bad, cohort, found + 1) <= Fraction(1, 2**sigma)
    assert found == 0 or tail(roster, bad, cohort, found) > Fraction(1, 2**sigma)


def test_drawn_colluders_of_a_large_roster_at_128_bits():
    found = thresholds.drawn_colluders(10_000, 1000, 100)
    assert found == 63
    assert tail(10_000, 1000, 100, found + 1) <= Fraction(1, 2**128) < tail(10_000, 1000, 100, found)
    assert thresholds.drawn_colluders(100, 10, 100) == 10
    for roster, bad, cohort in [(10, 1, 11), (10, 1, 0), (10, 11, 5), (10, -1, 5)]:
        with pytest.raises(ConfigError, match="allowed are"):
            thresholds.drawn_colluders(roster, bad, cohort)
