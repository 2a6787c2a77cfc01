"""What crosses the wire: a plan with a model out, an encoded update back.

Strict, versioned and bounded: each decoder checks magic, version, kind and every length before it allocates,
and refuses what is left over.

    request:  b"fdsQ" | version u8 | plan length u32 | model length u64 | plan | model (as `fedsus.rounds.models`)
    answer:   b"fdsA" | version u8 | kind u8 | body length u64 | body (packed ring)
              kind 0 answered; 1 refused; 2 lacks what the model is a difference to, and asks for all of it
              a refusal's body is empty, or the hour (u32, since the epoch) in which the device takes part again
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from fedsus import plan as plans
from fedsus.encoding.packing import Buffer
from fedsus.errors import ProtocolViolation
from fedsus.rounds.models import Held, read, whole
from fedsus.rounds.models import model_hash as model_hash
from fedsus.secagg.wire import HOUR_BYTES
from fedsus.types import Vector

VERSION: Final = 1
_REQUEST: Final = struct.Struct("<4sBIQ")
_ANSWER: Final = struct.Struct("<4sBBQ")
_HOUR: Final = struct.Struct("<I")
_ASKS, _ANSWERS = b"fdsQ", b"fdsA"
ANSWERED, REFUSED, WANTING = 0, 1, 2
REFUSAL: Final = _ANSWER.pack(_ANSWERS, VERSION, REFUSED, 0)
WANTED: Final = _ANSWER.pack(_ANSWERS, VERSION, WANTING, 0)
"""The answer of a client that cannot read the model, and is to be asked again."""


@dataclass(frozen=True, slots=True)
class Request:
    """A decoded request: the plan, its bytes as received, and the model (d,) float32."""

    plan: plans.Plan
    raw_plan: bytes
    model: Vector


def encode_request(plan: plans.Plan, model: Vector) -> bytes:
    """Request bytes with a whole model; ``plan.model`` and ``plan.dimension`` must describe ``model``."""
    return request_bytes(plans.encode(plan), whole(plan, model))


def request_bytes(raw_plan: bytes, model: Buffer) -> bytes:
    """Request bytes of a plan's bytes and its model's, in whichever form."""
    # One copy of the model, made here: the server's memory is counted in models.
    return b"".join((_REQUEST.pack(_ASKS, VERSION, len(raw_plan), len(model)), raw_plan, model))


def decode_request(raw: bytes, held: Held | None = None) -> Request:
    """The request of received bytes.

    Args:
        held: the models that differences may start from.

    Raises:
        ProtocolViolation: malformed, or the model is not the one that the plan names.
        Unheld: the model is a difference to another one than those.
    """
    if len(raw) < _REQUEST.size:
        raise ProtocolViolation("request: truncated header")
    magic, version, plan_length, model_length = _REQUEST.unpack_from(raw)
    if magic != _ASKS or version != VERSION:
        raise ProtocolViolation(f"request: not a fedsus request of version {VERSION}")
    if plan_length > plans.MAX_BYTES or len(raw) != _REQUEST.size + plan_length + model_length:
        raise ProtocolViolation("request: lengths do not add up")
    end = _REQUEST.size + plan_length
    return request_of(raw[_REQUEST.size : end], memoryview(raw)[end:], held)


def request_of(raw_plan: bytes, raw_model: Buffer, held: Held | None = None) -> Request:
    """The request of a plan's and a model's bytes; a whole model is a view of them.

    Raises:
        ProtocolViolation, Unheld: as `decode_request`.
    """
    plan = plans.decode(raw_plan)
    return Request(plan, raw_plan, read(plan, raw_model, held))


def encode_hour(hour: int) -> bytes:
    """An hour since the epoch, as a refusal may carry it, also one of a secure sum: four bytes."""
    return _HOUR.pack(hour)


def decode_hour(raw: Buffer) -> int:
    """What `encode_hour` gave.

    Raises:
        ProtocolViolation: another length.
    """
    if len(raw) != HOUR_BYTES:
        raise ProtocolViolation(f"refusal: {len(raw)} bytes, expected {HOUR_BYTES} or none")
    return int(_HOUR.unpack(raw)[0])


def refusal(hour: bytes = b"") -> bytes:
    """A refusal; ``hour`` as `encode_hour` gives it, or nothing."""
    return _ANSWER.pack(_ANSWERS, VERSION, REFUSED, len(hour)) + hour


def declined(raw: bytes) -> int | None:
    """The hour that a refusal names, 0 for one that names none; None of any other answer, whatever is in it.

    Raises:
        ProtocolViolation: no answer of this version, or no refusal of either length.
    """
    if len(raw) < _ANSWER.size:
        raise ProtocolViolation("answer: truncated header")
    magic, version, kind, length = _ANSWER.unpack_from(raw)
    if magic != _ANSWERS or version != VERSION or kind not in (ANSWERED, REFUSED, WANTING):
        raise ProtocolViolation(f"answer: not a fedsus answer of version {VERSION}")
    if kind != REFUSED:
        return None
    if length != len(raw) - _ANSWER.size:
        raise ProtocolViolation("answer: lengths do not add up")
    return decode_hour(raw[_ANSWER.size :]) if length else 0


def encode_answer(body: bytes) -> bytes:
    """Answer bytes around a packed ring."""
    return _ANSWER.pack(_ANSWERS, VERSION, ANSWERED, len(body)) + body


def decode_answer(raw: bytes, size: int) -> memoryview | None:
    """The packed ring of an answer, exactly ``size`` bytes; None where the client refused.

    Raises:
        ProtocolViolation: malformed, of another version, or of another size.
    """
    if len(raw) < _ANSWER.size:
        raise ProtocolViolation("answer: truncated header")
    magic, version, kind, length = _ANSWER.unpack_from(raw)
    if magic != _ANSWERS or version != VERSION or kind not in (ANSWERED, REFUSED):
        raise ProtocolViolation(f"answer: not a fedsus answer of version {VERSION}")
    if length != len(raw) - _ANSWER.size:
        raise ProtocolViolation("answer: lengths do not add up")
    if kind == REFUSED:
        if length not in (0, HOUR_BYTES):
            raise ProtocolViolation("answer: a refusal carries an hour or nothing")
        return None
    if length != size:
        raise ProtocolViolation(f"answer: {length} bytes, expected {size}")
    return memoryview(raw)[_ANSWER.size :]
