"""Seeds of a device's training order: the operating system's, or repeatable ones for tests and simulations."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

from fedsus.plan import Plan

SeedSource = Callable[[Plan], int]
"""The seed of one round's training order. A deployment draws it from the operating system."""


def system_seed(plan: Plan) -> int:
    """A fresh seed from the operating system, whatever the plan."""
    del plan
    return secrets.randbits(63)


def seeded(seed: int, client: str) -> SeedSource:
    """Reproducible seeds for tests: of seed, client and round; an abandoned attempt is repeated alike."""

    def draw(plan: Plan) -> int:
        text = f"{seed}/{client}/{plan.round}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")

    return draw
