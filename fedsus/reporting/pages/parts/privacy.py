"""What anybody may learn about one protected person, and against whom that holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedsus.reporting.figures import Absent
from fedsus.reporting.pages import charts, series
from fedsus.reporting.pages.document import Chart, Section, Share, Table
from fedsus.reporting.pages.words import chance, cleaned, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fedsus.privacy.adversaries import Adversary
    from fedsus.reporting.pages.source import Source
    from fedsus.reporting.predicate import Loss

UNITS: Final = {"example": "one example (a row)", "patient": "one patient", "client": "all data of one client"}
AGAINST: Final = {
    "server": "the operator of the server",
    "clients": "other clients",
    "recipients": "who receives the model",
}
_NOISE: Final = {
    "local": "Each device adds its own noise before anything leaves it.",
    "distributed": "Each device adds a share of the noise, and only the masked sum holds enough of it.",
    "central": "The server adds the noise to the sum: who operates it sees the sum without.",
}


def section(source: Source) -> Section:
    """The account, its curve and its assumptions; and the secure sum."""
    spent = source.said.privacy
    goal = next((loss for loss in spent.losses if loss.goal), None)
    tables = (_account(source),)
    if goal is None:
        text = (
            "This run had no differential privacy. Nothing limits what its model, or the sums that were released, may "
            "tell about one person: epsilon is infinite for everybody. Whether that is acceptable depends on who sees "
            "the model.",
        )
        return Section("privacy", "Privacy", text, (), _secure(source), tables)
    noise = _NOISE[spent.placement] if spent.placement else ""
    text = (
        f"The run protects {UNITS[goal.unit]} against {AGAINST[goal.adversary]}: epsilon {epsilon(goal)} of "
        f"{spent.asked_epsilon or 0:g} that were asked for, with delta {chance(goal.delta or 1)}. {noise} "
        f"{counted(spent.attempts, 'attempt')} count, also those that released nothing. These numbers are upper "
        "bounds: computed from the plan, not measured.",
    )
    before = f"The epsilon of {UNITS[goal.unit]} against {AGAINST[goal.adversary]} is that on these assumptions:"
    points = tuple(f"{cleaned(one)}." for one in goal.assumptions)
    return Section("privacy", "Privacy", text, _charts(source, goal), _secure(source), tables, before, points)


def epsilon(loss: Loss) -> str:
    """As a person reads it."""
    return "infinite" if isinstance(loss.epsilon, str) else f"{loss.epsilon:g}"


def _account(source: Source) -> Table:
    losses = {(loss.unit, loss.adversary): loss for loss in source.said.privacy.losses}
    rows = []
    for unit, name in UNITS.items():
        cells = []
        for who in AGAINST:
            found = next((loss for key, loss in losses.items() if key == (unit, who)), None)
            shown = "not known" if found is None else epsilon(found)
            shown = "no protection" if shown == "infinite" else shown
            cells.append(f"{shown} (the run's goal)" if found is not None and found.goal else shown)
        rows.append((name, *cells))
    head = ("Epsilon of ...", *(f"against {who}" for who in AGAINST.values()))
    note = "Smaller protects more. 'No protection': no bound is claimed (epsilon is infinite)."
    return Table("What was spent, for whom, against whom", head, tuple(rows), note)


def _secure(source: Source) -> Table:
    found = source.said.secure_sum
    caption = "The secure sum: who could see a single client's update"
    if isinstance(found, Absent):
        return Table(caption, ("", "Value"), (("Secure sum", f"none: {cleaned(found.absent)}"),))
    choices = {
        "whole": "the whole roster",
        "drawn": "drawn by the roster's seed",
        "named": "named by the server; each device checks that they are on the roster",
    }
    rows = (
        ("Single updates", "masked: the server sees sums alone"),
        ("Who is asked", choices[found.choice]),
        ("Clients that may work with the server", f"at most {found.colluders:,} of each cohort"),
        ("Clients that may drop out", f"at most {found.dropouts:,} of each cohort"),
        ("Fewest clients in a sum", f"{found.minimum:,}; below, nothing is released"),
        ("Shares that rebuild a mask", f"{found.threshold:,} of {found.neighbours:,}"),
    )
    note = (
        "As it was planned: a simulation may leave masks out, since sums without are the same."
        if source.virtual
        else ""
    )
    return Table(caption, ("", "Value"), rows, note)


def _charts(source: Source, goal: Loss) -> tuple[Chart, ...]:
    attempts, found = series.epsilons(source)
    if not found:
        return ()
    asked, used = source.said.privacy.asked_epsilon or 0.0, source.said.participation.attempts
    alt = (
        f"{epsilon(goal)} after the {counted(used, 'attempt')} of this run; the cap is {asked:g}, calibrated for "
        f"{source.specification.attempts:,} attempts."
    )
    note = "Dots: where the run stands. Beyond them: what further attempts would spend."
    return (
        Chart(
            "epsilon",
            f"Epsilon of {UNITS[goal.unit]} over attempts",
            alt,
            lambda: charts.drawn("epsilon", lambda axis: _plot(axis, attempts, found, asked, used), 2.9),
            note,
        ),
    )


def _plot(axis: Axes, attempts: list[int], found: dict[Adversary, list[float]], asked: float, used: int) -> None:
    styles: dict[Adversary, tuple[str, str]] = {
        "server": ("-", charts.BLUE),
        "clients": ("--", charts.ORANGE),
        "recipients": (":", charts.GREEN),
    }
    alike = len(found) == len(styles) and len({tuple(values) for values in found.values()}) == 1
    for who, values in list(found.items())[: 1 if alike else None]:
        style, colour = styles[who]
        label = "everyone" if alike else AGAINST[who].replace("the operator of the ", "")
        axis.plot(attempts, values, style, color=colour, label=f"against {label}")
        if used in attempts:
            axis.plot([used], [values[attempts.index(used)]], "o", color=colour, markersize=5)
    axis.axhline(asked, color=charts.PINK, linewidth=1.2, linestyle="-.", label=f"cap {asked:g}")
    charts.scalar(axis, "epsilon")
    charts.rounds(axis, attempts[-1], "attempts")
    charts.legend(axis, 2)


def budget(source: Source) -> tuple[str, str, str, Share | str]:
    """Name, cap, used and share of it: a row of the budgets."""
    goal = next((loss for loss in source.said.privacy.losses if loss.goal), None)
    asked = source.said.privacy.asked_epsilon
    if goal is None or asked is None:
        return "Epsilon", "none", "infinite: no differential privacy", "-"
    if isinstance(goal.epsilon, str):
        return "Epsilon", f"{asked:g}", "infinite", "-"
    part = goal.epsilon / asked
    return f"Epsilon of {UNITS[goal.unit]}", f"{asked:g}", epsilon(goal), Share(part, f"{100 * part:.0f}%")
