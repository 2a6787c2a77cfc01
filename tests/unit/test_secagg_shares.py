"""Shamir shares: the fast evaluation is the slow one, t shares give the secret, and t - 1 fit every secret."""

import hashlib
import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.errors import ProtocolViolation
from fedsus.secagg import shares
from fedsus.secagg.shares import PRIME, SHARE_BYTES, rebuild, split

SECRETS = st.binary(min_size=32, max_size=32)


def stream(seed):
    """Random bytes that anyone can write again: SHA-256 of the seed and a counter."""
    blocks = (hashlib.sha256(seed + i.to_bytes(4, "big")).digest() for i in itertools.count())
    octets = itertools.chain.from_iterable(blocks)
    return lambda count: bytes(itertools.islice(octets, count))


def given_numbers(*numbers):
    """A source of exactly these numbers, 33 bytes each."""
    raw = b"".join(number.to_bytes(SHARE_BYTES, "big") for number in numbers)
    octets = iter(raw)
    return lambda count: bytes(itertools.islice(octets, count))


def value(polynomial, x):
    """Horner's rule, one point and one reduction at a time."""
    found = 0
    for coefficient in reversed(polynomial):
        found = (found * x + coefficient) % PRIME
    return found.to_bytes(SHARE_BYTES, "big")


def through(points):
    """The coefficients, lowest first, of the polynomial of least degree through {x: y}, mod PRIME."""
    total = [0] * len(points)
    for x, y in points.items():
        basis, scale = [1], y
        for other in points.keys() - {x}:
            basis = [(low - other * high) % PRIME for low, high in zip([0, *basis], [*basis, 0], strict=True)]
            scale = scale * pow(x - other, -1, PRIME) % PRIME
        total = [(a + scale * b) % PRIME for a, b in zip(total, basis, strict=True)]
    return total


@st.composite
def dealings(draw, most=24):
    """A secret, a threshold and points of every magnitude."""
    limit = 1 << draw(st.integers(math.ceil(math.log2(most)), 20))
    points = draw(st.lists(st.integers(1, limit), min_size=1, max_size=most, unique=True))
    return draw(SECRETS), draw(st.integers(1, len(points))), points, draw(st.binary(max_size=8))


def test_the_prime_is_the_least_above_all_secrets():
    def probably_prime(number):
        odd, twos = number - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in range(2, 42):
            powers = [pow(base, odd << i, number) for i in range(twos)]
            if powers[0] != 1 and number - 1 not in powers:
                return False
        return True

    assert PRIME == 2**256 + 297 and probably_prime(PRIME)
    assert not any(probably_prime(2**256 + i) for i in range(1, 297, 2))
    assert PRIME.bit_length() <= 8 * SHARE_BYTES


@given(dealing=dealings())
@settings(deadline=None)
def test_shares_are_the_values_of_the_drawn_polynomial(dealing):
    secret, t, points, seed = dealing
    source = random.Random(seed)
    coefficients = [source.randrange(PRIME) for _ in range(t - 1)]
    found = split(secret, t, points, given_numbers(*coefficients))
    polynomial = [int.from_bytes(secret, "big"), *coefficients]
    assert found == [value(polynomial, x) for x in points]


@pytest.mark.parametrize("width", range(1, 21))
@pytest.mark.parametrize("extreme", [PRIME - 1, 0, 1, 2**256 - 1, 255 * PRIME - 1])
def test_nothing_overflows_at_the_largest_points_and_coefficients(width, extreme):
    points = [*range(max(1, (1 << width) - 20), 1 << width), *([1 << 20] if width == 20 else [])]
    # split itself wants no more shares than points; the polynomial may be longer here
    numbers = [2**256 - 1] + [extreme] * 99
    limbs = shares._limbs(b"".join(number.to_bytes(SHARE_BYTES, "big") for number in numbers))
    assert shares._canonical(shares._evaluate(limbs, points)) == [value(numbers, x) for x in points]


def test_limbs_that_carried_below_zero_are_reduced():
    limbs = np.zeros((12, 3), dtype=np.int64)
    limbs[0] = [-1, -(2**50), 5]
    limbs[10, 2] = -(2**33)
    expected = [-1, -(2**50), 5 - 2**273]
    assert [int.from_bytes(share, "big") for share in shares._canonical(limbs)] == [x % PRIME for x in expected]


def test_a_large_cohort():
    points = random.Random(1).sample(range(1, 10_001), 500)
    found = split(bytes(range(32)), 400, points, stream(b"large"))
    chosen = dict(zip(points[70:470], found[70:470], strict=True))
    assert rebuild(chosen, 400) == bytes(range(32))


@given(dealing=dealings(), data=st.data())
@settings(deadline=None)
def test_any_t_shares_rebuild_the_secret(dealing, data):
    secret, t, points, seed = dealing
    dealt = dict(zip(points, split(secret, t, points, stream(seed)), strict=True))
    chosen = data.draw(st.lists(st.sampled_from(points), min_size=t, unique=True))
    assert rebuild({x: dealt[x] for x in chosen}, t) == secret


@pytest.mark.parametrize("n", range(1, 7))
def test_every_t_subset_rebuilds_the_secret_in_small_cohorts(n):
    for t in range(1, n + 1):
        dealt = dict(enumerate(split(bytes(31) + b"\x05", t, range(1, n + 1)), start=1))
        for chosen in itertools.combinations(dealt, t):
            assert rebuild({x: dealt[x] for x in chosen}, t) == bytes(31) + b"\x05"


@given(dealing=dealings(most=7), other=SECRETS, data=st.data())
@settings(deadline=None)
def test_fewer_than_t_shares_fit_every_other_secret(dealing, other, data):
    secret, t, points, seed = dealing
    dealt = dict(zip(points, split(secret, t, points, stream(seed)), strict=True))
    seen = data.draw(st.permutations(points))[: t - 1]
    known = {x: int.from_bytes(dealt[x], "big") for x in seen}
    coefficients = through({0: int.from_bytes(other, "big"), **known})[1:]
    again = dict(zip(points, split(other, t, points, given_numbers(*coefficients)), strict=True))
    assert {x: again[x] for x in seen} == {x: dealt[x] for x in seen}
    assert secret == other or all(again[x] != dealt[x] for x in set(points) - set(seen))


def test_fewer_than_t_shares_rebuild_nothing():
    dealt = dict(enumerate(split(bytes(32), 5, range(1, 9)), start=1))
    few = dict(itertools.islice(dealt.items(), 4))
    with pytest.raises(ProtocolViolation, match="4 of the 5 that rebuild"):
        rebuild(few, 5)
    with pytest.raises(ProtocolViolation, match="0 of the 1 that"):
        rebuild({}, 1)
    assert rebuild(few, 4) != bytes(32)


def test_shares_of_one_secret_are_fresh_each_time_and_spread():
    first, second = (split(bytes(32), 3, range(1, 200)) for _ in range(2))
    assert not set(first) & set(second)
    low = sum(int.from_bytes(share, "big") < PRIME // 2 for share in first + second)
    assert 120 < low < 278  # of 398; outside with probability below 1e-14


def test_the_lowest_points_count_and_no_other_share_is_read():
    dealt = dict(enumerate(split(b"s" * 32, 3, range(1, 7)), start=1))
    dealt[4], dealt[6] = b"", b"\xff" * SHARE_BYTES
    assert rebuild(dict(reversed(dealt.items())), 3) == b"s" * 32
    dealt[2] = bytes(SHARE_BYTES)
    assert rebuild(dealt, 3) != b"s" * 32


@pytest.mark.parametrize("secret", [2**256, PRIME - 1, 2**256 - 1])
def test_a_result_of_more_than_256_bits_is_refused(secret):
    polynomial = [secret, 3**160, 5**100]
    dealt = {x: value(polynomial, x) for x in (2, 5, 11)}
    if secret < 2**256:
        assert rebuild(dealt, 3) == secret.to_bytes(32, "big")
        return
    with pytest.raises(ProtocolViolation, match="rebuilt secret is not below"):
        rebuild(dealt, 3)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"", "0 bytes at point 7, expected 33"),
        (bytes(32), "32 bytes at point 7, expected 33"),
        (bytes(34), "34 bytes at point 7, expected 33"),
        (PRIME.to_bytes(33, "big"), "value at point 7 is not below the prime"),
        (b"\xff" * 33, "value at point 7 is not below the prime"),
    ],
)
def test_malformed_shares_are_refused(bad, reason):
    dealt = dict(zip([3, 7, 9], split(bytes(32), 3, [3, 7, 9]), strict=True))
    with pytest.raises(ProtocolViolation, match=reason):
        rebuild(dealt | {7: bad}, 3)


@pytest.mark.parametrize("point", [0, -1, 2**20 + 1])
def test_points_out_of_range_are_refused(point):
    dealt = {5: bytes(SHARE_BYTES), point: bytes(SHARE_BYTES)}
    with pytest.raises(ProtocolViolation, match="a point is not in 1..1048576"):
        rebuild(dealt, 2)
    with pytest.raises(ValueError, match="distinct numbers in 1..1048576"):
        split(bytes(32), 2, [5, point])


def test_misuse_is_named():
    for secret in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError, match=f"32 bytes, not {len(secret)}"):
            split(secret, 1, [1])
    for t in (0, 3):
        with pytest.raises(ValueError, match=f"threshold {t} is not in 1..2"):
            split(bytes(32), t, [1, 2])
    with pytest.raises(ValueError, match="distinct numbers"):
        split(bytes(32), 1, [1, 1])
    with pytest.raises(ValueError, match="not at least 1"):
        rebuild({1: bytes(SHARE_BYTES)}, 0)


def test_draws_that_would_favour_small_numbers_are_rejected():
    limit = 2**264 // PRIME * PRIME
    asked, source = [], given_numbers(2**264 - 1, 7, limit, limit - 1, 9)

    def draw(count):
        asked.append(count)
        return source(count)

    found = split(bytes(32), 4, [1, 2, 3, 4], draw)
    assert asked == [3 * SHARE_BYTES, 2 * SHARE_BYTES]
    assert found == [value([0, 7, limit - 1, 9], x) for x in (1, 2, 3, 4)]
    assert rebuild(dict(enumerate(found, start=1)), 4) == bytes(32)


def test_golden_shares():
    found = split(bytes(range(32)), 3, [1, 2, 3, 1000, 2**20], stream(b"fedsus shares"))
    assert [share.hex() for share in found] == GOLDEN
    for chosen in itertools.combinations(zip([1, 2, 3, 1000, 2**20], GOLDEN, strict=True), 3):
        assert rebuild({x: bytes.fromhex(share) for x, share in chosen}, 3) == bytes(range(32))


GOLDEN = [
    "009d6d0d14a1fdb8839e22e9fd50dc5578ab382da6444da3e37952883aa7eede8b",
    "000f765b1438ad1e1b40b8737ce01babba2559037c3bad31d0bb7d5ab4ab9070f8",
    "00561cec01c81336cdefc9a689b9cb10d37e739394fa33bfdede9991892701d7b8",
    "00fa275a3335e02979f388c2fca21dbc00a643b843e5ad946935b9fbfabaf6ff96",
    "00f504a95ed0caca6cf2ca6f6e88c4ea168aadecd468864f5ebf27c6e3433d427d",
]


def test_golden_shares_of_a_large_cohort():
    found = split(b"\xff" * 32, 93, range(1, 135), stream(b"fedsus shares"))
    assert (
        hashlib.sha256(b"".join(found)).hexdigest()
        == "f6f425131a2b7e8204d6896e8673f13e53c6cc41ee610237c396a22b4f1f3baa"
    )
