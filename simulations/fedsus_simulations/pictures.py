"""A picture in two files, one for screens and one for print."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure


def saved(figure: Figure, base: Path, dpi: int = 110) -> tuple[Path, Path]:
    """Write ``base`` + .png and .svg, into a folder that is made, and close the figure."""
    from matplotlib import pyplot

    base.parent.mkdir(parents=True, exist_ok=True)
    paths = base.with_name(f"{base.name}.png"), base.with_name(f"{base.name}.svg")
    figure.savefig(paths[0], dpi=dpi)
    figure.savefig(paths[1], metadata={"Date": None})
    pyplot.close(figure)
    return paths
