"""Who took part, counted and never named."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from fedsus.reporting.pages import charts, series
from fedsus.reporting.pages.document import Chart, Section, Share, Table
from fedsus.reporting.pages.words import cleaned, counted, digits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from fedsus.journal import RoundReleased
    from fedsus.reporting.pages.source import Source

_MOST_REASONS: int = 8


def section(source: Source) -> Section:
    """Survivors, refusals and losses; attempts that released nothing, and why."""
    there = source.said.participation
    roster = (
        f"Cohorts are chosen from roster {there.roster.number} of the federation "
        f"'{cleaned(there.roster.federation)}', which lists {counted(there.roster.members, 'member')}; devices "
        "check its owners' signatures before they take part."
        if there.roster
        else "The sum was made in clear: no signed roster says who may take part."
    )
    text = (
        f"Each attempt asks {counted(there.cohort, 'client')}. A refusal is a device that does not take part, for its "
        f"owner's reasons, which stay on the device; lost is one that did not answer in time. {roster}",
    )
    released = source.released
    pictures = (_chart(source, released),) if released else ()
    tables = [_reasons(source)] if source.abandoned else []
    if released:
        tables.append(_rounds(released))
    return Section("participation", "Who took part", text, pictures, _totals(source), tuple(tables))


def _totals(source: Source) -> Table:
    there = source.said.participation
    answers = there.survivors + there.refused + there.lost
    rounds = source.specification.config.plan.rounds
    trained = sum(entry.round <= rounds for entry in there.rounds)
    rows = [
        (name, f"{number:,}", _share(number, answers))
        for name, number in (
            ("Answers in the sums", there.survivors),
            ("Refusals", there.refused),
            ("Lost", there.lost),
        )
    ]
    rows += [
        ("Training rounds released", f"{trained:,}", _share(trained, rounds, f"of {rounds:,}")),
        ("Evaluations of the final model", f"{len(there.rounds) - trained:,}", "-"),
        ("Attempts opened", f"{there.attempts:,}", "-"),
        ("Attempts abandoned, with a reason", f"{there.abandoned:,}", _share(there.abandoned, there.attempts)),
        (
            "Attempts cut off by a crash or going on",
            f"{there.cut_off:,}",
            _share(there.cut_off, there.attempts),
        ),
    ]
    return Table("Participation", ("", "Count", "Share"), tuple(rows))


def _share(part: int, whole: int, of: str = "") -> Share | str:
    return Share(part / whole, f"{100 * part / whole:.0f}%{f' {of}' if of else ''}") if whole else "-"


def _reasons(source: Source) -> Table:
    found = Counter(cleaned(entry.reason) for entry in source.abandoned).most_common()
    rows = tuple((reason, f"{count:,}") for reason, count in found[:_MOST_REASONS])
    more = sum(count for _, count in found[_MOST_REASONS:])
    note = f"{more:,} more for other reasons." if more else ""
    return Table("Why attempts released nothing", ("Reason", "Attempts"), rows, note)


def _rounds(released: Sequence[RoundReleased]) -> Table:
    shown = series.thinned(released)
    rows = tuple((str(e.round), str(e.survivors), str(e.refused), str(e.lost), f"{digits(e.seconds)} s") for e in shown)
    note = f"{len(shown)} of {len(released):,} rounds." if len(shown) < len(released) else ""
    return Table("Participation by round", ("Round", "In the sum", "Refused", "Lost", "Took"), rows, note, dense=True)


def _chart(source: Source, released: Sequence[RoundReleased]) -> Chart:
    there, shown = source.said.participation, series.bins(released)
    several = len(shown[0])
    alt = (
        f"Of {there.cohort} asked, {digits(there.survivors / len(released))} on average are in the "
        f"sum, {digits(there.refused / len(released))} refused and {digits(there.lost / len(released))} were lost; "
        f"{counted(there.abandoned, 'attempt')} released nothing."
    )
    notes = [f"Each bar is the mean of {several} rounds."] if several > 1 else []
    if source.abandoned:
        notes.append("Crosses: rounds for which an attempt was abandoned.")
    return Chart(
        "clients",
        "Clients by round",
        alt,
        lambda: charts.drawn("clients", lambda axis: _plot(axis, source, shown)),
        " ".join(notes),
    )


def _plot(axis: Axes, source: Source, shown: Sequence[Sequence[RoundReleased]]) -> None:
    edges = [edge for some in shown for edge in (some[0].round - 0.5, some[-1].round + 0.5)]
    base = [0.0] * len(edges)
    parts = (
        ("in the sum", charts.GREEN, [series.mean([e.survivors for e in some]) for some in shown]),
        ("refused", charts.GREY, [series.mean([e.refused for e in some]) for some in shown]),
        ("lost", charts.ORANGE, [series.mean([e.lost for e in some]) for some in shown]),
    )
    drawn = 0
    for label, colour, values in parts:
        if label != "in the sum" and not any(values):
            continue
        top = [below + value for below, value in zip(base, (v for v in values for _ in range(2)), strict=True)]
        axis.fill_between(edges, base, top, color=colour, linewidth=0, label=label)
        base, drawn = top, drawn + 1
    failed = sorted({entry.round for entry in source.abandoned})
    if failed:
        tall = 1.06 * max([*base, source.said.participation.cohort])
        axis.plot(failed, [tall] * len(failed), "x", color=charts.PINK, markersize=4.5, label="abandoned")
    charts.scalar(axis, "clients")
    charts.rounds(axis, shown[-1][-1].round)
    axis.set_xlim(min([edges[0], *(one - 0.5 for one in failed)]), max([edges[-1], *(one + 0.5 for one in failed)]))
    charts.legend(axis, drawn + bool(failed))
