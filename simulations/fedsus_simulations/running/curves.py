"""A run as a picture: metrics, epsilon, bytes, seconds and clients by round, for five rounds or for thousands.

Equal folders give equal files, byte for byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsus.reporting import summary
from fedsus.rounds.planning.specification import specification_of
from fedsus_simulations.running import evaluation
from fedsus_simulations.running.saved import write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedsus.reporting import RunSummary
    from fedsus_simulations.running.evaluation import Metrics

NAME: Final = "rounds"
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
_FEW: Final = 40
"""Up to so many points each has a mark."""
_COLUMNS: Final = 3
_EPSILONS: Final = 8
_BINS: Final = 100


def draw(folder: Path) -> tuple[Path, Path] | None:
    """Write rounds.png and rounds.svg into a run's ``folder``; None for a run that released nothing.

    Raises:
        EnvironmentFault: they cannot be written.
    """
    run = summary(folder)
    if not run.rounds:
        return None
    central = evaluation.read(folder)
    names = sorted({name for values in (*run.metrics.values(), *central.values()) for name in values})
    spent = epsilons(run)
    count = len(names) + (spent is not None) + 3
    figure, panels = figure_of(count)
    for name in names:
        _metric(panels.pop(0), name, run, central)
    if spent is not None:
        axis = panels.pop(0)
        axis.plot(*spent, **_style(len(spent[0]), BLUE))
        axis.set(title="epsilon, planned", ylim=(0, None))
        axis.set_ylabel(_whom(run), fontsize=8)
    _bytes(panels.pop(0), run)
    _seconds(panels.pop(0), run)
    _clients(panels.pop(0), run)
    figure.suptitle(run.run, fontsize=10)
    return save(figure, folder / NAME)


def save(figure: Figure, base: Path) -> tuple[Path, Path]:
    """Write ``base`` + .png and .svg; the same figure gives the same bytes."""
    paths = base.with_name(f"{base.name}.png"), base.with_name(f"{base.name}.svg")
    write(paths[0], lambda path: figure.savefig(path, dpi=110, metadata={"Software": None}))
    write(paths[1], lambda path: figure.savefig(path, metadata={"Date": None}))
    return paths


def figure_of(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels in rows of three."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    mpl.rcParams["svg.hashsalt"] = "fedsus"
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(4.0 * columns, 2.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
    for axis in panels:
        axis.grid(alpha=0.3)
        axis.set_xlabel("round")
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure, panels


def _style(points: int, colour: str) -> dict[str, Any]:
    few = points <= _FEW
    return {"color": colour, "marker": "." if few else "", "linewidth": 1.4 if few else 1.0}


def _metric(axis: Axes, name: str, run: RunSummary, central: dict[int, Metrics]) -> None:
    # A round's metrics are of the model it sent out: the one released by the round before.
    clients = [(number - 1, values[name]) for number, values in sorted(run.metrics.items()) if name in values]
    tested = [(number, values[name]) for number, values in sorted(central.items()) if name in values]
    for points, label, colour in ((clients, "clients' held-out parts", BLUE), (tested, "test part", ORANGE)):
        if points:
            axis.plot(*zip(*points, strict=True), label=label, **_style(len(points), colour))
    axis.set(title=name)
    axis.legend(fontsize=8, frameon=False)


def _bytes(axis: Axes, run: RunSummary) -> None:
    numbers = [entry.round for entry in run.rounds]
    down, up = _sums([entry.bytes_sent for entry in run.rounds]), _sums([entry.bytes_received for entry in run.rounds])
    unit, factor = _unit(max(down[-1], up[-1]))
    for values, label, colour in ((down, "to the clients", BLUE), (up, "from the clients", ORANGE)):
        axis.plot(numbers, [value / factor for value in values], label=label, **_style(len(numbers), colour))
    axis.set(title=f"{unit} so far", ylim=(0, None))
    axis.legend(fontsize=8, frameon=False)


def _seconds(axis: Axes, run: RunSummary) -> None:
    numbers = [entry.round for entry in run.rounds]
    real = [entry.seconds for entry in run.rounds]
    axis.plot(numbers, real, label="real", **_style(len(numbers), BLUE))
    clock = [entry.virtual or 0.0 for entry in run.rounds]
    if clock[-1] > 0:
        virtual = [now - before for before, now in zip([0.0, *clock], clock, strict=False)]
        axis.plot(numbers, virtual, label="virtual", **_style(len(numbers), ORANGE))
        axis.legend(fontsize=8, frameon=False)
    axis.set(title="seconds a round", yscale="log")


def _clients(axis: Axes, run: RunSummary) -> None:
    """Of thousands of rounds the mean of each few is shown: single ones would be a smear."""
    several = -(-len(run.rounds) // _BINS)
    bins = [run.rounds[start : start + several] for start in range(0, len(run.rounds), several)]
    parts = (
        ([sum(entry.survivors for entry in some) / len(some) for some in bins], "in the sum", GREEN),
        ([sum(entry.lost for entry in some) / len(some) for some in bins], "lost", ORANGE),
        ([sum(entry.refused for entry in some) / len(some) for some in bins], "refused", GREY),
    )
    shown = [part for part in parts if part[1] == "in the sum" or any(part[0])]
    axis.stackplot(
        [edge for some in bins for edge in (some[0].round - 0.5, some[-1].round + 0.5)],
        *([value for value in values for _ in range(2)] for values, _, _ in shown),
        labels=[label for _, label, _ in shown],
        colors=[colour for _, _, colour in shown],
        linewidth=0,
    )
    axis.set(title="clients asked", ylim=(0, None))
    axis.legend(fontsize=8, loc="lower right", framealpha=0.9)


def epsilons(run: RunSummary) -> tuple[list[int], list[float]] | None:
    """Planned epsilon after some of the rounds: each takes a fifth of a second. None without DP."""
    if run.opened is None:
        return None
    specification = specification_of(run.opened)
    if specification.privacy.unit == "none":
        return None
    from fedsus_server.progress import planned_epsilon

    last = len(run.rounds) - 1
    chosen = sorted({round(last * (step / (_EPSILONS - 1)) ** 2) for step in range(_EPSILONS)})
    found = [(run.rounds[at].round, planned_epsilon(specification, run.rounds[at].attempt)) for at in chosen]
    known = [(number, value) for number, value in found if value is not None]
    return [number for number, _ in known], [value for _, value in known]


def _whom(run: RunSummary) -> str:
    """Whom epsilon is against."""
    from fedsus_server.progress import against

    return "" if run.opened is None else against(specification_of(run.opened))


def _sums(values: Sequence[int]) -> list[int]:
    from itertools import accumulate

    return list(accumulate(values))


def _unit(largest: float) -> tuple[str, float]:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if largest >= factor:
            return unit, factor
    return "bytes", 1.0
