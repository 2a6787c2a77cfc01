"""A device's hands for tests of what it uses: a meter and a clock that are set by hand."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from fake_meter import FakeMeter

from fedsus.costs import Costs
from fedsus.owner.consumption import Consumption
from fedsus.owner.energy_record import Attempt
from fedsus.owner.policy import DayBudget

NOON = 1_800_014_400.0 - 1_800_014_400.0 % 86_400 + 43_200
RANGES = Costs(joules=1e6, grams=1e3).ranges(private=False)
UNCAPPED = DayBudget()


class Hands:
    """A device's hands: works on attempts, under a clock that is set by hand."""

    def __init__(self, folder: Path | None, now: float = NOON, **options: Any) -> None:
        self.now, self.meter = now, FakeMeter()
        self.path = None if folder is None else folder / "energy.jsonl"
        self.options = options
        self.start()

    def start(self) -> None:
        self.consumption = Consumption(self.meter, self.path, lambda: self.now, **self.options)

    def killed(self) -> None:
        """As by a signal that cannot be caught: nothing more is written, the lock is let go."""
        self.consumption._notes.close()
        self.meter.used.clear()

    def again(self) -> None:
        self.killed()
        self.start()

    def work(self, joules: float, run: str = "r", round: int = 1, attempt: int = 1) -> None:
        self.consumption.working(run, round, attempt)
        self.meter.use("train", joules)
        self.consumption.take()

    def report(self, run: str = "r", round: int = 1, attempt: int = 1) -> dict[str, float]:
        found = self.consumption.report(Attempt(run, round, attempt), RANGES)
        return dict(zip(RANGES, found.tolist(), strict=True))

    def today(self, budget: DayBudget = UNCAPPED) -> float:
        return self.consumption.standing(budget).today.total


def budget(**caps: Any) -> DayBudget:
    return DayBudget.model_validate(caps)


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelno >= logging.WARNING]
