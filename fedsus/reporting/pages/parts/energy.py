"""Joules: by phase, by machine, each with its range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedsus.costs import PHASES
from fedsus.reporting.figures import Absent, Figure
from fedsus.reporting.pages import charts
from fedsus.reporting.pages.document import Chart, Section, Table
from fedsus.reporting.pages.words import COLUMNS, cleaned, digits, rows, scale, value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fedsus.costs import Phase
    from fedsus.reporting.figures import Quantity
    from fedsus.reporting.pages.source import Source
    from fedsus.reporting.predicate import Energy

PHASE_NAMES: Final[dict[Phase, str]] = {
    "load": "load data",
    "train": "train",
    "encode": "clip, noise, encode",
    "crypto": "masks and keys",
    "communicate": "send and receive",
    "wait": "wait",
    "evaluate": "evaluate",
}


def section(source: Source) -> Section:
    """Lines, phases and boundaries."""
    spent = source.said.energy
    told = (
        ""
        if isinstance(spent.devices, Absent)
        else " What the devices used is known as a sum over all of a round, with noise in it, and not by phase."
        if source.private
        else " What the devices used is kept as a sum over all of a round."
    )
    text = (f"Energy above what the machines draw when idle.{told}",)
    lines: list[tuple[str, Quantity]] = [
        ("Server", spent.server if isinstance(spent.server, Absent) else spent.server.total),
        ("Devices, all together", spent.devices if isinstance(spent.devices, Absent) else spent.devices.total),
        ("Devices that told nothing, assumed", spent.assumed),
        ("Network between them", spent.network),
    ]
    if not isinstance(spent.server, Absent):
        lines.append(("Server's idle draw, not counted above", spent.server.idle))
    tables = [Table("Energy", COLUMNS, rows(lines))]
    machines = {"server": spent.server, "devices": spent.devices}
    known = {name: one for name, one in machines.items() if not isinstance(one, Absent)}
    phased = {name: one for name, one in known.items() if one.phases}
    if phased:
        tables.append(_phases(phased))
    points = tuple(_boundary(name, one) for name, one in known.items())
    return Section("energy", "Energy", text, _charts(phased, known), None, tuple(tables), "", points)


def _boundary(name: str, one: Energy) -> str:
    covered = "" if one.covered == one.of else f" Known for {one.covered:,} of {one.of:,} attempts or reports."
    return f"What counts for the {name}: {cleaned(one.boundary)}.{covered}"


def _names(phased: dict[str, Energy]) -> list[Phase]:
    return [phase for phase in PHASES if any(phase in one.phases for one in phased.values())]


def _phases(phased: dict[str, Energy]) -> Table:
    factor, unit = scale(max(part.value for one in phased.values() for part in one.phases.values()), "J")
    told = tuple(
        (PHASE_NAMES[phase], *(_ranged(one.phases.get(phase), factor) for one in phased.values()))
        for phase in _names(phased)
    )
    note = f"Only the {next(iter(phased))}'s phases are known." if len(phased) == 1 else ""
    return Table("Energy by phase", ("Phase", *(f"{name.capitalize()} ({unit})" for name in phased)), told, note)


def _ranged(found: Figure | None, factor: float) -> str:
    if found is None:
        return "-"
    if found.low == found.high:
        return digits(found.value / factor)
    return f"{digits(found.value / factor)} ({digits(found.low / factor)} to {digits(found.high / factor)})"


def _charts(phased: dict[str, Energy], known: dict[str, Energy]) -> tuple[Chart, ...]:
    names = _names(phased)
    told = [
        f"{name} {value(one.total)}"
        + (
            ": " + ", ".join(f"{PHASE_NAMES[p]} {value(one.phases[p])}" for p in names if p in one.phases)
            if names
            else ""
        )
        for name, one in known.items()
    ]
    pictures = []
    if names:
        height = 1.1 + 0.32 * len(names) * max(len(phased) * 0.75, 1)
        pictures.append(
            Chart(
                "phases",
                "Energy by phase",
                "; ".join(told) + ".",
                lambda: charts.drawn("phases", lambda axis: _plot(axis, phased, names), height),
                "Lines: the range of each figure.",
            )
        )
    if len(known) > 1:
        pictures.append(
            Chart(
                "machines",
                "Energy of server and devices",
                "; ".join(f"{name} {value(one.total)}" for name, one in known.items()) + ".",
                lambda: charts.drawn("machines", lambda axis: _totals(axis, known), 1.6),
                "Lines: the range of each figure"
                + ("; of the devices, mostly the noise that protects them." if "devices" not in phased else "."),
            )
        )
    return tuple(pictures)


_COLOURS: Final = {"server": charts.BLUE, "devices": charts.ORANGE}


def _plot(axis: Axes, phased: dict[str, Energy], names: list[Phase]) -> None:
    most = max(one.phases[phase].value for one in phased.values() for phase in names if phase in one.phases)
    factor, unit = scale(most, "J")
    found = [[one.phases.get(phase) for phase in names] for one in phased.values()]
    groups = [
        (name, _COLOURS[name], [None if one is None else one.value / factor for one in row])
        for name, row in zip(phased, found, strict=True)
    ]
    ranges = [[(0.0, 0.0) if one is None else (one.low / factor, one.high / factor) for one in row] for row in found]
    charts.bars(axis, [PHASE_NAMES[phase] for phase in names], groups, unit, ranges)


def _totals(axis: Axes, known: dict[str, Energy]) -> None:
    factor, unit = scale(max(one.total.value for one in known.values()), "J")
    values = [one.total.value / factor for one in known.values()]
    ranges = [(one.total.low / factor, one.total.high / factor) for one in known.values()]
    charts.bars(axis, list(known), [("energy", charts.BLUE, values)], unit, [ranges])
