"""Signed numbers as residues mod 2**bits, bits <= 32, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus.types import Ring

LEVELS: Final = 127
"""Fewer steps than this on each side of zero is no update worth sending."""


def of(numbers: NDArray[np.float64], bits: int) -> NDArray[np.int64]:
    """Residues of signed whole numbers below 2**53."""
    whole = numbers.astype(np.int64)
    whole &= (1 << bits) - 1
    return whole


def add(total: Ring, numbers: NDArray[np.float64], bits: int) -> None:
    """Add signed whole numbers (n,), each below 2**53, to residues (n,) uint32 in place."""
    total += of(numbers, bits).astype(np.uint32)
    total &= np.uint32((1 << bits) - 1)


def signed(residues: Ring, bits: int) -> NDArray[np.int32]:
    """Residues as numbers -2**(bits - 1)..2**(bits - 1) - 1, (n,) int32."""
    shift = 32 - bits  # to the top of a word and back: the arithmetic shift extends the sign
    return (residues << np.uint32(shift)).view(np.int32) >> np.int32(shift)


def of_whole(whole: NDArray[np.int64], bits: int) -> NDArray[np.uint32]:
    """Residues of signed 64-bit integers, (n,) uint32."""
    return (whole & ((1 << bits) - 1)).astype(np.uint32)


def check_bits(bits: int, clients: int, cap: int) -> None:
    """Refuse a width that cannot carry the cohort: M >= 127 steps, and N * W below 2**bits."""
    needed = max((2 * LEVELS * clients + 1).bit_length(), (clients * cap).bit_length())
    if bits >= needed:
        return
    small = "a smaller cohort.size" if cap == 1 else f"a smaller cohort.size or encoding.weight_cap (now {cap})"
    way_out = f"it takes at least {needed}, or {small}" if needed <= 32 else f"no width up to 32 can: choose {small}"
    raise ConfigError(f"encoding.bits = {bits} cannot carry {clients} clients: {way_out}")
