"""A plan for each mechanism, small enough to be carried out a hundred thousand times."""

from __future__ import annotations

import math
from typing import Any

from noised_plans import banded, client_central, client_distributed, example_distributed, plan_of

from fedsus.costs import Costs
from fedsus.plan import Cohort, Encoding, Plan, Uplink
from fedsus.privacy.sensitivity import METRIC_STEPS
from fedsus.protection import Adaptive, ClientCentral, ExamplePrivacy

SIZE, GRANULARITY = 8, 32.0
SURVIVORS, HONEST = 3, 2
COSTS = {"costs": Costs(joules=500.0, grams=0.25), "exchange": "secure_sum", "session": "0" * 64}
FEW = {"cohort": Cohort(size=SURVIVORS, minimum=SURVIVORS)}


def in_shares(
    multiplier: float, granularity: float = GRANULARITY, told: int = 0, moved: float = METRIC_STEPS / 2
) -> dict[str, Any]:
    """Noise of ``multiplier`` sensitivities, were rounding none, of the honest clients together.

    ``moved``: steps by which each of the ``told`` may move.
    """
    variance = (granularity * math.sqrt(SIZE) * multiplier) ** 2 / HONEST
    metrics = (moved * math.sqrt(told) * multiplier) ** 2 / HONEST if told else None
    return {
        "granularity": granularity,
        "variance": variance,
        "survivors": SURVIVORS,
        "colluders": SURVIVORS - HONEST,
        "metrics": metrics,
    }


def local(rate: float = 0.5, multiplier: float = 0.5) -> Plan:
    """Two steps of DP-SGD a round."""
    privacy = ExamplePrivacy(
        epsilon=3.0,
        delta=1e-5,
        clip=0.5,
        sampling_rate=rate,
        steps=2,
        denominator=1.0,
        noise_multiplier=multiplier,
    )
    return plan_of(privacy, SIZE)


def examples(rate: float, multiplier: float, granularity: float = GRANULARITY) -> Plan:
    return plan_of(example_distributed(SIZE, rate=rate, **in_shares(multiplier, granularity)), SIZE, **FEW)


def adaptive() -> Plan:
    privacy = ClientCentral(
        epsilon=3.0,
        delta=1e-5,
        clip=2.0,
        noise_multiplier=1.2,
        metrics=1.2,
        adaptive=Adaptive(quantile=0.9, learning_rate=1.0, noise=0.6),
    )
    return plan_of(privacy, SIZE, True, **COSTS)


QUARTER = {"encoding": Encoding(uplink=Uplink(name="projection", share=0.25))}

PLANS: dict[str, Plan] = {
    "example local": local(),
    "example distributed": examples(0.5, 0.8),
    "example distributed, most examples": examples(0.9, 0.6),
    "example distributed, metrics, costs": plan_of(
        example_distributed(SIZE, rate=0.5, **in_shares(0.8, told=4, moved=METRIC_STEPS)), SIZE, True, **FEW, **COSTS
    ),
    "client distributed": plan_of(client_distributed(SIZE, **in_shares(0.8)), SIZE, **FEW),
    "client distributed, coarse": plan_of(client_distributed(SIZE, **in_shares(1.0, 0.5)), SIZE, **FEW),
    "client distributed, metrics, costs": plan_of(
        client_distributed(SIZE, **in_shares(1.1, told=4)), SIZE, True, **FEW, **COSTS
    ),
    "client central": plan_of(client_central(0.5, 0.8), SIZE),
    "client central, banded": plan_of(banded(2.0, 0.8), SIZE),
    "client central, adaptive, metrics, costs": adaptive(),
    "client distributed, reduced": plan_of(client_distributed(SIZE, **in_shares(0.8)), 4 * SIZE, **FEW, **QUARTER),
    "client central, reduced": plan_of(client_central(0.5, 0.8), 4 * SIZE, **QUARTER),
    "example distributed, reduced": plan_of(
        example_distributed(SIZE, rate=1.0, **in_shares(0.8)), 4 * SIZE, **FEW, **QUARTER
    ),
}
