"""What metering costs a device: its rounds with a meter by phase and a record on disk, against rounds without.

Two devices with the same data, plan and seed answer the same requests in turns, round by round, in one process: each
admits, charges, trains, encodes and packs, as deployed. The order changes with each round, and every second round the
devices change the meter. What decides is processor time: the device's own, whoever else uses the machine. A difference
of a hundredth drowns in the noise between two rounds, so that the time inside of metering is told beside it, and how
much two rounds without a meter differ.
"""

from __future__ import annotations

import gc
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsus.config import RunConfig, validate
from fedsus.energy.meters.meter import make_meter
from fedsus.learning.parameters import flatten
from fedsus.owner.consumption import NO_CONSUMPTION, Consumption
from fedsus.rounds.messages import encode_request
from fedsus.rounds.planning.specification import open_run
from fedsus.settings.energy import EnergySettings
from fedsus.tasks import registry
from fedsus.tasks.task import DataSource
from fedsus_simulations.benchmarks import heart, models, simulate_data
from fedsus_simulations.benchmarks.result import comparison, figure, load
from fedsus_simulations.whole.memory import devices

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from fedsus.costs import Meter, Phase
    from fedsus.owner.policy import DayBudget
    from fedsus.rounds.device_half.device import Device
    from fedsus.rounds.planning.specification import Specification
    from fedsus.types import Vector

MOST: Final = 1.01
"""Rounds without a meter that one with may take."""

_WARM_UP: Final = 5
_CALLS: Final = 20_000
_BLOCKS: Final = 10
EXAMPLES: Final = 600
_PRIVATE: Final = {"unit": "example", "placement": "local", "epsilon": 200.0, "delta": 1e-5, "clip": 1.0}
_SAMPLED: Final = {"sampling_rate": 0.1, "denominator": 20.0}


@dataclass(frozen=True, slots=True)
class Case:
    """What one device does in a round.

    Attributes:
        task: its name in plans; ``reference`` is where it is.
        plan: what differs from a plain plan of one local epoch.
    """

    label: str
    task: str
    reference: str
    plan: Mapping[str, Any]

    def source(self, folder: Path) -> DataSource:
        """Made-up images, or the patients of one hospital."""
        return DataSource(heart.DATA if self.task == "heart" else simulate_data.generated(folder, (EXAMPLES, 100)))


CASES: Final = (
    Case(f"784-64-10, {EXAMPLES} images", "images", models.IMAGES, {"training": {"local_epochs": 5}}),
    Case("heart disease", "heart", "heart", {"training": {"local_epochs": 5}}),
    Case("heart disease, DP-SGD", "heart", "heart", {"privacy": _PRIVATE | _SAMPLED}),
)

Turns = tuple[list[float], list[float], list[float], list[float], list[float]]
"""Milliseconds of each round: with a meter, without; the same on the wall; what was spent inside of metering."""


def _empty() -> float:
    """Seconds that a section of no code seems to take."""
    found = []
    for _ in range(1000):
        began = time.thread_time()
        found.append(time.thread_time() - began)
    return min(found)


class Timed(Consumption):
    """Counts its own processor time in ``inside``, in seconds, without that of the clock which counts it."""

    inside = 0.0
    empty = 0.0

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """As `Consumption.phase`."""
        return self._timed(name)

    def working(self, run: str, round: int, attempt: int) -> None:
        """As `Consumption.working`."""
        with self._own():
            super().working(run, round, attempt)

    def join(self, budget: DayBudget, run: str, others: int = 0) -> None:
        """As `Consumption.join`."""
        with self._own():
            super().join(budget, run, others)

    def rest(self) -> None:
        """As `Consumption.rest`."""
        with self._own():
            super().rest()

    @contextmanager
    def _own(self) -> Iterator[None]:
        began = time.thread_time()
        yield
        self.inside += time.thread_time() - began - self.empty

    @contextmanager
    def _timed(self, name: Phase) -> Iterator[None]:
        began = time.thread_time()
        with Consumption.phase(self, name):
            entered = time.thread_time()
            try:
                yield
            finally:
                left = time.thread_time()
        self.inside += time.thread_time() - left + entered - began - 2 * self.empty


def run(quick: bool) -> dict[str, Any]:
    """Milliseconds of processor time a round, tables of the ratios, and of what the calls cost alone."""
    before, rounds = load(), 20 if quick else 100
    found = {case.label: _turns(case, rounds) for case in CASES}
    compared = {label: _compared(label, turns, quick) for label, turns in found.items()}
    first, *others = compared.values()
    return {
        **first,
        "figures": dict(zip(list(compared)[1:], others, strict=True)),
        "notes": [
            f"rounds in turns, {rounds} each; a load of {before:.1f} before, {load():.1f} after",
            "the meter is the one of this machine, as an agent's; its record is on disk",
        ],
        "tables": [_ratios(found), _shares(found), _calls()],
    }


def _turns(case: Case, rounds: int) -> Turns:
    with tempfile.TemporaryDirectory(prefix="fs-") as name, _sides(case, rounds + _WARM_UP, Path(name)) as sides:
        spent: Turns = ([], [], [], [], [])
        specification, model, meter, both = sides
        for round in range(1, rounds + _WARM_UP + 1):
            if round == _WARM_UP:
                gc.freeze()
            raw = encode_request(specification.plan(round, round, model), model)
            # Side 0 has the meter. Of four rounds it is each device twice, and comes first twice.
            one = round // 2 % 2
            both[one].consumption, both[1 - one].consumption = meter, NO_CONSUMPTION
            for i in (0, 1) if round % 2 else (1, 0):
                before = meter.inside
                processor, wall = _answered(both[abs(one - i)], raw)
                if round > _WARM_UP:
                    spent[i].append(processor)
                    spent[i + 2].append(wall)
                    spent[4].extend([(meter.inside - before) * 1e3] * (1 - i))
    gc.unfreeze()
    return spent


@contextmanager
def _sides(
    case: Case, rounds: int, folder: Path
) -> Iterator[tuple[Specification, Vector, Timed, tuple[Device, Device]]]:
    """The run, its model, the meter, and a device with it and one without."""
    asked = {"rounds": rounds, "exchange": "clear_sum", "cohort": {"size": 4, "minimum": 3}}
    config = validate({"task": {"name": case.task}, "plan": asked | dict(case.plan)}, RunConfig, "benchmark")
    model = flatten(registry.build(registry.resolve(case.reference), {}).model(0))
    specification = open_run(folder / "run", "metering", config, model, time.time)
    source = case.source(folder / "images")
    one, other = (devices(config, {"client": source}, case.reference, 1)["client"] for _ in range(2))
    meter = Timed(make_meter(EnergySettings()), folder / "energy.jsonl", time.time)
    meter.empty = _empty()
    try:
        yield specification, model, meter, (one, other)
    finally:
        meter.close()


def _answered(device: Device, raw: bytes) -> tuple[float, float]:
    """Milliseconds of one round, of the processor and on the wall; what others left to collect is collected before."""
    gc.collect()
    began, used = time.perf_counter(), time.process_time()
    answer = device.answer(raw, _never)
    answer.sent()
    device.consumption.rest()
    spent = (time.process_time() - used) * 1e3, (time.perf_counter() - began) * 1e3
    if answer.refusal is not None:
        raise RuntimeError(f"the device refused: {answer.refusal}")
    return spent


def _compared(label: str, turns: Turns, quick: bool) -> dict[str, Any]:
    return comparison(
        figure(turns[0], "ms", f"processor time of a round with a meter, {label}", _WARM_UP),
        figure(turns[1], "ms", "without", _WARM_UP),
        f"at most {MOST:g} rounds without",
        # A few rounds of some milliseconds are too few to tell one part in a hundred.
        times=None if quick else round(1 / MOST, 4),
    )


def _ratios(found: Mapping[str, Turns]) -> dict[str, Any]:
    rows: list[tuple[str | float, ...]] = []
    for label, (ours, peer, mine, other, _) in found.items():
        pairs = (
            ("with / without", "processor", ours, peer),
            ("with / without", "wall", mine, other),
            ("without / the one before", "processor", peer[1:], peer[:-1]),
        )
        for what, clock, upper, lower in pairs:
            turns = [a / b for a, b in zip(upper, lower, strict=True)]
            rows.append((label, what, clock, *statistics.quantiles(turns), min(upper) / min(lower)))
    columns = ("rounds", "ratio", "clock", "lower quartile", "median", "upper quartile", "of the quickest")
    title = "rounds without a meter that one with takes, turn by turn, and their noise"
    return {"title": title, "columns": columns, "rows": rows}


def _shares(found: Mapping[str, Turns]) -> dict[str, Any]:
    """Means over the rounds of a block, for what is put off is in some rounds alone."""
    rows = []
    for label, (ours, _, _, _, inside) in found.items():
        size = max(len(ours) // _BLOCKS, 1)
        starts = range(0, len(ours) - size + 1, size)
        parts = [100 * sum(inside[at : at + size]) / sum(ours[at : at + size]) for at in starts]
        mean = 1e3 * statistics.fmean(inside)
        rows.append((label, min(parts), statistics.median(parts), max(parts), mean, 1e3 * statistics.median(inside)))
    columns = ("rounds", "min %", "median %", "max %", "microseconds a round, mean", "median")
    title = f"part of a round's processor time inside of metering, over {_BLOCKS} blocks of rounds"
    return {"title": title, "columns": columns, "rows": rows}


def _calls() -> dict[str, Any]:
    meter = make_meter(EnergySettings())
    rows = [
        ("enter and leave a phase", _microseconds(_phase, meter)),
        ("take", _microseconds(_take, meter)),
    ]
    return {"title": "the calls alone", "columns": ("call", "microseconds"), "rows": rows}


def _microseconds(call: Any, meter: Meter) -> float:
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(_CALLS // 5):
            call(meter)
        best = min(best, (time.process_time() - began) / (_CALLS // 5))
    return best * 1e6


def _phase(meter: Meter) -> None:
    with meter.phase("train"):
        pass


def _take(meter: Meter) -> None:
    meter.take()


def _never() -> bool:
    return False
