"""How an epsilon is written where others recompute it, on another machine and with another version."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Context, Decimal
from typing import Final

DIGITS: Final = 5
"""Of an epsilon, rounded up: what is written is true."""

TOLERANCE: Final = 1e-7
"""Relative: how far two versions of the accountants may differ before an epsilon is rounded up."""

INFINITE: Final = "infinite"
"""Where nothing protects: JSON has no infinity."""


def rounded(epsilon: float) -> float | str:
    """As it is written."""
    if math.isinf(epsilon):
        return INFINITE
    return float(Context(prec=DIGITS, rounding=ROUND_CEILING).create_decimal(Decimal(epsilon)))


def alike(said: object, found: float) -> bool:
    """Whether ``said`` may be written for ``found``, which another version computed: give or take `TOLERANCE`."""
    return repr(said) in {repr(rounded(found * (1 + shift))) for shift in (-TOLERANCE, 0.0, TOLERANCE)}
