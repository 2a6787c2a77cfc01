"""Clocks and forecasts of carbon intensity for tests of schedules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fedsus.config import RunConfig
from fedsus.energy.grid.intensity import Rate, Step
from fedsus.settings.schedule import ScheduleSettings

HOUR = 3600.0
BEGAN = 1_700_000_000.0
HASH = "0" * 64


class Time:
    """A clock that moves when somebody sleeps, and however else a test says."""

    def __init__(self, now: float = BEGAN, tick: float = 0.0) -> None:
        self.now, self.tick, self.slept = now, tick, 0.0
        self.moves: Callable[[float], float] = lambda seconds: seconds

    def __call__(self) -> float:
        self.now += self.tick
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept += seconds
        self.now += self.moves(seconds)


class Hours:
    """An intensity by hours since the run began; ``until`` hours are known."""

    def __init__(self, *values: float, revised: Callable[[float], Sequence[float]] | None = None) -> None:
        self.values, self.revised = values, revised

    def over(self, start: float, end: float) -> Rate:
        raise NotImplementedError

    def forecast(self, now: float, until: float) -> list[Step]:
        values = self.values if self.revised is None else self.revised(now)
        steps = [
            Step(start=BEGAN + hour * HOUR, end=BEGAN + (hour + 1) * HOUR, rate=rate(value))
            for hour, value in enumerate(values)
        ]
        return [step for step in steps if step.end > now and step.start < until]


def rate(value: float) -> Rate:
    return Rate(value=value, low=0.0, high=1e4, method="modelled", kind="marginal", source="test")


def scheduled(asked: RunConfig, **settings: Any) -> RunConfig:
    return asked.model_copy(update={"schedule": ScheduleSettings(policy="cleanest", step_minutes=30.0, **settings)})
