"""Residues mod 2**bits as bytes: exactly ``bits`` bits each, little-endian, lowest bit first.

Residue i occupies the bits [i * bits, (i + 1) * bits) of the stream; the last byte is filled up with zeros.
32 residues fill exactly ``bits`` words of 32 bits: the code works on such groups, a cache-sized chunk at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.errors import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fedsus.types import Ring

Buffer = bytes | bytearray | memoryview

_GROUP: Final = 32
_CHUNK: Final = 1024 * _GROUP  # residues at a time: 128 KiB; smaller ones cost more calls than they save


def packed_size(count: int, bits: int) -> int:
    """Bytes of ``count`` packed residues."""
    return (count * bits + 7) // 8


def pack(ring: Ring, bits: int) -> bytes:
    """``packed_size(len(ring), bits)`` bytes of a ring (n,) uint32.

    Raises:
        ProtocolViolation: bits not in 16..32, or a residue that is not below 2**bits.
    """
    _check_bits(bits)
    if bits == 32:
        return ring.astype("<u4", copy=False).tobytes()
    out = np.empty(packed_size(len(ring), bits), dtype=np.uint8)
    group = np.zeros(_CHUNK, dtype=np.uint32)
    for start in range(0, len(ring), _CHUNK):
        part = ring[start : start + _CHUNK]
        if int(part.max()) >> bits:
            raise ProtocolViolation(f"ring: a residue is not below 2**{bits}")
        group[: len(part)] = part
        group[len(part) :] = 0
        first, size = start * bits // 8, packed_size(len(part), bits)
        out[first : first + size] = _join(group, bits).view(np.uint8)[:size]
    return out.tobytes()


def unpack(raw: Buffer, count: int, bits: int) -> Ring:
    """The ring (count,) uint32 of packed bytes; the inverse of `pack`.

    Raises:
        ProtocolViolation: bits not in 16..32, another length than `packed_size`, or padding that is not zero.
    """
    check(raw, count, bits)
    if bits == 32:
        return np.frombuffer(raw, dtype="<u4").astype(np.uint32)
    ring = np.empty(count, dtype=np.uint32)
    for start, part in _parts(raw, count, bits):
        ring[start : start + len(part)] = part
    return ring


def add_packed(total: Ring, raw: Buffer, bits: int) -> None:
    """Add packed residues to ``total`` (n,) uint32 in place, mod 2**bits, without an unpacked copy.

    Raises:
        ProtocolViolation: as `unpack`, before anything is added.
    """
    check(raw, len(total), bits)
    if bits == 32:
        np.add(total, np.frombuffer(raw, dtype="<u4"), out=total)
        return
    mask = _mask(bits)
    for start, part in _parts(raw, len(total), bits):
        target = total[start : start + len(part)]
        target += part
        target &= mask


def parts(raw: Buffer, count: int, bits: int) -> Iterator[tuple[int, Ring]]:
    """The residues of packed bytes, a chunk at a time, with the index of the first; a chunk is good until the next.

    Raises:
        ProtocolViolation: as `unpack`, before the first chunk.
    """
    check(raw, count, bits)
    if bits == 32:
        whole = np.frombuffer(raw, dtype="<u4")
        for start in range(0, count, _CHUNK):
            yield start, whole[start : start + _CHUNK]
    else:
        yield from _parts(raw, count, bits)


def check(raw: Buffer, count: int, bits: int) -> None:
    """Refuse bytes that are not ``count`` packed residues.

    Raises:
        ProtocolViolation: bits not in 16..32, another length than `packed_size`, or padding that is not zero.
    """
    _check_bits(bits)
    expected = packed_size(count, bits)
    if len(raw) != expected:
        raise ProtocolViolation(f"packed ring: {len(raw)} bytes, expected {expected}")
    used = count * bits % 8
    if used and raw[-1] >> used:
        raise ProtocolViolation("packed ring: the padding bits are not zero")


def _check_bits(bits: int) -> None:
    if not 16 <= bits <= 32:
        raise ProtocolViolation(f"packed ring: {bits} bits; 16 to 32 are allowed")


def _mask(bits: int) -> np.uint32:
    return np.uint32((1 << bits) - 1)


def _join(group: Ring, bits: int) -> NDArray[np.uint32]:
    """Words of whole groups of residues: (g * 32,) -> (g * bits,)."""
    values = group.reshape(-1, _GROUP)
    words = np.zeros((len(values), bits), dtype="<u4")
    for i in range(_GROUP):
        word, offset = divmod(i * bits, 32)
        words[:, word] |= values[:, i] << np.uint32(offset)
        if offset + bits > 32:
            words[:, word + 1] |= values[:, i] >> np.uint32(32 - offset)
    return words.reshape(-1)


def _parts(raw: Buffer, count: int, bits: int) -> Iterator[tuple[int, Ring]]:
    """Residues of packed bytes, a chunk at a time, with the index of the first; the chunk is reused."""
    stream = np.frombuffer(raw, dtype=np.uint8)
    words = np.zeros(_CHUNK // _GROUP * bits, dtype="<u4")
    values = np.empty((_CHUNK // _GROUP, _GROUP), dtype=np.uint32)
    for start in range(0, count, _CHUNK):
        length = min(_CHUNK, count - start)
        first, size = start * bits // 8, packed_size(length, bits)
        words.view(np.uint8)[:size] = stream[first : first + size]
        _split(words.reshape(-1, bits), values, bits)
        yield start, values.reshape(-1)[:length]


def _split(words: NDArray[np.uint32], values: Ring, bits: int) -> None:
    """The inverse of `_join`, into ``values`` (g, 32)."""
    mask = _mask(bits)
    for i in range(_GROUP):
        word, offset = divmod(i * bits, 32)
        column = words[:, word] >> np.uint32(offset)
        if offset + bits > 32:
            column |= words[:, word + 1] << np.uint32(32 - offset)
        values[:, i] = column & mask
