"""The tables of `secure_scaling` as a picture: four panels over the number of clients, a line for each vector size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsus_simulations.pictures import saved

if TYPE_CHECKING:
    from fedsus_simulations.benchmarks.result import Table

NAME: Final = "secure-scaling"
PANELS: Final = (
    (0, "s", "Flower s", "processor seconds of a client"),
    (0, "up KB", "Flower KB", "upload of a client, KB"),
    (1, "s", None, "seconds of the server"),
    (1, "MB", None, "memory of the server, MB"),
)
"""Which table, ours, the peer's, title."""
_COLOURS: Final = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00")
_RUN: Final = "run"
_PEER: Final = "dashed: Flower's client; filled: all clients run; hollow: a sample, multiplied for the server"


def draw(client: Table, server: Table, folder: Path) -> tuple[Path, Path]:
    """Write secure-scaling.png and .svg into ``folder``, which is made; log axes on both sides."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = [[dict(zip(table.columns, row, strict=True)) for row in table.rows] for table in (client, server)]
    mpl.rcParams["svg.hashsalt"] = "fedsus"
    figure, axes = pyplot.subplots(2, 2, figsize=(9.6, 7.0), layout="constrained")
    for axis, (table, ours, peer, title) in zip(axes.flat, PANELS, strict=True):
        _panel(axis, rows[table], ours, peer)
        axis.set(title=title, xlabel="clients", xscale="log", yscale="log")
        axis.grid(alpha=0.3)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), title="parameters", loc="outside lower center", ncols=5)
    figure.suptitle(f"One secure sum ({_PEER})", fontsize=10)
    return saved(figure, folder / NAME)


def _panel(axis: Any, rows: list[dict[str, Any]], ours: str, peer: str | None) -> None:
    sizes = sorted({row["size"] for row in rows})
    for size, colour in zip(sizes, _COLOURS, strict=False):
        line = sorted((row for row in rows if row["size"] == size), key=lambda row: row["clients"])
        clients = [row["clients"] for row in line]
        axis.plot(clients, [row[ours] for row in line], color=colour, label=f"{size:,}")
        for row in line:
            fill = colour if row["how"] == _RUN else "white"
            axis.plot(row["clients"], row[ours], "o", color=colour, markerfacecolor=fill, markersize=5)
        if peer is not None:
            axis.plot(clients, [row[peer] for row in line], "--", color=colour, linewidth=1)
