"""The result of a sweep: mean and spread over seeds for each setting, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.privacy.stated import shown
from fedsus_simulations.running import evaluation
from fedsus_simulations.running.saved import whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from rich.table import Table

    from fedsus_simulations.running.outcome import Outcome
    from fedsus_simulations.running.sweeping import Ran

NAME: Final = "sweep"
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A8A8A")
_LINES: Final = ("-", "--", ":", "-.")
_FIRST: Final = ("accuracy", "loss")


@dataclass(frozen=True, slots=True)
class Spread:
    """Of some numbers: mean, standard deviation of a sample (None of one alone), least, most, how many."""

    mean: float
    std: float | None
    min: float
    max: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        found = np.asarray(values, dtype=np.float64)
        std = float(found.std(ddof=1)) if len(found) > 1 else None
        return cls(float(found.mean()), std, float(found.min()), float(found.max()), len(found))

    def __str__(self) -> str:
        if self.std is None:
            return f"{self.mean:.4g}"
        return f"{self.mean:.4g} ± {self.std:.1g}\n{self.min:.4g} to {self.max:.4g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One setting, over its seeds.

    Attributes:
        metrics: of the last models: on the test part, else as the clients reported.
        best: the highest accuracy on the test part of any round.
        failed: a line for each run that failed.
    """

    settings: Mapping[str, Any]
    runs: Sequence[Outcome]
    metrics: Mapping[str, Spread]
    best: Spread | None
    epsilon: Spread | None
    bytes: Spread | None
    seconds: Spread | None
    virtual: Spread | None
    failed: Sequence[str]

    @property
    def label(self) -> str:
        """The settings in a few words; the value alone where there is one setting."""
        if len(self.settings) == 1:
            return str(next(iter(self.settings.values())))
        return ", ".join(f"{name.removeprefix('plan.')}={value}" for name, value in self.settings.items()) or "all"


def rows(ran: Iterable[Ran]) -> list[Row]:
    """One for each setting, in order of appearance."""
    found: dict[str, list[Ran]] = {}
    for one in ran:
        found.setdefault(json.dumps(one.cell.settings, sort_keys=True, default=str), []).append(one)
    return [_row(group) for group in found.values()]


def _row(group: Sequence[Ran]) -> Row:
    runs = [one.outcome for one in group if one.outcome is not None]
    told = [run.central or run.metrics for run in runs]
    names = {name for metrics in told for name in metrics}
    order = [name for name in _FIRST if name in names] + sorted(names - set(_FIRST))

    def spread(of: Callable[[Outcome], float | None]) -> Spread | None:
        values = [value for value in map(of, runs) if value is not None]
        return Spread.of(values) if values else None

    return Row(
        group[0].cell.settings,
        runs,
        {name: Spread.of([metrics[name] for metrics in told if name in metrics]) for name in order},
        spread(lambda run: run.best["accuracy"] if run.best else None),
        spread(lambda run: run.epsilon),
        spread(lambda run: float(run.bytes_sent + run.bytes_received)),
        spread(lambda run: run.seconds),
        spread(lambda run: run.virtual or None),
        [f"seed {one.cell.scenario.seed}: {one.fault}" for one in group if one.outcome is None],
    )


def plain(sweep: str, folder: Path, found: Sequence[Row]) -> dict[str, Any]:
    """For JSON."""
    return {"sweep": sweep, "folder": str(folder), "settings": [asdict(row) for row in found]}


def write(folder: Path, told: Mapping[str, Any]) -> None:
    """Leave ``sweep.json`` in the sweep's folder."""
    whole(folder / f"{NAME}.json", (json.dumps(told, indent=1) + "\n").encode())


def heading_of(found: Sequence[Row]) -> str:
    """Of the settings: the name, where there is one."""
    names = list(found[0].settings) if found else []
    return names[0].removeprefix("plan.") if len(names) == 1 else "setting"


def table(found: Sequence[Row]) -> Table:
    """Mean ± standard deviation (least to most) over the seeds of each setting."""
    from rich.table import Table

    from fedsus_server.progress import duration, size

    names = list(dict.fromkeys(name for row in found for name in row.metrics))
    private, virtual = any(row.epsilon for row in found), any(row.virtual for row in found)
    made = Table(show_edge=False, pad_edge=False, show_lines=True)
    for heading in (heading_of(found), "runs", *names, *(["epsilon"] if private else []), "moved", "seconds"):
        made.add_column(heading, overflow="fold")
    if virtual:
        made.add_column("virtual")
    for row in found:
        runs = f"{len(row.runs)}" + (f", {len(row.failed)} failed" if row.failed else "")
        cells = [row.label, runs, *(str(row.metrics.get(name, "")) for name in names)]
        cells += [shown(row.epsilon.mean) if row.epsilon else ""] if private else []
        cells += [size(int(row.bytes.mean)) if row.bytes else "", f"{row.seconds.mean:.1f}" if row.seconds else ""]
        cells += [duration(row.virtual.mean) if row.virtual else ""] if virtual else []
        made.add_row(*cells)
    return made


def draw(folder: Path, ran: Sequence[Ran]) -> tuple[Path, Path] | None:
    """Write sweep.png and sweep.svg: the mean over seeds of each setting by round, in a band from least to most."""
    from fedsus_simulations.running.curves import figure_of, save

    curves: dict[str, dict[str, dict[int, list[float]]]] = {}
    labels = {json.dumps(row.settings, default=str): row.label for row in rows(ran)}
    for one in ran:
        if one.outcome is None:
            continue
        label = labels[json.dumps(one.cell.settings, default=str)]
        for round, metrics in _by_round(folder / one.cell.name).items():
            for name, value in metrics.items():
                curves.setdefault(name, {}).setdefault(label, {}).setdefault(round, []).append(value)
    if not curves:
        return None
    figure, panels = figure_of(len(curves))
    for axis, (name, lines) in zip(panels, sorted(curves.items()), strict=True):
        for place, (label, points) in enumerate(lines.items()):
            numbers = sorted(points)
            colour, line = COLOURS[place % len(COLOURS)], _LINES[place // len(COLOURS) % len(_LINES)]
            axis.plot(numbers, [np.mean(points[n]) for n in numbers], line, color=colour, linewidth=1.2, label=label)
            low, high = ([edge(points[n]) for n in numbers] for edge in (min, max))
            axis.fill_between(numbers, low, high, color=colour, alpha=0.18, linewidth=0)
        axis.set_title(name)
    panels[-1].legend(fontsize=8, frameon=False, title=heading_of(rows(ran)), title_fontsize=8)
    figure.suptitle(f"{folder.name}: mean, and least to most over seeds", fontsize=10)
    return save(figure, folder / NAME)


def _by_round(folder: Path) -> dict[int, dict[str, float]]:
    """On the test part, else as the clients reported."""
    from fedsus.reporting import summary

    return evaluation.read(folder) or {round - 1: metrics for round, metrics in summary(folder).metrics.items()}
