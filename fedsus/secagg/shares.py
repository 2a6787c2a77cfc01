"""Shamir's secret sharing over a prime just above 2**256, so that every 32-byte secret is a field element.

A secret is the constant term of a random polynomial of degree ``threshold - 1``; its value at x is the share of point x
(Shamir, CACM 1979). ``threshold`` shares give the polynomial by Lagrange interpolation, fewer say nothing about the
secret. Shares carry no check of their own: a false one gives a false secret, so whoever rebuilds compares the result
with what the dealer had signed.
"""

from __future__ import annotations

import math
import secrets
from functools import lru_cache
from operator import mul
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.errors import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

PRIME: Final = 2**256 + 297  # the least prime above 2**256
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33
MAX_POINT: Final = 1 << 20

# Field elements as eleven limbs of 24 bits, lowest first, in signed 64-bit words: 264 bits are SHARE_BYTES exactly.
_LIMB: Final = 24
_LIMBS: Final = SHARE_BYTES * 8 // _LIMB
_MASK: Final = (1 << _LIMB) - 1
_FOLD: Final = 297 << 8  # 2**264 = -_FOLD mod PRIME
# Drawn numbers of 33 bytes are kept when they lie below the largest multiple of PRIME: 255 of 256 do.
_DRAW_LIMIT: Final = ((1 << 264) // PRIME * PRIME).to_bytes(SHARE_BYTES, "big")
_STEP_BITS: Final = 30  # see `_evaluate` for the bounds that this keeps
_RUN: Final = 16


def split(
    secret: bytes, threshold: int, points: Sequence[int], draw: Callable[[int], bytes] = secrets.token_bytes
) -> list[bytes]:
    """One share of 33 bytes, big-endian, for each point, in the order of ``points``.

    ``draw(n)`` gives n random bytes; it is asked for 33 * (threshold - 1) bytes, then for what was rejected.

    Raises:
        ValueError: the secret has not 32 bytes, the threshold is not in 1..len(points), or the points are not distinct
            numbers in 1..2**20.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 1 <= threshold <= len(points):
        raise ValueError(f"threshold {threshold} is not in 1..{len(points)}, the number of points")
    if len(set(points)) != len(points) or min(points) < 1 or max(points) > MAX_POINT:
        raise ValueError(f"points must be distinct numbers in 1..{MAX_POINT}")
    polynomial = secret.rjust(SHARE_BYTES, b"\0") + _coefficients(threshold - 1, draw)
    return _canonical(_evaluate(_limbs(polynomial), points))


def rebuild(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret, 32 bytes, from the shares (point -> 33 bytes) of the ``threshold`` lowest points; no other is read.

    Raises:
        ProtocolViolation: fewer than ``threshold`` shares, a point outside 1..2**20, a share that is not 33 bytes or
            not below the prime, or a result that is no secret since it needs more than 256 bits.
        ValueError: the threshold is not at least 1.
    """
    if threshold < 1:
        raise ValueError(f"threshold {threshold} is not at least 1")
    if len(shares) < threshold:
        raise ProtocolViolation(f"shares: {len(shares)} of the {threshold} that rebuild a secret")
    points = tuple(sorted(shares)[:threshold])
    if points[0] < 1 or points[-1] > MAX_POINT:
        raise ProtocolViolation(f"shares: a point is not in 1..{MAX_POINT}")
    values = [_value(shares[point], point) for point in points]
    secret: int = sum(map(mul, _weights(points), values)) % PRIME
    if secret >> (8 * SECRET_BYTES):
        raise ProtocolViolation("shares: the rebuilt secret is not below 2**256")
    return secret.to_bytes(SECRET_BYTES, "big")


def _value(share: bytes, point: int) -> int:
    if len(share) != SHARE_BYTES:
        raise ProtocolViolation(f"shares: {len(share)} bytes at point {point}, expected {SHARE_BYTES}")
    value = int.from_bytes(share, "big")
    if value >= PRIME:
        raise ProtocolViolation(f"shares: the value at point {point} is not below the prime")
    return value


def _coefficients(count: int, draw: Callable[[int], bytes]) -> bytes:
    """``count`` numbers of 33 bytes, uniform mod PRIME."""
    kept: list[bytes] = []
    while missing := count - len(kept):
        raw = draw(SHARE_BYTES * missing)
        drawn = (raw[at : at + SHARE_BYTES] for at in range(0, SHARE_BYTES * missing, SHARE_BYTES))
        kept += [number for number in drawn if number < _DRAW_LIMIT]  # bytes compare as big-endian numbers do
    return b"".join(kept)


def _limbs(numbers: bytes) -> NDArray[np.float64]:
    """(count, limbs) of numbers of 33 bytes, big-endian."""
    triples = np.frombuffer(numbers, dtype=np.uint8).reshape(-1, _LIMBS, 3)[:, ::-1, ::-1]
    limbs: NDArray[np.float64] = triples.astype(np.float64) @ np.array([1.0, 1 << 8, 1 << 16])
    return limbs


def _evaluate(polynomial: NDArray[np.float64], points: Sequence[int]) -> NDArray[np.int64]:
    """The values (limbs + 1, points) of a polynomial (degree + 1, limbs), lowest coefficient first.

    Horner's rule over blocks of ``terms`` coefficients, all points at once. At x < 2**w, with w * terms <= 30,
    the value of a block is a matrix product of floats below 2**24 * 2 * x**(terms - 1) < 2**53 (x = 1: 2**24 * 30),
    so exact. Limbs below 2**26 grow to at most 2**57; the first carrying leaves 2**33 in them and 2**50 in the lowest,
    the second 2**26 again.
    """
    width = max(points).bit_length()
    terms = _STEP_BITS // width
    x = np.array(points, dtype=np.int64)
    powers = x ** np.arange(terms)[:, None]
    blocks = -(-len(polynomial) // terms)
    padded = np.zeros((blocks * terms, _LIMBS))
    padded[: len(polynomial)] = polynomial
    factors = padded.reshape(blocks, terms, _LIMBS).transpose(0, 2, 1)
    floats, step = powers.astype(np.float64), x**terms
    value = np.zeros((_LIMBS + 1, len(points)), dtype=np.int64)
    for block in factors[::-1]:
        value[:-1] *= step
        value[:-1] += (block @ floats).astype(np.int64)
        _carry(value)
        _carry(value)
    return value


def _carry(value: NDArray[np.int64]) -> None:
    """Move what exceeds 24 bits of each limb into the next, and what exceeds 264 bits back into the lowest."""
    high = value[:-1] >> _LIMB
    value[:-1] &= _MASK
    value[1:] += high
    value[0] -= _FOLD * value[-1]
    value[-1] = 0


def _canonical(value: NDArray[np.int64]) -> list[bytes]:
    """The numbers (limbs + 1, points) mod PRIME, 33 bytes each, big-endian."""
    for row in range(_LIMBS):
        value[row + 1] += value[row] >> _LIMB
        value[row] &= _MASK
    # The topmost limb may be negative: three bytes each are the number in two's complement.
    octets = value.T.astype("<i4", order="C").view(np.uint8).reshape(-1, _LIMBS + 1, 4)[:, :, :3].tobytes()
    size = 3 * (_LIMBS + 1)
    numbers = (int.from_bytes(octets[at : at + size], "little", signed=True) for at in range(0, len(octets), size))
    return [(number % PRIME).to_bytes(SHARE_BYTES, "big") for number in numbers]


@lru_cache(maxsize=64)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """The Lagrange weights at 0, mod PRIME: w_i = prod_{j != i} x_j / (x_j - x_i).

    Kept for the last point sets: on the complete graph the shares of all dealers come from the same holders.
    """
    x = np.array(points, dtype=np.int64)
    differences = x - x[:, None]
    np.fill_diagonal(differences, x)  # w_i = prod_j x_j / (x_i * prod_{j != i} (x_j - x_i))
    width = -(-len(points) // (62 // points[-1].bit_length()))  # so many columns at a time fit into 64-bit products
    products = differences[:, :width].copy()
    for at in range(width, len(points), width):
        part = differences[:, at : at + width]
        products[:, : part.shape[1]] *= part
    divisors = [_product(row) for row in products.tolist()]
    numerator = _product(points)
    return tuple(numerator * inverse % PRIME for inverse in _inverses(divisors))


def _product(numbers: Sequence[int]) -> int:
    """The product mod PRIME, reduced now and then: long enough runs stay in C, numbers stay short."""
    product = 1
    for at in range(0, len(numbers), _RUN):
        product = product * math.prod(numbers[at : at + _RUN]) % PRIME
    return product


def _inverses(numbers: Sequence[int]) -> list[int]:
    """The inverses mod PRIME of nonzero numbers, for the price of one and three products each (Montgomery's trick)."""
    before = [1]
    for number in numbers:
        before.append(before[-1] * number % PRIME)
    inverse = pow(before.pop(), -1, PRIME)
    found: list[int] = []
    for number, product in zip(reversed(numbers), reversed(before), strict=True):
        found.append(product * inverse % PRIME)
        inverse = inverse * number % PRIME
    return found[::-1]
