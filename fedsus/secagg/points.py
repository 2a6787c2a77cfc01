"""Which 32 bytes are an Ed25519 public key that can vouch for somebody, or an X25519 key that two can agree on.

OpenSSL loads any 32 bytes as a key. For one of the few points of low order, everybody can write a signature that
verifies for many messages, or for all of them: such a key in a roster would sign for nobody. Of X25519, such a key
agrees with every other on zero.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

FIELD: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, FIELD) % FIELD
_ORDER_8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7  # d y^4 + 2 y^2 = 1

LOW_ORDER: Final = frozenset({0, 1, FIELD - 1, _ORDER_8, FIELD - _ORDER_8})
"""y of the eight points whose order divides the cofactor: (0, 1), (0, -1), (+-sqrt(-1), 0) and four of order 8."""


LOW_ORDER_U: Final = frozenset((1 + y) * pow(1 - y, -1, FIELD) % FIELD for y in LOW_ORDER - {1}) | {FIELD - 1}
"""Their u on the Montgomery curve, 0 for infinity too, and that of order 4 on its twist: X25519 takes both curves."""


@lru_cache(maxsize=65_536)
def fault(key: bytes) -> str:
    """Why 32 bytes are no Ed25519 public key (RFC 8032, section 5.1.3), or of low order; "" for a good one."""
    if len(key) != 32:
        return f"{len(key)} bytes; an Ed25519 public key has 32"
    y = int.from_bytes(key, "little") & (2**255 - 1)
    if y >= FIELD:
        return "not the canonical encoding of a point"
    if y in LOW_ORDER:
        return "a point of low order: anyone could sign for it"
    # x^2 = (y^2 - 1) / (d y^2 + 1) must be a square; the product is one exactly when the quotient is.
    u, v = (y * y - 1) % FIELD, (_D * y * y + 1) % FIELD
    if pow(u * v % FIELD, (FIELD - 1) // 2, FIELD) != 1:
        return "not a point of the curve"
    return ""


def agreement_fault(key: bytes) -> str:
    """Why 32 bytes are no X25519 public key for a session (RFC 7748, sections 5 and 6.1); "" for a good one."""
    u = int.from_bytes(key, "little")
    if len(key) != 32 or u >= FIELD:
        return "not the canonical encoding of an X25519 key"
    return "a point of low order" if u in LOW_ORDER_U else ""
