"""Models as quantized differences to a model that both sides have; ``moved(base, raw)`` has the same bits anywhere.

With b = bits and L = 2**(b - 1) - 1, each block of coordinates has one scale s, and each coordinate one code c:

    encode   s = least bfloat16 >= max|model - base| / L,  c = round to even((model - base) / s),  |c| <= L
    moved    flush(flush(base) + c * s)     in float32

s is zero or a normal bfloat16 (8 significant bits) up to 2**120, and c has at most 7 bits: their product is exact in
float32, so the sum is rounded once, fused or not. ``flush`` makes +0 of -0 and of all that is no normal float32, so
that processors which treat such numbers as zeros get the same. What the server's division makes of c does not matter:
clients receive it.

Of normal numbers ``moved`` is off by at most s / 2 (beside float32's own rounding), by at most the whole difference,
and the largest of a block by at most 0.51 / L of it: ||model - moved||^2 <= (1 - 0.73 / block) ||model - base||^2. So
this is a contractive compressor, and what it leaves out is in the next difference: the downlink of EF21-P (Gruntkowska,
Tyurin and Richtarik, ICML 2023).

    difference   deflated u8 | content      (deflated: 1, by Huffman codes alone; what is shorter is sent)
    content      scales (bfloat16 bits, u16 each) | codes (two's complement, b bits each, lowest first)   little-endian
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from fedsus.errors import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fedsus.encoding.packing import Buffer
    from fedsus.settings.downlink import Downlink
    from fedsus.types import Vector

F = TypeVar("F", np.float32, np.float64)
_CHUNK: Final = 32 * 1024  # coordinates at a time: 128 KiB of float32
_LEAST: Final = np.float32(2.0**-126)  # below, a float32 is not normal
_FIRST, _LAST = 0x0080, 0x7B80  # bits of bfloat16: the least normal one, and 2**120, below which no product overflows
_PLAIN, _DEFLATED = b"\0", b"\1"


def difference(model: Vector, base: Vector, asked: Downlink) -> bytes:
    """What moves ``base`` (d,) float32 to within half a step of ``model`` (d,) float32.

    Raises:
        ProtocolViolation: NaN or infinity in either, or different lengths.
    """
    if model.shape != base.shape:
        raise ProtocolViolation(f"difference: a model of {model.shape} and a base of {base.shape}")
    dimension = len(model)
    blocks, packed = _blocks(dimension, asked), _packed(dimension, asked)
    content = bytearray(2 * blocks + packed)
    scales = np.frombuffer(content, dtype="<u2", count=blocks)
    codes = np.frombuffer(content, dtype=np.uint8, offset=2 * blocks)
    for part, rows in _parts(dimension, asked.block):
        change = flushed(model[part]).astype(np.float64) - flushed(base[part])
        if not np.isfinite(change).all():
            raise ProtocolViolation("difference: a model or its base holds NaN or infinity")
        found, steps = _quantized(_in_blocks(change, asked.block), asked.bits)
        scales[rows] = found
        first = part.start * asked.bits // 8
        made = _joined(steps.reshape(-1)[: len(change)], asked.bits)
        codes[first : first + len(made)] = made
    coder = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    deflated = coder.compress(content) + coder.flush()
    return _DEFLATED + deflated if len(deflated) < len(content) else _PLAIN + bytes(content)


def moved(base: Vector, raw: Buffer, asked: Downlink) -> Vector:
    """``base`` (d,) float32 moved by a received difference: (d,) float32, the same bits on every machine.

    Raises:
        ProtocolViolation: truncated, oversized or of another dimension; a scale or code that no encoder makes; or what
            it gives is not finite.
    """
    dimension = len(base)
    blocks, packed = _blocks(dimension, asked), _packed(dimension, asked)
    content = _content(raw, 2 * blocks + packed)
    scales = np.frombuffer(content, dtype="<u2", count=blocks)
    codes = np.frombuffer(content, dtype=np.uint8, offset=2 * blocks)
    if not ((scales == 0) | ((scales >= _FIRST) & (scales <= _LAST))).all():
        raise ProtocolViolation("difference: a scale is negative, too large or no normal number")
    used = dimension * asked.bits % 8
    if used and codes[-1] >> used:
        raise ProtocolViolation("difference: the padding bits are not zero")
    out, least = np.empty(dimension, dtype=np.float32), -(1 << asked.bits - 1)
    for part, rows in _parts(dimension, asked.block):
        first, length = part.start * asked.bits // 8, part.stop - part.start
        steps = _split(codes[first : first + (length * asked.bits + 7) // 8], length, asked.bits)
        if int(steps.min()) == least:
            raise ProtocolViolation(f"difference: code {least}; {least + 1} to {-least - 1} are allowed")
        by = _in_blocks(steps.astype(np.float32), asked.block)
        with np.errstate(over="ignore"):
            by *= _values(scales[rows])[:, None]
            out[part] = flushed(flushed(base[part]) + by.reshape(-1)[:length])
    if not np.isfinite(out).all():
        raise ProtocolViolation("difference: the model that it gives holds NaN or infinity")
    return out


def flushed(values: Vector) -> Vector:
    """A copy with +0 for all that is no normal float32, and for -0. NaN and infinities stay."""
    return np.where(np.abs(values) < _LEAST, np.float32(0), values)


def _blocks(dimension: int, asked: Downlink) -> int:
    return -(-dimension // asked.block)


def _packed(dimension: int, asked: Downlink) -> int:
    return (dimension * asked.bits + 7) // 8


def _parts(dimension: int, block: int) -> Iterator[tuple[slice, slice]]:
    """Coordinates and blocks, a few whole blocks at a time that begin at a byte; the last may be short."""
    many = 4 * -(-_CHUNK // (4 * block))  # of 4 blocks, all codes fill whole bytes
    for first in range(0, -(-dimension // block), many):
        yield slice(first * block, min((first + many) * block, dimension)), slice(first, first + many)


def _in_blocks(values: NDArray[F], block: int) -> NDArray[F]:
    """(n,) -> (blocks, block), filled up with zeros."""
    short = -len(values) % block
    return (np.pad(values, (0, short)) if short else values).reshape(-1, block)


def _quantized(change: NDArray[np.float64], bits: int) -> tuple[NDArray[np.uint16], NDArray[np.int8]]:
    """Scales, as bits of bfloat16, and codes of each row of blocks."""
    levels = (1 << bits - 1) - 1
    needed = np.abs(change).max(axis=1) / levels
    patterns = _rounded_up(needed)
    steps = np.rint(change / np.where(patterns == 0, 1.0, _values(patterns).astype(np.float64))[:, None])
    return patterns, np.clip(steps, -levels, levels).astype(np.int8)


def _rounded_up(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Bits of the least normal bfloat16 that is not below each value, or of the largest allowed; of zero, zero."""
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
    patterns = (nearest.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    below = _values(patterns).astype(np.float64) < values
    patterns = np.clip(patterns + below.astype(np.uint16), _FIRST, _LAST)
    return np.where(values == 0, np.uint16(0), patterns).astype(np.uint16)


def _values(patterns: NDArray[np.uint16]) -> Vector:
    """float32 of bfloat16's bits."""
    return (patterns.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _joined(steps: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Codes as bytes, lowest first."""
    raw = steps.view(np.uint8)
    if bits == 8:
        return raw
    each = 8 // bits
    raw = np.pad(raw, (0, -len(raw) % each)).reshape(-1, each) & np.uint8((1 << bits) - 1)
    out = np.zeros(len(raw), dtype=np.uint8)
    for place in range(each):
        out |= raw[:, place] << np.uint8(place * bits)
    return out


def _split(raw: NDArray[np.uint8], length: int, bits: int) -> NDArray[np.int8]:
    """The inverse of `_joined`."""
    if bits == 8:
        return raw.view(np.int8)
    each = 8 // bits
    out = np.empty((len(raw), each), dtype=np.int8)
    for place in range(each):
        # To the top of the byte, and back down with its sign.
        out[:, place] = (raw << np.uint8(8 - bits * (place + 1))).view(np.int8) >> np.int8(8 - bits)
    return out.reshape(-1)[:length]


def _content(raw: Buffer, size: int) -> Buffer:
    """The bytes of a difference, exactly ``size``; no more are ever inflated."""
    view = memoryview(raw)
    kind, content = bytes(view[:1]), view[1:]
    if kind == _DEFLATED:
        inflater = zlib.decompressobj(-15)
        try:
            found = inflater.decompress(content, size + 1)
        except zlib.error:
            raise ProtocolViolation("difference: its bytes cannot be inflated") from None
        if not inflater.eof or inflater.unused_data:
            raise ProtocolViolation(f"difference: not the deflated form of {size} bytes")
        content = memoryview(found)
    elif kind != _PLAIN:
        raise ProtocolViolation("difference: neither plain nor deflated")
    if len(content) != size:
        raise ProtocolViolation(f"difference: {len(content)} bytes, expected {size}")
    return content
