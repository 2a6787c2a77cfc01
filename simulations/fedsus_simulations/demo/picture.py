"""The demo's result as a picture: what each answer is worth at each hospital."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus_simulations.demo.study import CLEAR, HOSPITALS, SECURE
from fedsus_simulations.pictures import saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fedsus_simulations.demo.results import Answer, Results, Row

NAME: Final = "demo"
# Okabe and Ito's palette: told apart by colour-blind readers too.
_COLOURS: Final = {
    "alone": "#999999",
    "federated": "#0072B2",
    "in-clear": "#56B4E9",
    "epsilon-8": "#009E73",
    "epsilon-3": "#E69F00",
    "pooled": "#CC79A7",
}


def draw(results: Results, folder: Path) -> tuple[Path, Path]:
    """Write demo.png and demo.svg into ``folder``."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "fedsus"
    figure, axes = pyplot.subplots(
        1, 4, figsize=(13, 4.4), layout="constrained", gridspec_kw={"width_ratios": [5, 5, 1, 1]}
    )
    axes[1].sharey(axes[0])
    axes[1].tick_params(labelleft=False)
    _panel(axes[0], results, "auc")
    _panel(axes[1], results, "accuracy")
    axes[0].set_title("ROC-AUC (line: 95% interval; dashes: 5 seeds)", fontsize=10)
    axes[1].set_title("Accuracy (dashes: 5 seeds)", fontsize=10)
    axes[0].set_ylim(0.5, 1.0)
    _cost(axes[2], results, "seconds a round", lambda answer: answer.round_seconds, "%.2f")
    _cost(axes[3], results, "kB a round", lambda answer: (answer.round_bytes or 0) / 1000, "%.1f")
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle(f"Four hospitals, one heart-disease model, {results.rounds} rounds: held-out patients", fontsize=12)
    return saved(figure, folder / NAME)


def _panel(axes: Axes, results: Results, measure: str) -> None:
    width = 0.7 / len(results.answers)
    for number, answer in enumerate(results.answers):
        colour = _COLOURS[answer.name]
        for place, row in enumerate(answer.rows):
            x = place + (number - (len(results.answers) - 1) / 2) * width
            _mark(axes, x, row, measure, colour, answer.title if place == 0 else "_nolegend_")
    for place, row in enumerate(results.answers[0].rows):
        if getattr(row.judged, measure) is None:
            axes.text(place, 0.52, "fewer than 5\nhealthy patients", ha="center", fontsize=8, color="#555555")
        if place:
            axes.axvline(place - 0.5, color="#dddddd", linewidth=0.8)
    axes.set_xticks(range(len(HOSPITALS)), list(HOSPITALS.values()), fontsize=9)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _cost(axes: Axes, results: Results, title: str, value: Callable[[Answer], float | None], label: str) -> None:
    """What a round costs, with secure aggregation and in clear."""
    both = [results.answer(answer.name) for answer in (SECURE, CLEAR)]
    bars = axes.bar([0, 1], [value(one) or 0.0 for one in both], color=[_COLOURS[one.name] for one in both])
    axes.bar_label(bars, fmt=label, fontsize=8)
    axes.set_title(title, fontsize=10)
    axes.set_xticks([0, 1], ["secure", "clear"], fontsize=9)
    axes.set_yticks([])
    axes.margins(x=0.15, y=0.12)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _mark(axes: Axes, x: float, row: Row, measure: str, colour: str, label: str) -> None:
    """One answer at one hospital: interval, seeds, and the deployed run's value."""
    value = getattr(row.judged, measure)
    if value is None:
        return
    if measure == "auc" and row.judged.low is not None and row.judged.high is not None:
        axes.plot([x, x], [row.judged.low, row.judged.high], color=colour, linewidth=1.6, alpha=0.6)
    seeds = [getattr(judged, measure) for judged in row.seeds]
    axes.plot([x] * len(seeds), seeds, "_", color="black", markersize=7, markeredgewidth=0.8)
    axes.plot([x], [value], "o", color=colour, markersize=6, label=label)
