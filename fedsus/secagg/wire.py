"""Messages of secure aggregation: strict, versioned and bounded.

A message is a row of frames, each of one phase; two sessions may share a message, for the next one's first phases
ride on this one's last.

    frame      b"fdsS" | version u8 | kind u8 | status u8 | length u64 | body      little-endian throughout

    kind        request                                             answer
    ADVERTISE   session                                             advert
    SHARE       sid | adverts                                       hash of b | root signature | sealed | signature
    SEALED      sid | sealed                                        (none: the client's own part of CONTRIBUTE)
    CONTRIBUTE  sid | root certificate | plan | model               signature | masked
    CONFIRM     sid | survivors                                     signature
    UNMASK      sid | survivors' certificate                        signature | openings

    advert       index u32 | channel key 32 | mask key 32 | nonce 32 | signature 64
    adverts      count u32 | advert ...                     by index, rising
    sealed       count u32 | (index u32 | 82 bytes) ...     likewise
    certificate  count u32 | (index u32 | signature 64) ... likewise
    openings     count u32 | (index u32 | share 33) ...     likewise
    survivors    one bit a client of the cohort, lowest first

An answer without one (status 1 or 2) has no body, but for a refused ADVERTISE: nothing, or the hour (u32, since the
epoch) in which the client takes part again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from fedsus.encoding.packing import Buffer
from fedsus.errors import ProtocolViolation
from fedsus.secagg.keys import HASH_BYTES, KEY_BYTES, SEAL_BYTES
from fedsus.secagg.keys import SIGNATURE_BYTES as SIGNATURE_BYTES
from fedsus.secagg.points import agreement_fault
from fedsus.secagg.session import MAX_COHORT
from fedsus.secagg.shares import SHARE_BYTES

VERSION: Final = 1
MAGIC: Final = b"fdsS"
MAX_FRAMES: Final = 4
SID_BYTES: Final = HASH_BYTES
SEALED_BYTES: Final = 2 * SHARE_BYTES + SEAL_BYTES
ADVERT_BYTES: Final = 4 + 3 * KEY_BYTES + SIGNATURE_BYTES
_FRAME: Final = struct.Struct("<4sBBBQ")
_COUNT: Final = struct.Struct("<I")
HOUR_BYTES: Final = _COUNT.size
_LENGTHS: Final = struct.Struct("<IQ")


class Kind(IntEnum):
    """What a frame holds."""

    ADVERTISE = 0
    SHARE = 1
    CONTRIBUTE = 2
    CONFIRM = 3
    UNMASK = 4
    SEALED = 5


_KINDS: Final = frozenset(Kind)
ANSWERED, REFUSED, WANTING = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; ``refused`` in an answer says that the client does not go on with this phase, and not why; ``wanting``
    that it lacks what the model is a difference to, and is to be asked again."""

    kind: Kind
    body: Buffer
    refused: bool = False
    wanting: bool = False


@dataclass(frozen=True, slots=True)
class Advert:
    """A client's fresh keys for one session, signed over its sid.

    Attributes:
        index: in the cohort.
        channel: X25519 public key for the channels between clients, c.
        mask: X25519 public key for the pairwise masks, s.
        nonce: 32 random bytes.
        signature: Ed25519, by the client's identity.
    """

    index: int
    channel: bytes
    mask: bytes
    nonce: bytes
    signature: bytes

    @property
    def payload(self) -> bytes:
        """What is signed, beside phase, sid and index."""
        return self.channel + self.mask + self.nonce

    def encode(self) -> bytes:
        """164 bytes."""
        return _COUNT.pack(self.index) + self.payload + self.signature


@dataclass(frozen=True, slots=True)
class Shared:
    """A client's answer to SHARE.

    Attributes:
        own_mask: hash of the secret b of its own mask.
        root_signature: over the root of U1.
        sealed: holder's index -> 82 bytes, both shares under AES-256-GCM.
        signature: over all the rest.
    """

    own_mask: bytes
    root_signature: bytes
    sealed: Mapping[int, bytes]
    signature: bytes

    @property
    def payload(self) -> bytes:
        """What ``signature`` signs, beside phase, tid and index."""
        return self.own_mask + self.root_signature + rows(self.sealed)

    def encode(self) -> bytes:
        """The answer's body."""
        return self.payload + self.signature


def frame(kind: Kind, *parts: Buffer, refused: bool = False, wanting: bool = False) -> bytes:
    """One frame around the joined parts."""
    length, status = sum(len(part) for part in parts), REFUSED if refused else WANTING if wanting else ANSWERED
    return b"".join((_FRAME.pack(MAGIC, VERSION, kind, status, length), *parts))


def frames(raw: Buffer) -> list[Frame]:
    """The frames of a message, at least one, nothing left over. Bodies are views: they live as long as ``raw``.

    Raises:
        ProtocolViolation: truncated, of another version, of an unknown kind, too many, or without an answer and with a
            body.
    """
    view = memoryview(raw)
    found: list[Frame] = []
    while view:
        if len(view) < _FRAME.size:
            raise ProtocolViolation("message: truncated frame")
        magic, version, kind, status, length = _FRAME.unpack_from(view)
        if magic != MAGIC or version != VERSION:
            raise ProtocolViolation(f"message: not secure aggregation of version {VERSION}")
        if kind not in _KINDS or status > (WANTING if kind == Kind.CONTRIBUTE else REFUSED):
            raise ProtocolViolation(f"message: unknown kind {kind} or status {status}")
        hour = (kind, status, length) == (Kind.ADVERTISE, REFUSED, HOUR_BYTES)
        if length > len(view) - _FRAME.size or (status != ANSWERED and length and not hour):
            raise ProtocolViolation("message: lengths do not add up")
        if len(found) == MAX_FRAMES:
            raise ProtocolViolation(f"message: more than {MAX_FRAMES} frames")
        end = _FRAME.size + length
        found.append(Frame(Kind(kind), view[_FRAME.size : end], status == REFUSED, status == WANTING))
        view = view[end:]
    if not found:
        raise ProtocolViolation("message: empty")
    return found


def is_secure(raw: bytes) -> bool:
    """Whether a message claims to be of this protocol."""
    return raw[: len(MAGIC)] == MAGIC


def split_sid(body: Buffer) -> tuple[bytes, memoryview]:
    """The session that a request's body names, and the rest."""
    view = memoryview(body)
    if len(view) < SID_BYTES:
        raise ProtocolViolation("message: truncated session id")
    return bytes(view[:SID_BYTES]), view[SID_BYTES:]


def decode_advert(raw: Buffer) -> Advert:
    """One advert of exactly 164 bytes; a key that nobody can agree with is refused, for it would stop everybody."""
    if len(raw) != ADVERT_BYTES:
        raise ProtocolViolation(f"advert: {len(raw)} bytes, expected {ADVERT_BYTES}")
    (index,) = _COUNT.unpack_from(raw)
    channel, mask, nonce = (bytes(raw[4 + part * KEY_BYTES :][:KEY_BYTES]) for part in range(3))
    if why := agreement_fault(channel) or agreement_fault(mask):
        raise ProtocolViolation(f"adverts: client {index}: {why}")
    return Advert(index, channel, mask, nonce, bytes(raw[-SIGNATURE_BYTES:]))


def encode_adverts(adverts: Sequence[Advert]) -> bytes:
    """Adverts by rising index."""
    return _COUNT.pack(len(adverts)) + b"".join(advert.encode() for advert in adverts)


def decode_adverts(raw: Buffer, size: int) -> list[Advert]:
    """Adverts of a cohort of ``size``, by rising index; raises as `decode_rows` and `decode_advert`."""
    return [decode_advert(row) for _, row in _rows(raw, ADVERT_BYTES - 4, size, "adverts", whole=True)]


def rows(values: Mapping[int, bytes]) -> bytes:
    """Values of equal length by rising index, with their count."""
    parts = [_COUNT.pack(len(values))]
    for index in sorted(values):
        parts += (_COUNT.pack(index), values[index])
    return b"".join(parts)


def decode_rows(raw: Buffer, width: int, size: int, what: str) -> dict[int, bytes]:
    """Values of ``width`` bytes by index, of a cohort of ``size``.

    Raises:
        ProtocolViolation: lengths, or an index that repeats, falls or is not in the cohort.
    """
    return {index: bytes(row) for index, row in _rows(raw, width, size, what)}


def decode_shared(raw: Buffer, size: int) -> Shared:
    """A client's answer to SHARE."""
    head = KEY_BYTES + SIGNATURE_BYTES
    if len(raw) < head + SIGNATURE_BYTES:
        raise ProtocolViolation("shares: truncated")
    sealed = decode_rows(raw[head:-SIGNATURE_BYTES], SEALED_BYTES, size, "shares")
    return Shared(bytes(raw[:KEY_BYTES]), bytes(raw[KEY_BYTES:head]), sealed, bytes(raw[-SIGNATURE_BYTES:]))


def split_signature(raw: Buffer) -> tuple[bytes, memoryview]:
    """A leading signature, and the rest."""
    view = memoryview(raw)
    if len(view) < SIGNATURE_BYTES:
        raise ProtocolViolation("answer: truncated signature")
    return bytes(view[:SIGNATURE_BYTES]), view[SIGNATURE_BYTES:]


def encode_contribute(certificate: Mapping[int, bytes], plan: bytes, model: Buffer) -> tuple[Buffer, ...]:
    """Parts of CONTRIBUTE after the sid; joined once by `frame`, for the model is large."""
    return rows(certificate), _LENGTHS.pack(len(plan), len(model)), plan, model


def decode_contribute(raw: Buffer, size: int) -> tuple[dict[int, bytes], memoryview, memoryview]:
    """Certificate, plan and model of CONTRIBUTE.

    Raises:
        ProtocolViolation: lengths do not add up.
    """
    view = memoryview(raw)
    end = 4 + _count(view, size, "certificate") * (4 + SIGNATURE_BYTES)
    certificate = decode_rows(view[:end], SIGNATURE_BYTES, size, "certificate")
    rest = view[end:]
    if len(rest) < _LENGTHS.size:
        raise ProtocolViolation("contribute: truncated lengths")
    plan, model = _LENGTHS.unpack_from(rest)
    rest = rest[_LENGTHS.size :]
    if plan + model != len(rest):
        raise ProtocolViolation("contribute: lengths do not add up")
    return certificate, rest[:plan], rest[plan:]


def encode_survivors(members: Sequence[int], size: int) -> bytes:
    """One bit a client of the cohort, lowest first; the last byte is filled up with zeros."""
    bits = bytearray((size + 7) // 8)
    for index in members:
        bits[index // 8] |= 1 << index % 8
    return bytes(bits)


def decode_survivors(raw: Buffer, size: int) -> tuple[int, ...]:
    """Indices of the set bits, rising.

    Raises:
        ProtocolViolation: another length, or a bit beyond the cohort.
    """
    if len(raw) != (size + 7) // 8:
        raise ProtocolViolation(f"survivors: {len(raw)} bytes, expected {(size + 7) // 8}")
    found = tuple(8 * place + bit for place, byte in enumerate(bytes(raw)) for bit in range(8) if byte >> bit & 1)
    if found and found[-1] >= size:
        raise ProtocolViolation("survivors: a bit beyond the cohort")
    return found


def _count(raw: Buffer, size: int, what: str) -> int:
    if len(raw) < _COUNT.size:
        raise ProtocolViolation(f"{what}: truncated count")
    (count,) = _COUNT.unpack_from(raw)
    if count > min(size, MAX_COHORT):
        raise ProtocolViolation(f"{what}: {count} of a cohort of {size}")
    return int(count)


def _rows(raw: Buffer, width: int, size: int, what: str, whole: bool = False) -> Iterator[tuple[int, memoryview]]:
    """Index and value of each row; ``whole`` keeps the index in the value."""
    view, step, last = memoryview(raw), 4 + width, -1
    count = _count(view, size, what)
    if len(view) != _COUNT.size + count * step:
        raise ProtocolViolation(f"{what}: lengths do not add up")
    for start in range(_COUNT.size, len(view), step):
        (index,) = _COUNT.unpack_from(view, start)
        if not last < index < size:
            raise ProtocolViolation(f"{what}: index {index} repeats, falls, or is not in the cohort of {size}")
        last = index
        yield index, view[start + (0 if whole else 4) : start + step]
