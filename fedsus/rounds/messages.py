"""What crosses the wire: a plan with a model out, an encoded update back.

Strict, versioned and bounded: each decoder checks magic, version, kind and every length before it allocates,
and refuses what is left over.

    request:  b"fdsQ" | version u8 | plan length u32 | model length u64 | plan | model (float32, little-endian)
    answer:   b"fdsA" | version u8 | kind u8 | body length u64 | body (packed ring) ; kind 0 answered, 1 refused
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from fedsus import plan as plans
from fedsus.errors import ProtocolViolation
from fedsus.types import Vector

VERSION: Final = 1
_REQUEST: Final = struct.Struct("<4sBIQ")
_ANSWER: Final = struct.Struct("<4sBBQ")
_ASKS, _ANSWERS = b"fdsQ", b"fdsA"
ANSWERED, REFUSED = 0, 1
REFUSAL: Final = _ANSWER.pack(_ANSWERS, VERSION, REFUSED, 0)


@dataclass(frozen=True, slots=True)
class Request:
    """A decoded request: the plan, its bytes as received, and the model (d,) float32."""

    plan: plans.Plan
    raw_plan: bytes
    model: Vector


def model_hash(model: Vector) -> str:
    """SHA-256 of the model's little-endian float32 bytes, as hex."""
    return hashlib.sha256(np.ascontiguousarray(model, dtype="<f4").data).hexdigest()


def encode_request(plan: plans.Plan, model: Vector) -> bytes:
    """Request bytes; ``plan.model`` and ``plan.dimension`` must describe ``model``."""
    raw, body = plans.encode(plan), np.ascontiguousarray(model, dtype="<f4").data.cast("B")
    # One copy of the model, made here: the server's memory is counted in models.
    return b"".join((_REQUEST.pack(_ASKS, VERSION, len(raw), len(body)), raw, body))


def decode_request(raw: bytes) -> Request:
    """The request of received bytes.

    Raises:
        ProtocolViolation: malformed, or the model is not the one that the plan names.
    """
    if len(raw) < _REQUEST.size:
        raise ProtocolViolation("request: truncated header")
    magic, version, plan_length, model_length = _REQUEST.unpack_from(raw)
    if magic != _ASKS or version != VERSION:
        raise ProtocolViolation(f"request: not a fedsus request of version {VERSION}")
    if plan_length > plans.MAX_BYTES or len(raw) != _REQUEST.size + plan_length + model_length:
        raise ProtocolViolation("request: lengths do not add up")
    end = _REQUEST.size + plan_length
    return request_of(raw[_REQUEST.size : end], memoryview(raw)[end:])


def request_of(raw_plan: bytes, raw_model: bytes | memoryview) -> Request:
    """The request of a plan's and a model's bytes; the model is a view of them.

    Raises:
        ProtocolViolation: as `decode_request`.
    """
    plan = plans.decode(raw_plan)
    if len(raw_model) != 4 * plan.dimension:
        raise ProtocolViolation(f"request: model of {len(raw_model)} bytes, plan says {4 * plan.dimension}")
    model = np.frombuffer(raw_model, dtype="<f4").astype(np.float32, copy=False)
    if model_hash(model) != plan.model:
        raise ProtocolViolation("request: the model is not the one that the plan names")
    if not np.isfinite(model).all():
        raise ProtocolViolation("request: the model holds NaN or infinity")
    return Request(plan, raw_plan, model)


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
        if length:
            raise ProtocolViolation("answer: a refusal carries nothing")
        return None
    if length != size:
        raise ProtocolViolation(f"answer: {length} bytes, expected {size}")
    return memoryview(raw)[_ANSWER.size :]
