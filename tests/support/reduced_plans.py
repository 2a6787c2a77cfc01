"""Plans with a reduced uplink, and updates for them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from noised_plans import plan_of

from fedsus.encoding.reduction import Reduction
from fedsus.plan import Encoding, Plan, Uplink
from fedsus.types import LocalUpdate, LocalUpdates

Name = Literal["rand_k", "projection"]
NAMES: tuple[Name, ...] = ("rand_k", "projection")


def uplink(name: Name, share: float) -> Encoding:
    return Encoding(uplink=Uplink(name=name, share=share))


def reduced(privacy: Any, dimension: int, name: Name = "projection", share: float = 0.25, **changes: Any) -> Plan:
    return plan_of(privacy, dimension, encoding=uplink(name, share), **changes)


def of(plan: Plan) -> Reduction:
    found = Reduction.of(plan)
    assert found is not None
    return found


def update(delta: Any, weight: float = 10.0) -> LocalUpdate:
    return LocalUpdate(np.asarray(delta), weight, np.zeros(0), 0, None)


def stack(deltas: Any) -> LocalUpdates:
    m = len(deltas)
    return LocalUpdates(deltas, np.full(m, 10.0), np.zeros((m, 0)), np.zeros(m, np.int64))
