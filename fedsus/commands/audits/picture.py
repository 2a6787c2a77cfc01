"""Claims and bounds of an audit as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedsus.commands.pictures import save

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from fedsus.commands.audits.report import Report

_CLAIM, _SEEN, _REFUTED = "#8A8A8A", "#0072B2", "#D55E00"
_ROW: Final = 0.34
"""Inches."""


def draw(report: Report, file: Path) -> None:
    """Write the picture, .svg or .png.

    Raises:
        EnvironmentFault: the file cannot be written.
    """
    save(_figure(report), file)


def _figure(report: Report) -> Figure:
    """A bar a claim, and in it the part that the draws show."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "fedsus"
    rows = [(finding, bound) for finding in report.findings for bound in finding.bounds]
    figure = Figure(figsize=(7.5, 1.4 + _ROW * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    places = range(len(rows))
    axis.barh(places, [bound.claim for _, bound in rows], color=_CLAIM, alpha=0.35, label="claimed at most")
    for refuted, colour, label in ((False, _SEEN, "seen at least"), (True, _REFUTED, "seen at least: refuted")):
        some = [(place, bound.lower) for place, (_, bound) in zip(places, rows, strict=True) if bound.broken == refuted]
        if some:
            axis.barh([place for place, _ in some], [lower for _, lower in some], height=0.4, color=colour, label=label)
    names = [
        f"{finding.block}, {'/'.join(finding.adversaries)}, "
        f"{'all rounds' if finding.rounds is None else f'{finding.rounds} round' + 's' * (finding.rounds > 1)}, "
        f"delta {bound.delta:g}"
        for finding, bound in rows
    ]
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("epsilon")
    axis.legend(fontsize=8, loc="lower right")
    broken = "" if report.broken is None else f", broken on purpose: {report.broken}"
    axis.set_title(report.planned.specification.config.name + broken, fontsize=10)
    return figure
