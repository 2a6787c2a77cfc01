"""Masks: residues mod 2**bits of an AES-256-CTR stream, added to a vector in place.

A key (32 bytes) masks one vector of one session. Its mask is the key stream with a zero initial counter block, read as
little-endian words of 32 bits, of which the low ``bits`` bits count (SP 800-38A, section 6.5). Sums of whole words wrap
mod 2**32, which 2**bits divides: the high bits may be dropped once at the end.

The vector is split into blocks, for each of which the stream is entered at its own counter. Workers share out blocks,
not seeds: they then write to disjoint parts of one vector, and the result does not depend on them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedsus.errors import ProtocolViolation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from fedsus.secagg.secret import Secret
    from fedsus.types import Ring

_CHUNK: Final = 1 << 17
"""Words generated at a time, 512 KiB: they stay in cache until they are added. Threads wait for each other at the
start of every chunk, for Python's lock; with chunks below 64k words, or blocks below this, two are slower than one."""

_BLOCK: Final = 1 << 19
"""Most words for which all seeds are added before the next block: 2 MiB, which stay in the shared cache."""

_WORDS: Final = 4
"""Words of 32 bits in one AES block: the counter of word i is i // 4."""

_ZEROS: Final = bytes(4 * _CHUNK)


def add_mask(total: Ring, key: Secret, bits: int, sign: int) -> None:
    """Add the mask of ``key`` to ``total`` (n,) uint32 in place, mod 2**bits, or subtract it when ``sign`` is -1.

    Raises:
        ProtocolViolation: as `add_masks`.
    """
    add_masks(total, [(key, sign)], bits)


def add_masks(total: Ring, masks: Iterable[tuple[Secret, int]], bits: int, workers: int = 1) -> None:
    """Add or subtract many masks, (key, +1 or -1) each, to ``total`` (n,) uint32 in place, mod 2**bits.

    Bit-identical whatever the order of the masks and the number of ``workers`` (threads; fewer are used for a vector
    that is too short to gain from them). Needs 512 KiB a worker beside ``total``.

    Raises:
        ProtocolViolation: bits not in 16..32, a sign that is not 1 or -1, or a key that is not 32 bytes or was wiped;
            before anything is added.
    """
    pairs = list(masks)
    _check(total, pairs, bits)
    workers = max(1, min(workers, len(total) // _CHUNK))
    blocks = _blocks(total, workers)
    if workers == 1:
        _add(blocks, pairs, bits)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="masks") as pool:
        # Block i goes to worker i mod workers: each has as many blocks of one size.
        for done in [pool.submit(_add, blocks[first::workers], pairs, bits) for first in range(workers)]:
            done.result()


def _blocks(total: Ring, workers: int) -> list[tuple[int, Ring]]:
    """The vector in blocks of equal size, as many for each worker: (index of its first word, view)."""
    count = workers * -(-len(total) // (workers * _BLOCK))
    size = _rounded(-(-len(total) // max(count, 1)))
    return [(start, total[start : start + size]) for start in range(0, len(total), max(size, 1))]


def _add(blocks: Sequence[tuple[int, Ring]], masks: Sequence[tuple[Secret, int]], bits: int) -> None:
    """All masks on one worker's blocks."""
    buffer = np.empty(min(_CHUNK, max((len(block) for _, block in blocks), default=0)), dtype="<u4")
    for start, block in blocks:
        for key, sign in masks:
            _add_stream(block, key, start, np.add if sign == 1 else np.subtract, buffer)
        if bits < 32:
            np.bitwise_and(block, np.uint32((1 << bits) - 1), out=block)
    buffer.fill(0)  # the end of the last mask


def _add_stream(block: Ring, key: Secret, start: int, operation: np.ufunc, buffer: NDArray[np.uint32]) -> None:
    """Add or subtract the words from ``start`` on, a multiple of 4, of a key's stream, a buffer at a time."""
    counter = (start // _WORDS).to_bytes(16, "big")
    stream = Cipher(algorithms.AES256(key.reveal()), modes.CTR(counter)).encryptor()
    raw, zeros = buffer.view(np.uint8).data, memoryview(_ZEROS)
    for first in range(0, len(block), len(buffer)):
        target = block[first : first + len(buffer)]
        stream.update_into(zeros[: 4 * len(target)], raw)
        operation(target, buffer[: len(target)], out=target)


def _check(total: Ring, masks: Sequence[tuple[Secret, int]], bits: int) -> None:
    if not 16 <= bits <= 32:
        raise ProtocolViolation(f"mask: {bits} bits; 16 to 32 are allowed")
    if total.dtype != np.uint32 or total.ndim != 1:
        raise ProtocolViolation(f"mask: a vector of {total.dtype} in {total.ndim} dimensions; (n,) uint32 is needed")
    for key, sign in masks:
        if sign not in (1, -1):
            raise ProtocolViolation(f"mask: sign {sign}; 1 and -1 are allowed")
        if key.size != 32:
            raise ProtocolViolation("mask: a key of 32 bytes is needed, and not one that was wiped")


def _rounded(words: int) -> int:
    """Up to whole AES blocks."""
    return -(-words // _WORDS) * _WORDS
