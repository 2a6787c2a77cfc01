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


def shown(epsilon: float) -> str:
    """For people, wherever an epsilon that was spent is told: rounded up, so that what is shown is true.

    Three decimals below 10, one from there on; two digits that count below 0.1; "inf" where nothing protects.
    """
    if not math.isfinite(epsilon):
        return "inf"
    small = 0 < epsilon < 0.1
    places = 1 - math.floor(math.log10(epsilon)) if small else 3 if epsilon < 10 else 1
    return f"{math.ceil(epsilon * 10**places - 1e-9) / 10**places:.{places}f}"


def alike(said: object, found: float) -> bool:
    """Whether ``said`` may be written for ``found``, which another version computed: give or take `TOLERANCE`."""
    return repr(said) in {repr(rounded(found * (1 + shift))) for shift in (-TOLERANCE, 0.0, TOLERANCE)}
