"""What stands for a forecast behind its end: the last day's hours, or those of several days.

How many days is chosen on one part of the trace and shown on the other, so that the choice is not fitted to what is
reported. Of each start, what the last day's hours save is compared with what the others do.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus_simulations.benchmarks.carbon_policies import CALENDAR, Asked, Job, immediate, known, oracle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fedsus_simulations.benchmarks.carbon_policies import Policy
    from fedsus_simulations.benchmarks.carbon_traces import Trace

TITLE: Final = "what stands for a forecast behind its end; points against the last day's hours, of the same starts"
DAYS: Final = (3, 7, 14)
SLACKS: Final = (12.0, 48.0)
SPLIT: Final = datetime(2021, 1, 1, tzinfo=UTC).timestamp()
"""Choose before it, show what comes after."""


def split(trace: Trace) -> float:
    """Where the part ends on which is chosen; of a trace that has nothing on one side, its middle."""
    inside = trace.start + 30 * 86_400 < SPLIT < trace.end - 30 * 86_400
    return SPLIT if inside else (trace.start + trace.end) / 2


def table(
    trace: Trace, parts: Sequence[NDArray[np.float64]], jobs: Sequence[Job], days: Sequence[int] = DAYS
) -> dict[str, Any]:
    """Savings of each way, on starts of either part.

    Args:
        parts: starts on which is chosen, and those on which is shown.
    """
    ways: dict[str, Policy] = {"the last day": known(1)}
    ways |= {f"{count} days": known(count) for count in days}
    ways |= {f"{count} days alike": known(count, CALENDAR) for count in days} | {"all that is to come": oracle}
    rows = []
    for job in jobs:
        at_once = [_grams(trace, immediate, starts, job, 0.0) for starts in parts]
        for slack in SLACKS:
            found = {name: [_grams(trace, way, starts, job, slack) for starts in parts] for name, way in ways.items()}
            first = found["the last day"]
            for name, grams in found.items():
                told = [_told(*each) for each in zip(grams, first, at_once, strict=True)]
                rows.append((str(job), f"{slack:g}", name, *(cell for part in told for cell in part)))
    shown = [part for time in (trace.start, split(trace)) for part in (_from(time), "points", "worse, %")]
    return {"title": TITLE, "columns": ("rounds", "slack, h", "stands in", *_apart(shown)), "rows": tuple(rows)}


def _grams(trace: Trace, way: Policy, starts: NDArray[np.float64], job: Job, slack: float) -> NDArray[np.float64]:
    """g CO2e at 1 kW of each start's run, (starts,)."""
    runs = [way(trace, Asked(float(start), job, slack * 3600)) for start in starts]
    return np.array([trace.means(run, job.seconds).sum() * job.seconds / 3600 for run in runs])


def _told(grams: NDArray[np.float64], first: NDArray[np.float64], at_once: NDArray[np.float64]) -> tuple[str, str, str]:
    """Saved; more than by the last day's hours, with the standard error over starts; starts that are worse than at
    once.
    """
    if not at_once.sum():
        return "0.0", "0.0", "0.0"
    more = 100 * (first - grams) / at_once.mean()
    error = more.std(ddof=1) / len(more) ** 0.5 if len(more) > 1 else 0.0
    worse = np.mean(grams > at_once * (1 + 1e-9) + 1e-9)
    return f"{100 * (1 - grams.sum() / at_once.sum()):.1f}", f"{more.mean():+.1f} ± {error:.1f}", f"{100 * worse:.1f}"


def _from(time: float) -> str:
    return f"from {datetime.fromtimestamp(time, UTC):%Y-%m-%d} on: all, %"


def _apart(names: Sequence[str]) -> list[str]:
    """Names of columns, no two alike."""
    return [f"{name}, shown" if name in names[:at] else name for at, name in enumerate(names)]
