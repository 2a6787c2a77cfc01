"""Spoilt keys for tests, and what of a secret an error or a repr would show."""

from __future__ import annotations

import io
import traceback

h = bytes.fromhex
MARK = bytes(range(0x41, 0x41 + 32))
"""A secret that is easy to find in a text, as itself, in hex and as numbers."""


def traces(text: str) -> bool:
    """Whether a text gives any part of MARK away."""
    numbers = ", ".join(str(byte) for byte in MARK[:4])
    return any(part in text for part in (MARK[:4].decode(), MARK[:4].hex(), numbers, MARK[-4:].decode()))


def flipped(value: bytes, bit: int) -> bytes:
    return (int.from_bytes(value, "little") ^ (1 << bit)).to_bytes(len(value), "little")


def details(error: BaseException, test: str) -> str:
    """A traceback with the local values of every frame but the test file's own, as some crash reporters write it."""
    frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames.stack[:] = [frame for frame in frames.stack if frame.filename != test]
    assert frames.stack, "frames of the library are looked at"
    out = io.StringIO()
    frames.print(file=out)
    return out.getvalue()
