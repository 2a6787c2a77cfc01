"""Plans of every unit and placement whose noise is not the trainer's, for tests of mechanisms."""

from __future__ import annotations

import math
from typing import Any

from fedsus import plan as plans
from fedsus.privacy.sensitivity import padded
from fedsus.protection import (
    Adaptive,
    Banded,
    ClientCentral,
    ClientDistributed,
    ExampleDistributed,
    Private,
    Shares,
)

CLIENTS, SURVIVORS, COLLUDERS = 6, 4, 1
METRICS = (plans.Metric(name="loss", low=0.0, high=10.0), plans.Metric(name="accuracy", low=0.0, high=1.0))


def shares(dimension: int, clip: float = 1.0, granularity: float = 32.0, variance: float = 1.0, **more: Any) -> Shares:
    """Noise in shares, with a scale as a run would choose it."""
    scale = granularity * math.sqrt(padded(dimension)) / clip
    given: dict[str, Any] = {"bits": 32, "colluders": COLLUDERS, "survivors": SURVIVORS, **more}
    return Shares(scale=scale, variance=variance, **given)


def client_distributed(dimension: int, clip: float = 1.0, full_weight: float | None = None, **more: Any) -> Private:
    return ClientDistributed(
        epsilon=3.0, delta=1e-5, clip=clip, full_weight=full_weight, shares=shares(dimension, clip, **more)
    )


def example_distributed(dimension: int, clip: float = 1.0, rate: float = 0.5, **more: Any) -> Private:
    return ExampleDistributed(
        epsilon=3.0,
        delta=1e-5,
        clip=clip,
        sampling_rate=rate,
        denominator=20.0,
        shares=shares(dimension, clip, **more),
    )


def client_central(clip: float = 1.0, noise: float = 0.01, **more: Any) -> Private:
    return ClientCentral(epsilon=3.0, delta=1e-5, clip=clip, noise_multiplier=noise, **more)


def adaptive(clip: float = 1.0, noise: float = 0.01, **more: Any) -> Private:
    return client_central(clip, noise, adaptive=Adaptive(noise=0.01, **more))


def banded(clip: float = 1.0, noise: float = 0.01, bands: int = 3, participations: int = 2, **more: Any) -> Private:
    return client_central(clip, noise, banded=Banded(bands=bands, participations=participations), **more)


def plan_of(privacy: Private, dimension: int, metrics: bool = False, **changes: Any) -> plans.Plan:
    """The first plan of a run of six rounds."""
    fields: dict[str, Any] = {
        "run": "r",
        "round": 1,
        "attempt": 1,
        "rounds": 6,
        "spare_attempts": 2,
        "model": "0" * 64,
        "dimension": dimension,
        "task": plans.TaskPart(name="t"),
        "training": plans.Training(optimizer=plans.Optimizer(learning_rate=0.5)),
        "privacy": privacy,
        "encoding": plans.Encoding(),
        "metrics": METRICS if metrics else (),
        "cohort": plans.Cohort(size=CLIENTS, minimum=SURVIVORS),
        "deadline": 60.0,
    }
    if isinstance(privacy, ClientCentral) and privacy.adaptive is not None:
        fields["clip"] = privacy.clip
    return plans.Plan(**(fields | changes))
