"""Epsilon over the attempts of a planned run, as a picture. Equal plans give equal files."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from fedsus.commands.pictures import save
from fedsus.commands.privacy_text import against, number
from fedsus.errors import ConfigError
from fedsus.privacy.adversaries import ADVERSARIES
from fedsus.protection import ExamplePrivacy, NoPrivacy

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedsus.commands.privacy_admission import Judged
    from fedsus.commands.privacy_plan import Planned
    from fedsus.privacy.adversaries import Adversary

_POINTS: Final = 24
_COLOURS: Final[dict[Adversary, str]] = {"server": "#0072B2", "clients": "#D55E00", "recipients": "#009E73"}
_STYLES: Final[dict[Adversary, str]] = {"server": "-", "clients": "--", "recipients": ":"}


def draw(plan: Planned, judged: Judged | None, file: Path) -> None:
    """Write the picture.

    Raises:
        ConfigError: the run has no differential privacy.
        EnvironmentFault: the file cannot be written.
    """
    if isinstance(plan.specification.privacy, NoPrivacy):
        raise ConfigError("--plot: a run without differential privacy has no epsilon to draw")
    save(_figure(plan, judged), file)


def curves(plan: Planned) -> tuple[list[int], dict[Adversary, list[float]]]:
    """Attempts, evenly on a logarithmic axis, and the protected unit's epsilon against each who it protects from."""
    unit, _ = plan.specification.goal
    last, rounds = plan.attempts, plan.specification.config.plan.rounds
    places = {round(last ** (step / (_POINTS - 1))) for step in range(_POINTS)} | {rounds}
    attempts = sorted(places)
    found = {who: [plan.epsilon(unit, who, count) for count in attempts] for who in ADVERSARIES}
    return attempts, {who: values for who, values in found.items() if math.isfinite(values[-1])}


def _figure(plan: Planned, judged: Judged | None) -> Figure:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "fedsus"
    figure = Figure(figsize=(7.0, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    attempts, found = curves(plan)
    _lines(axis, plan, attempts, found)
    _levels(axis, plan, judged)
    unit, _ = plan.specification.goal
    _scales(axis, plan.attempts)
    axis.set(
        xlabel="attempts, each round being one",
        ylabel=f"epsilon of one {unit} at delta {plan.delta:g}",
    )
    axis.grid(alpha=0.3)
    where = plan.specification.config.plan.privacy.where
    axis.set_title(f"{plan.specification.config.name}: unit {unit}, placement {where}", fontsize=10)
    axis.legend(fontsize=8, framealpha=0.9, loc="lower right")
    return figure


def _scales(axis: Axes, attempts: int) -> None:
    """Logarithmic both ways, since epsilon grows with about the root of the attempts; ticks as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set(xscale="log", yscale="log", xlim=(1, max(attempts, 2)))
    low, high = axis.get_ylim()
    axis.set_ylim(low, 1.2 * high)
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        one.set_minor_formatter(NullFormatter())


def _lines(axis: Axes, plan: Planned, attempts: list[int], found: dict[Adversary, list[float]]) -> None:
    alike = len({tuple(values) for values in found.values()}) == 1 and isinstance(
        plan.specification.privacy, ExamplePrivacy
    )
    for who, values in list(found.items())[: 1 if alike else None]:
        label = "everyone" if alike else against(plan, who)
        axis.plot(attempts, values, _STYLES[who], color=_COLOURS[who], label=f"against {label}: {number(values[-1])}")
    for who in ADVERSARIES:
        if who not in found:  # named, lest the others' curves be taken for everyone's
            axis.plot([], [], _STYLES[who], color=_COLOURS[who], label=f"against {against(plan, who)}: none")
    rounds = plan.specification.config.plan.rounds
    if plan.attempts > rounds:
        axis.axvspan(rounds, plan.attempts, color="#8A8A8A", alpha=0.15, linewidth=0, label="spare attempts")


def _levels(axis: Axes, plan: Planned, judged: Judged | None) -> None:
    privacy = plan.specification.privacy
    asked = math.inf if isinstance(privacy, NoPrivacy) else privacy.epsilon
    axis.axhline(asked, color="black", linewidth=0.8, label=f"asked for: {asked:g}")
    for cap in sorted(set(judged.caps.values()) - {0.0}) if judged is not None else ():
        whom = [who for who, value in judged.caps.items() if value == cap] if judged is not None else []
        label = f"the owner's cap: {cap:g}" + ("" if len(whom) == len(ADVERSARIES) else f", against {', '.join(whom)}")
        axis.axhline(cap, color="#CC79A7", linewidth=1.2, linestyle="-.", label=label)
