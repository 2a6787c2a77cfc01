"""``[plan.training]`` of run.toml, and of plans: what a client does with its shard."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from fedsus.strict import NonNegative, Positive, Strict


class Optimizer(Strict):
    """A row of the table of local optimizers (fedsus.learning.optimizers) and its numbers."""

    name: Literal["sgd", "adam", "adamw", "rmsprop", "adagrad", "nadam", "radam"] = "sgd"
    learning_rate: Positive = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 0.0


class Schedule(Strict):
    """The learning rate as a function of the round r = 1..rounds.

    ``constant``; ``cosine``: from 1 down to ``floor``; ``step``: times ``factor`` each ``every`` rounds;
    ``exponential``: times ``factor`` each round. ``warmup`` rounds rise linearly first.
    """

    name: Literal["constant", "cosine", "step", "exponential"] = "constant"
    warmup: Annotated[int, Field(ge=0, le=100_000)] = 0
    factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    every: Annotated[int, Field(ge=1, le=100_000)] = 10
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0


class Training(Strict):
    """What a client does with its shard in one round."""

    local_epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    batch_size: Annotated[int, Field(ge=1, le=1_000_000)] = 16
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    proximal: NonNegative = 0.0
    gradient_clip: Positive | None = None
    precision: Literal["float32", "bfloat16"] = "float32"


def learning_rate(training: Training, round: int, rounds: int) -> float:
    """The local learning rate of one round, 1-based, by the plan's schedule."""
    base, schedule = training.optimizer.learning_rate, training.schedule
    if round <= schedule.warmup:
        return base * round / (schedule.warmup + 1)
    done = round - 1 - schedule.warmup
    span = max(rounds - 1 - schedule.warmup, 1)
    match schedule.name:
        case "cosine":
            return base * (schedule.floor + (1 - schedule.floor) * (1 + math.cos(math.pi * min(done / span, 1.0))) / 2)
        case "step":
            return base * schedule.factor ** (done // schedule.every)
        case "exponential":
            return base * schedule.factor**done
    return base
