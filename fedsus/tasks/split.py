"""Which rows are held out: a question about one row alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsus.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_TAG = b"fedsus split 1"


def held_out(keys: Sequence[tuple[str, ...]], fraction: float, split: int) -> NDArray[np.bool_]:
    """Which rows are held out, (rows,) bool.

    A row is held out if SHA-256 of ``split`` and its content, read as a number in [0, 1), is below ``fraction``. So the
    answer depends neither on the order of rows nor on the machine, equal rows land on the same side, and, which
    differential privacy of single rows needs, adding or removing one row moves no other row into or out of the
    training part. An exact count for each class could not promise that. Every class is split with the same chance.
    """
    limit = int(fraction * 2**64)
    return np.array([_draw(key, split) < limit for key in keys], dtype=bool)


def _draw(key: tuple[str, ...], split: int) -> int:
    text = "\x1f".join(key).encode()
    return int.from_bytes(hashlib.sha256(_TAG + split.to_bytes(8, "big") + text).digest()[:8], "big")


def number_option(
    options: Mapping[str, Any], name: str, default: float, low: float, high: float, *, whole: bool = False
) -> float:
    """A number of the owner's options.

    Raises:
        DataError: not a number, or outside [low, high].
    """
    value = options.get(name, default)
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise DataError(f"option '{name}' = {value!r}: must be {kind} from {low:g} to {high:g}")
    return value


def known_options(options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse options that the task does not know: a misspelt one would silently do nothing.

    Raises:
        DataError: names the first unknown option and the known ones.
    """
    unknown = [name for name in options if name not in known]
    if unknown:
        raise DataError(f"unknown option '{unknown[0]}'; known here: {', '.join(known)}")
