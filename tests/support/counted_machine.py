"""A machine of 4 cores whose time, work and energy pass when a test says so; RAPL is files in a folder of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedsus.costs import Usage
from fedsus.energy.meters import rapl
from fedsus.energy.meters.machine import Hardware
from fedsus.energy.meters.meter import PartsMeter
from fedsus.energy.meters.model import Model, Range
from fedsus.energy.meters.package import Packages
from fedsus.energy.meters.phases import Times
from fedsus.energy.meters.processors import Processor

MODEL = Model(core=Range(value=4.0, low=2.0, high=8.0), idle=5.0, method="modelled", source="the model")
RANGE = 262_143_328_850


@dataclass
class Machine:
    """Seconds, and processor seconds of this process and of all."""

    root: Path
    steady: float = 100.0
    process: float = 0.0
    busy: float = 1000.0
    zones: dict[str, int] = field(default_factory=dict)

    @property
    def times(self) -> Times:
        return Times(lambda: self.steady, lambda: self.process, lambda: 0.0)

    def zone(self, folder: str, name: str, microjoules: int, most: int = RANGE) -> None:
        path = self.root / folder
        path.mkdir(parents=True)
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{most}\n")
        self.set(folder, microjoules)

    def set(self, folder: str, microjoules: int | str) -> None:
        (self.root / folder / "energy_uj").write_text(f"{microjoules}\n")
        if isinstance(microjoules, int):
            self.zones[folder] = microjoules

    def draw(self, folder: str, joules: float) -> None:
        self.set(folder, int(self.zones[folder] + joules * 1e6) % RANGE)

    def work(self, seconds: float, process: float, others: float = 0.0) -> None:
        self.steady += seconds
        self.process += process
        self.busy += process + others

    def packages(self, counters: Sequence[rapl.Rapl]) -> Packages:
        return Packages(list(counters), MODEL, 4, lambda: self.busy)

    def meter(self, refuse: bool = False) -> PartsMeter:
        counters = rapl.find(self.root)
        return PartsMeter([self.packages(counters)], self.times, counters=counters, refuse=refuse)


def taken(meter: PartsMeter) -> Usage:
    usage = meter.take()
    assert usage is not None
    assert 0 <= usage.low <= usage.total <= usage.high
    return usage


def without(**given: Any) -> Hardware:
    """A machine of 4 cores without any counter, but for what is given."""

    def none() -> list[rapl.Rapl]:
        return rapl.find(Path("/nowhere"))

    known = {"rapl": none, "nvidia": list, "amd": list, "processor": lambda: Processor(name="P1", cores=4)}
    return Hardware(**(known | {"tdp": lambda name: 60.0 if name == "P1" else None} | given))
