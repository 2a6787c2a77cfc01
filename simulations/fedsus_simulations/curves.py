"""A run as a picture: its metrics by round, and how many clients took part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedsus.reporting import RunSummary

NAME = "rounds"


def draw(run: RunSummary, folder: Path) -> tuple[Path, Path] | None:
    """Write rounds.png and rounds.svg into ``folder``; None for a run that released nothing."""
    if not run.rounds:
        return None
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = sorted({name for values in run.metrics.values() for name in values})
    mpl.rcParams["svg.hashsalt"] = "fedsus"
    figure, axes = pyplot.subplots(1, len(names) + 1, figsize=(4.2 * (len(names) + 1), 3.2), layout="constrained")
    panels = list(axes) if names else [axes]
    for axis, name in zip(panels, names, strict=False):
        # A round's metrics are of the model it sent out: the one released by the round before.
        points = [(number - 1, values[name]) for number, values in sorted(run.metrics.items()) if name in values]
        axis.plot(*zip(*points, strict=True), marker=".", color="#0072B2")
        axis.set(title=f"{name}, held-out parts", xlabel="rounds")
        axis.grid(alpha=0.3)
    panels[-1].bar([entry.round for entry in run.rounds], list(run.survivors), color="#009E73")
    panels[-1].set(title="clients in the sum", xlabel="round")
    figure.suptitle(run.run, fontsize=10)
    paths = folder / f"{NAME}.png", folder / f"{NAME}.svg"
    figure.savefig(paths[0], dpi=110)
    figure.savefig(paths[1], metadata={"Date": None})
    pyplot.close(figure)
    return paths
