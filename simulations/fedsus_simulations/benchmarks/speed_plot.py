"""Seconds a round of a simulation, ours and its peers, as a picture: a panel for each benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fedsus_simulations.pictures import saved

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fedsus_simulations.benchmarks.result import Figure, Result

NAME: Final = "simulate"
LIMIT: Final = "arithmetic limit"
_OURS, _PEER, _LIMIT = "#0072B2", "#999999", "#E69F00"


def sides(result: Result) -> dict[str, Figure]:
    """Whose seconds a round a result compares: fedsus first, then all that it was measured against as a whole."""
    same = {label: row.peer for label, row in result.figures.items() if row.ours == result.ours}
    return {result.ours.what: result.ours, result.peer.what: result.peer, **same}


def draw(results: Sequence[Result], folder: Path) -> tuple[Path, Path]:
    """Write simulate.png and .svg into ``folder``, which is made; a log axis from the fastest to the slowest."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mpl.rcParams["svg.hashsalt"] = "fedsus"
    counts = [len(sides(result)) for result in results]
    figure, axes = pyplot.subplots(
        len(results),
        1,
        figsize=(8.0, 0.8 + 0.75 * len(results) + 0.32 * sum(counts)),
        height_ratios=counts,
        layout="constrained",
        squeeze=False,
    )
    for axis, result in zip(axes[:, 0], results, strict=True):
        _panel(axis, result)
    return saved(figure, folder / NAME)


def _panel(axis: Any, result: Result) -> None:
    rows = sides(result)
    for at, (name, row) in enumerate(rows.items()):
        colour = _OURS if row == result.ours else _LIMIT if name == LIMIT else _PEER
        axis.barh(at, row.median, color=colour, height=0.65)
        axis.plot([row.min, row.max], [at, at], color="black", linewidth=1)
        axis.annotate(f"{row.median:.3g} s", (row.max, at), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), rows.keys(), fontsize=8)
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="seconds a round: median, and from the least to the most")
    axis.set_title(result.name, fontsize=10, loc="left")
    axis.margins(x=0.12)
    axis.grid(axis="x", alpha=0.3)
