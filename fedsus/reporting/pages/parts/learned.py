"""How well the model did, by the metrics that left the devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.reporting.figures import Absent
from fedsus.reporting.pages import charts, series
from fedsus.reporting.pages.document import Chart, Section, Table
from fedsus.reporting.pages.words import cleaned, digits, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from fedsus.journal import RoundReleased
    from fedsus.reporting.pages.source import Source
    from fedsus.reporting.predicate import Measured, Metric

_MOST: int = 6
"""Metrics that get a picture."""


def section(source: Source) -> Section:
    """Curves and a table of every metric."""
    found = source.said.metrics
    if isinstance(found, Absent):
        return Section("metrics", "How good the model is", (f"Not known: {cleaned(found.absent)}.",))
    noise = " Each value has the run's noise in it: the range is three standard deviations to either side."
    text = (
        "Each device measures the model on examples that it does not train on; what is kept are sums over all devices, "
        "no single device's values. A round's values are of the model that the round began with."
        + (noise if source.private else ""),
    )
    pictures = [_chart(source, place, name, one) for place, (name, one) in enumerate(found.items()) if place < _MOST]
    rows = tuple(
        (cleaned(name), _told(one.first), _told(one.last), _told(one.best), one.better) for name, one in found.items()
    )
    table = Table("Metrics", ("Metric", "First", "Last", "Best", "Better when"), rows)
    return Section("metrics", "How good the model is", text, tuple(pictures), _rounds(source, list(found)), (table,))


def _told(one: Measured) -> str:
    ranged = "" if one.value.low == one.value.high else f" ({span(one.value)})"
    return f"{digits(one.value.value)}{ranged.replace(' 1)', ')')}, round {one.round}"


def _chart(source: Source, place: int, name: str, one: Metric) -> Chart:
    told = [entry for entry in source.released if name in (entry.metrics or {})]
    shown = series.bins(told)
    shown_name, several = cleaned(name)[:40], len(shown[0])
    alt = (
        f"{digits(one.first.value.value)} in round {one.first.round}, "
        f"{digits(one.last.value.value)} in round {one.last.round}, best {digits(one.best.value.value)} in round "
        f"{one.best.round}."
    )
    note = f"Each point is the mean of {several} rounds." if several > 1 else ""
    if source.private:
        note = f"{note} The axis ends where the metric's own range does, also where the noise goes beyond.".strip()
    return Chart(
        f"metric{place}",
        f"{shown_name} by round",
        alt,
        lambda: charts.drawn(f"metric{place}", lambda axis: _plot(axis, source, shown, name)),
        note,
    )


def _plot(axis: Axes, source: Source, shown: Sequence[Sequence[RoundReleased]], name: str) -> None:
    from fedsus.reporting.spending import metric_deviation

    places = [series.mean([entry.round for entry in some]) for some in shown]
    values = [series.mean([(entry.metrics or {})[name] for entry in some]) for some in shown]
    plan, known = source.specification.first_plan, dict[int, float]()
    spreads = []
    for some in shown if source.private else ():
        for entry in some:
            if entry.survivors not in known:
                known[entry.survivors] = metric_deviation(plan, name, entry.survivors)
        spreads.append(3 * sum(known[entry.survivors] ** 2 for entry in some) ** 0.5 / len(some))
    if any(spreads):
        low = [value - spread for value, spread in zip(values, spreads, strict=True)]
        high = [value + spread for value, spread in zip(values, spreads, strict=True)]
        axis.fill_between(places, low, high, color=charts.BLUE, alpha=0.15, linewidth=0, label="range of the noise")
    charts.line(axis, places, values, charts.BLUE, label="sum over the devices")
    if any(spreads):
        charts.legend(axis)
    charts.rounds(axis, shown[-1][-1].round)
    asked = next((metric for metric in plan.metrics if metric.name == name), None)
    if asked is not None and any(spreads):
        low_end, high_end = axis.get_ylim()
        axis.set_ylim(max(low_end, asked.low), min(high_end, asked.high))
    axis.set_ylabel(cleaned(name)[:16])


def _rounds(source: Source, names: Sequence[str]) -> Table:
    told = [entry for entry in source.released if entry.metrics]
    shown = series.thinned(told)
    names = names[:_MOST]
    rows = tuple(
        (str(e.round), *(digits(e.metrics[n]) if e.metrics and n in e.metrics else "-" for n in names)) for e in shown
    )
    note = f"{len(shown)} of {len(told):,} rounds." if len(shown) < len(told) else ""
    return Table("Metrics by round", ("Round", *map(cleaned, names)), rows, note, dense=True)
