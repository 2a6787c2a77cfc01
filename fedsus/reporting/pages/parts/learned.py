"""How well the model did, by the metrics that left the devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.reporting import noise
from fedsus.reporting.figures import Absent
from fedsus.reporting.pages import charts, series
from fedsus.reporting.pages.document import Chart, Section, Table
from fedsus.reporting.pages.words import cleaned, digits, span
from fedsus.reporting.predicate import Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from fedsus.journal import RoundReleased
    from fedsus.reporting.pages.source import Source
    from fedsus.reporting.predicate import Measured

_MOST: int = 6
"""Metrics that get a picture."""


def section(source: Source) -> Section:
    """Curves and a table of every metric."""
    found = source.said.metrics
    if isinstance(found, Absent):
        return Section("metrics", "How good the model is", (f"Not known: {cleaned(found.absent)}.",))
    noisy = (
        " Each value has the run's noise in it: the range is three standard deviations to either side, as far as the "
        "metric's own range goes. Values of which noise hides nearly everything are left out."
    )
    text = (
        "Each device measures the model on examples that it does not train on; what is kept are sums over all devices, "
        "no single device's values. A round's values are of the model that the round began with."
        + (noisy if source.private else ""),
    )
    known = {name: one for name, one in found.items() if isinstance(one, Metric)}
    pictures = [_chart(source, place, name, one) for place, (name, one) in enumerate(known.items()) if place < _MOST]
    rows = tuple(_row(name, one) for name, one in found.items())
    table = Table("Metrics", ("Metric", "First", "Last", "Best", "Better when"), rows)
    beside = _rounds(source, list(known)) if known else None
    return Section("metrics", "How good the model is", text, tuple(pictures), beside, (table,))


def _row(name: str, one: Metric | Absent) -> tuple[str, str, str, str, str]:
    if isinstance(one, Absent):
        return cleaned(name), f"not known: {cleaned(one.absent)}", "-", "-", "-"
    return cleaned(name), _told(one.first), _told(one.last), _told(one.best), one.better


def _seen(source: Source, name: str) -> list[RoundReleased]:
    """The releases whose value of a metric is told."""
    plan = source.specification.first_plan
    told = [entry for entry in source.released if name in (entry.metrics or {})]
    return [entry for entry in told if noise.hidden_metric(plan, name, entry.survivors) is None]


def _value(source: Source, name: str, entry: RoundReleased) -> float:
    """As it is told: within the metric's own range."""
    value = (entry.metrics or {})[name]
    return noise.metric_within(source.specification.first_plan, name, value, entry.survivors)[0]


def _told(one: Measured) -> str:
    ranged = "" if one.value.low == one.value.high else f" ({span(one.value)})"
    return f"{digits(one.value.value)}{ranged.replace(' 1)', ')')}, round {one.round}"


def _chart(source: Source, place: int, name: str, one: Metric) -> Chart:
    shown = series.bins(_seen(source, name))
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
    values = [series.mean([_value(source, name, entry) for entry in some]) for some in shown]
    plan, known = source.specification.first_plan, dict[int, float]()
    spreads = []
    for some in shown if source.private else ():
        for entry in some:
            if entry.survivors not in known:
                known[entry.survivors] = metric_deviation(plan, name, entry.survivors)
        spreads.append(noise.WIDE * sum(known[entry.survivors] ** 2 for entry in some) ** 0.5 / len(some))
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
    seen = {name: {entry.round: digits(_value(source, name, entry)) for entry in _seen(source, name)} for name in names}
    rows = tuple((str(e.round), *(seen[name].get(e.round, "-") for name in names)) for e in shown)
    note = f"{len(shown)} of {len(told):,} rounds." if len(shown) < len(told) else ""
    return Table("Metrics by round", ("Round", *map(cleaned, names)), rows, note, dense=True)
