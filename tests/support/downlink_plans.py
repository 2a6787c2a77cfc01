"""Plans whose model travels as a difference, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedsus.plan import Downlink, Plan
from fedsus.rounds.messages import model_hash
from fedsus.rounds.models import reference
from fedsus.types import Vector

START = np.linspace(-1, 1, 34, dtype=np.float32)


def other_difference(raw: bytes) -> bytes:
    """The same request with another step in the difference."""
    request = bytearray(raw)
    request[-1] ^= 1
    return bytes(request)


def a_plan(model: Vector, **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "run": "run",
        "round": 2,
        "attempt": 2,
        "rounds": 9,
        "spare_attempts": 2,
        "model": model_hash(model),
        "dimension": len(model),
        "task": {"name": "heart"},
        "training": {},
        "privacy": {"unit": "none"},
        "encoding": {},
        "downlink": {"bits": 8, "block": 32},
        "cohort": {"size": 4, "minimum": 3},
        "deadline": 9.0,
    }
    return Plan.model_validate(fields | changes)


def changed(model: Vector, last: Vector, **changes: Any) -> tuple[Plan, bytes]:
    """A plan, and its model as a difference."""
    made = reference(model, last, Downlink(bits=8, block=32))
    plan = a_plan(made.model, **changes)
    return plan, b"\1" + bytes.fromhex(made.base) + made.change


LAST, NEXT = START, START + np.float32(0.125)
