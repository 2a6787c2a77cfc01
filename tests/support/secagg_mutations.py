"""Messages of a real round, spoilt: a mutator that knows frames, counts and rows, and states that can be used again."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedsus.secagg import wire
from fedsus.secagg.keys import Agreement
from fedsus.secagg.secret import Secret
from fedsus_simulations.whole.secure_clients import MemoryMarks

HEAD = 15
NUMBERS = [0, 1, 2, 3, 4, 5, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, 2**63, 2**64 - 1]
STEPS = (37, 68, 86, 164)
"""Lengths of rows: openings, certificates, sealed shares, adverts."""


def flip(rng: Random, raw: bytes) -> bytes:
    spoilt = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if spoilt:
            spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def cut(rng: Random, raw: bytes) -> bytes:
    return raw[: rng.randrange(len(raw) + 1)] if rng.random() < 0.5 else raw[: -rng.randint(1, 90)]


def extend(rng: Random, raw: bytes) -> bytes:
    return raw + rng.randbytes(rng.choice((1, 4, 15, *STEPS)))


def overwrite(rng: Random, raw: bytes) -> bytes:
    """A number where one may be: at the start, at a row, or anywhere."""
    form = rng.choice(("<I", "<Q", "<B"))
    width, place = struct.calcsize(form), rng.choice((0, 5, 7, 32, 96, rng.randrange(len(raw) + 1)))
    number = (rng.choice(NUMBERS) if rng.random() < 0.9 else rng.getrandbits(64)) % (1 << 8 * width)
    return raw[:place] + struct.pack(form, number) + raw[place + width :]


def repeat(rng: Random, raw: bytes) -> bytes:
    """A stretch twice, mostly a row, with the count that fits or not."""
    start, step = rng.randrange(len(raw) + 1), rng.choice((*STEPS, rng.randint(1, 300)))
    return raw[:start] + raw[start : start + step] * 2 + raw[start + step :]


def drop(rng: Random, raw: bytes) -> bytes:
    start, step = rng.randrange(len(raw) + 1), rng.choice((*STEPS, 1, rng.randint(1, 300)))
    return raw[:start] + raw[start + step :]


def swap(rng: Random, raw: bytes) -> bytes:
    """Two stretches of one length, mostly rows, change places."""
    step = rng.choice(STEPS)
    start = rng.choice((4, 36, 100, rng.randrange(len(raw) + 1)))
    one, other = raw[start : start + step], raw[start + step : start + 2 * step]
    return raw[:start] + other + one + raw[start + 2 * step :]


PLAIN = (flip, flip, flip, cut, extend, overwrite, overwrite, repeat, drop, swap)


def splice(rng: Random, raw: bytes, other: bytes) -> bytes:
    """The start of one message and the end of another."""
    if rng.random() < 0.5:  # at the same place, so that lengths may fit
        place = rng.randrange(min(len(raw), len(other)) + 1)
        return raw[:place] + other[place:]
    return raw[: rng.randrange(len(raw) + 1)] + other[rng.randrange(len(other) + 1) :]


def spoil(rng: Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    """One or two changes of a message without frames."""
    for _ in range(rng.choice((1, 1, 2))):
        raw = splice(rng, raw, rng.choice(others)) if rng.random() < 0.15 else rng.choice(PLAIN)(rng, raw)
    return raw


def spoil_frames(rng: Random, raw: bytes, others: Sequence[bytes]) -> bytes:
    """Changes of a message of frames: of its bytes, of one frame's body with its length set right, or of their row."""
    kind = rng.random()
    if kind < 0.3:
        return spoil(rng, raw, others)
    row = [(bytes([frame.kind, frame.refused]), bytes(frame.body)) for frame in wire.frames(raw)]
    place = rng.randrange(len(row))
    if kind < 0.85:
        other = rng.choice(others)[HEAD:]
        row[place] = row[place][0], spoil(rng, row[place][1], [other])
    elif kind < 0.95:
        more = rng.choice(others)
        row += [(bytes([frame.kind, frame.refused]), bytes(frame.body)) for frame in wire.frames(more)]
        rng.shuffle(row)
        row = row[: rng.randint(1, 6)]
    else:
        row[place] = bytes([rng.randrange(8), rng.randrange(3)]), row[place][1]
    return b"".join(
        wire.MAGIC + bytes([wire.VERSION]) + head + len(body).to_bytes(8, "little") + body for head, body in row
    )


class Frozen:
    """A client's state as it stands: `thawed` makes equal ones, each of which can be used up."""

    def __init__(self, state: Any) -> None:
        self._type = type(state)
        self._fields = {each.name: _raw(getattr(state, each.name)) for each in dataclasses.fields(state) if each.init}

    def thawed(self, marks: Any | None = None) -> Any:
        """A new state, with notes of its own."""
        fields = {name: _live(value) for name, value in self._fields.items()}
        fields["seat"] = dataclasses.replace(fields["seat"], marks=MemoryMarks() if marks is None else marks)
        return self._type(**fields)


def _raw(value: Any) -> Any:
    match value:
        case Secret():
            return ("secret", value.reveal())
        case Agreement():
            return ("agreement", None if value._key is None else value.secret().reveal(), value.public)
        case dict():
            return ("map", {key: _raw(one) for key, one in value.items()})
    return value


def _live(value: Any) -> Any:
    match value:
        case ("secret", raw):
            return Secret(raw)
        case ("agreement", raw, public):
            return _agreement(raw, public)
        case ("map", Mapping() as found):
            return {key: _live(one) for key, one in found.items()}
    return value


def _agreement(raw: bytes | None, public: bytes) -> Agreement:
    found = Agreement(X25519PrivateKey.from_private_bytes(raw or bytes(31) + b"\1"))
    found.public = public
    if raw is None:
        found.wipe()
    return found
