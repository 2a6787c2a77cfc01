"""The tables of `joules_of_privacy` as a picture: a panel for each part, a bar for each variant, joules by phase."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsus.costs import PHASES

if TYPE_CHECKING:
    from fedsus_simulations.benchmarks.result import Result, Table

NAME: Final = "joules-of-privacy"
_COLOURS: Final[dict[str, str]] = dict(
    zip(PHASES, ("#999999", "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#F0E442", "#CC79A7"), strict=True)
)
_WHO: Final = {"devices": "", "server": "////"}

Joules = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Variant -> "devices" or "server" -> phase -> joules of a round."""


def draw(result: Result, folder: Path) -> tuple[Path, Path]:
    """Write joules-of-privacy.png and .svg into ``folder``, which is made."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    from fedsus_simulations.benchmarks.joules_variants import BY_PHASE, COST

    mpl.rcParams["svg.hashsalt"] = "fedsus"
    mpl.rcParams["hatch.linewidth"] = 0.5
    phases = next(table for table in result.tables if table.title == BY_PHASE)
    parts, methods = by_part(phases), {row[0]: row[3] for row in phases.rows}
    costs = {table.title.removeprefix(COST): table for table in result.tables if table.title.startswith(COST)}
    figure, axes = pyplot.subplots(len(parts), 1, figsize=(9.0, 8.4), layout="constrained", squeeze=False)
    for axis, (part, joules) in zip(axes.flat, parts.items(), strict=True):
        _panel(axis, joules, ratios(costs[part]))
        axis.set_title(part, fontsize=10, loc="left")
        axis.set_xlabel(f"J a round, {methods[part]}")
    seen = [
        phase
        for phase in PHASES
        if any(row[who].get(phase) for p in parts.values() for row in p.values() for who in _WHO)
    ]
    handles = [Patch(facecolor=_COLOURS[phase], label=phase) for phase in seen]
    handles += [Patch(facecolor="white", edgecolor="black", hatch=hatch, label=who) for who, hatch in _WHO.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    figure.suptitle(
        "Joules of a round above idle by phase, medians; beside each bar: plain / it, median (95 % over blocks)",
        fontsize=10,
    )
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{NAME}.png", folder / f"{NAME}.svg"
    figure.savefig(paths[0], dpi=110)
    figure.savefig(paths[1], metadata={"Date": None})
    pyplot.close(figure)
    return paths


def by_part(table: Table) -> dict[str, Joules]:
    """The rows of the table of phases, by part."""
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for row in table.rows:
        cells = dict(zip(table.columns, row, strict=True))
        of_run = found.setdefault(str(cells["part"]), {}).setdefault(str(cells["run"]), {})
        of_run[str(cells["who"])] = {phase: float(cells[phase]) for phase in PHASES}
    return {part: dict(runs) for part, runs in found.items()}


def ratios(table: Table) -> dict[str, str]:
    """Variant -> its ratio in words."""
    return {str(run): str(ratio) for run, _, _, ratio, *_ in table.rows}


def _panel(axis: Any, joules: Joules, ratio: Mapping[str, str]) -> None:
    widest = max(sum(sum(one.values()) for one in sides.values()) for sides in joules.values())
    for place, (run, sides) in enumerate(joules.items()):
        left = 0.0
        for who, hatch in _WHO.items():
            for phase, amount in sides[who].items():
                colour = _COLOURS[phase]
                axis.barh(place, amount, left=left, color=colour, hatch=hatch, edgecolor="white", linewidth=0.4)
                left += amount
        axis.text(left + 0.01 * widest, place, f"{left:.2g} J   {ratio[run]}", va="center", fontsize=8)
    axis.set_yticks(range(len(joules)), list(joules))
    axis.invert_yaxis()
    axis.set(xlim=(0, 1.4 * widest))
    axis.spines[["top", "right"]].set_visible(False)
