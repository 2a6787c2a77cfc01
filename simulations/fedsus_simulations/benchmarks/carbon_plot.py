"""What cleaner hours save, as a picture: savings over the slack, and one run on its trace."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus_simulations.benchmarks.carbon_policies import BY_DAYS, POLICIES, Asked, Job, immediate
from fedsus_simulations.pictures import saved

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fedsus_simulations.benchmarks.carbon_traces import Trace
    from fedsus_simulations.benchmarks.result import Result, Table

NAME: Final = "carbon-hours"
EXAMPLE: Final = "an example: the start that is helped as much as the median one"
SHOWN: Final = "intensity of each hour, g/kWh"
_COLOURS: Final = {
    "cleanest": "#0072B2",
    BY_DAYS: "#CC79A7",
    "oracle": "#999999",
    "one piece": "#E69F00",
    "threshold": "#009E73",
}
_AT_ONCE: Final = "at once"


def example(trace: Trace, chosen: tuple[float, Job], slack: float) -> dict[str, Any]:
    """Intensities by hour from a start on, and the hours after it at which rounds start."""
    start, job = chosen
    asked = Asked(start, job, slack * 3600)
    hours = np.arange(int((job.total + asked.slack) // 3600), dtype=np.float64) * 3600.0
    moments: NDArray[np.float64] = start + hours
    policies = {_AT_ONCE: immediate, **POLICIES}
    rows = [
        ("starts, UTC", datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%d %H:%M")),
        (SHOWN, " ".join(f"{value:.0f}" for value in trace.means(moments, 3600.0))),
        *(
            (name, " ".join(f"{(at - start) / 3600:.4g}" for at in policy(trace, asked)))
            for name, policy in policies.items()
        ),
    ]
    return {"title": f"{EXAMPLE}, {job}, {slack:g} h of slack", "columns": ("what", "hours"), "rows": tuple(rows)}


def draw(result: Result, savings: str, folder: Path) -> Sequence[Path]:
    """Write the picture of a result; the files.

    Args:
        savings: title of the table to draw.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "fedsus"
    table = next(table for table in result.tables if table.title == savings)
    jobs = list(dict.fromkeys(str(row[0]) for row in table.rows))
    figure = pyplot.figure(figsize=(8.4, 6.0), layout="constrained")
    grid = figure.add_gridspec(2, len(jobs))
    for place, job in enumerate(jobs):
        _savings(figure.add_subplot(grid[0, place]), table, job)
    _example(figure.add_subplot(grid[1, :]), next(one for one in result.tables if one.title.startswith(EXAMPLE)))
    return saved(figure, folder / NAME, dpi=90)


def _savings(axis: Any, table: Table, job: str) -> None:
    """Medians, and from where to where 90% of the starts are."""
    slacks = list(dict.fromkeys(str(row[1]) for row in table.rows))
    policies = list(dict.fromkeys(str(row[2]) for row in table.rows))
    named = {
        (str(row[1]), str(row[2])): dict(zip(table.columns, row, strict=True)) for row in table.rows if row[0] == job
    }
    for place, policy in enumerate(policies):
        rows = [named[slack, policy] for slack in slacks]
        medians = np.array([float(row["median, %"]) for row in rows])
        ends = np.array([[float(end) for end in str(row["5 to 95%"]).split(" to ")] for row in rows])
        at = np.arange(len(slacks)) + 0.15 * (place - (len(policies) - 1) / 2)
        spread = np.maximum([medians - ends[:, 0], ends[:, 1] - medians], 0)
        axis.errorbar(at, medians, spread, fmt="o", label=policy, color=_COLOURS[policy], capsize=3, markersize=4)
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set_xticks(range(len(slacks)), slacks)
    axis.set(title=f"rounds: {job}", xlabel="hours of slack", ylabel="saved, %: median, 5 to 95%", ylim=(-110, 105))
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8, loc="lower right", ncols=2)


def _example(axis: Any, table: Table) -> None:
    """Intensity by hour; rounds as marks below it, a line for each policy."""
    rows = {str(name): str(values) for name, values in table.rows}
    start = rows.pop("starts, UTC")
    values = [float(value) for value in rows.pop(SHOWN).split()]
    axis.step(range(len(values) + 1), [*values, values[-1]], where="post", color="black", linewidth=1)
    top = max(*values, 1.0)
    for place, (policy, starts) in enumerate(rows.items(), 1):
        times = [float(time) for time in starts.split()]
        height = -0.11 * top * place
        axis.plot(times, [height] * len(times), "|", color=_COLOURS.get(policy, "black"), markersize=9)
        axis.annotate(policy, (-0.4, height), ha="right", va="center", fontsize=8)
    axis.set(
        title=f"one run from {start} UTC on", xlabel="hours after the start; a mark is a round", ylabel="g CO2e/kWh"
    )
    axis.set_yticks([tick for tick in axis.get_yticks() if 0 <= tick <= top * 1.1])
    axis.set(xlim=(-6, len(values)), ylim=(-0.11 * top * (len(rows) + 1), top * 1.08))
    axis.grid(alpha=0.3)
