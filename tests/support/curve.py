"""Other X25519 public keys with the outputs of a given one: it plus a point whose order divides 8 (RFC 7748)."""

from __future__ import annotations

FIELD = 2**255 - 19
_A = 486662
_ROOT = pow(2, (FIELD - 1) // 4, FIELD)
LOW_ORDER = (
    0,
    1,
    0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F,
    0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0,
)
"""u of the points of order 2, 4 and 8 on the curve."""


def plus(key: bytes, low: int) -> bytes:
    """The public key of u(P + T), for the key of P and the u of T."""
    u, v = int.from_bytes(key, "little"), _v(int.from_bytes(key, "little"))
    slope = (_v(low) - v) * pow(low - u, -1, FIELD) % FIELD
    return ((slope * slope - _A - low - u) % FIELD).to_bytes(32, "little")


def _v(u: int) -> int:
    """A square root of u^3 + A u^2 + u."""
    square = (u**3 + _A * u**2 + u) % FIELD
    v = pow(square, (FIELD + 3) // 8, FIELD)
    if v * v % FIELD != square:
        v = v * _ROOT % FIELD
    assert v * v % FIELD == square, "not on the curve"
    return v
