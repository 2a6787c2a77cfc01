"""Grams of CO2 equivalent: by source, by hour, and what waiting for cleaner hours did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.reporting.pages import charts, series
from fedsus.reporting.pages.document import Chart, Section, Table
from fedsus.reporting.pages.words import COLUMNS, amount, cleaned, counted, digits, rows, scale, value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fedsus.reporting.figures import Quantity
    from fedsus.reporting.pages.series import Hours
    from fedsus.reporting.pages.source import Source


def section(source: Source) -> Section:
    """Lines, hours and waits."""
    found = source.said.carbon
    text = (
        "Greenhouse gas, as grams of CO2 equivalent, of the electricity that was used, by the grid where the machines "
        "stand (location-based). What making the machines emitted and what the network used are lines of their own: "
        "they are shares of what others measured, and less certain.",
    )
    lines: list[tuple[str, Quantity]] = [
        (f"{line.machine.capitalize()}, {line.kind} intensity{_part(line.covered, line.of)}", line.grams)
        for line in found.operational
    ]
    lines += [
        ("Operational, sum", found.total),
        ("Devices that told nothing, assumed", found.assumed),
        ("Making the server (its share)", found.embodied_server),
        ("Making the devices (their share)", found.embodied_devices),
        ("Network", found.network),
    ]
    sci = (
        ("Per released round", source.said.sci.per_round),
        ("Per accuracy point gained", source.said.sci.per_accuracy_point),
    )
    by_hour = series.hours(source)
    tables = [
        Table("Carbon", COLUMNS, rows(lines)),
        Table("Software carbon intensity (SCI, ISO/IEC 21031): all carbon that is known", COLUMNS, rows(sci)),
    ]
    if by_hour.used():
        tables.append(_hours(by_hour))
    pictures = [*_charts(by_hour), *_waiting(source)]
    points = (f"In the sum: {cleaned(found.boundary)}.", f"In the SCI: {cleaned(source.said.sci.boundary)}.")
    return Section("carbon", "Carbon", text, tuple(pictures), _waits(source), tuple(tables), "", points)


def _part(covered: int, of: int) -> str:
    return "" if covered == of else f" ({covered:,} of {of:,} known)"


def _hours(found: Hours) -> Table:
    factor, unit = scale(max(found.tops()), "g CO2e")
    told = tuple(
        (
            f"{hour:02d}:00-{(hour + 1) % 24:02d}:00",
            _grams(found, "server", hour, factor),
            _grams(found, "devices", hour, factor),
        )
        for hour in found.used()
    )
    noisy = any(found.variance)
    note = "By the server's clock (UTC); what an attempt used is spread evenly over the time that it took."
    if noisy:
        note += (
            " The devices' part has the run's noise in it: 'at most' is three standard deviations more; below zero is "
            "shown as 0."
        )
    head = ("Hour (UTC)", f"Server ({unit})", f"Devices ({unit})")
    return Table("Carbon by hour of the day", head, told, note, dense=True)


def _grams(found: Hours, machine: str, hour: int, factor: float) -> str:
    if machine not in found.known:
        return "not known"
    if machine == "server":
        return digits(max(found.server[hour], 0.0) / factor)
    grams, _, most = found.told(hour)
    shown = digits(grams / factor)
    return f"{shown} (at most {digits(most / factor)})" if found.variance[hour] else shown


def _charts(found: Hours) -> tuple[Chart, ...]:
    used = found.used()
    if not used:
        return ()
    both = found.tops()
    top = max(range(24), key=lambda hour: both[hour])
    alt = (
        f"Most, {amount(both[top], 'g CO2e')}, between {top:02d}:00 and "
        f"{(top + 1) % 24:02d}:00; {counted(len(used), 'hour')} of 24 have any."
    )
    return (
        Chart(
            "hours", "Carbon by hour of the day (UTC)", alt, lambda: charts.drawn("hours", lambda a: _plot(a, found))
        ),
    )


def _plot(axis: Axes, found: Hours) -> None:
    parts = [
        (label, colour, [max(one, 0.0) for one in values])
        for label, colour, values in (
            ("server", charts.BLUE, found.server),
            ("devices", charts.ORANGE, [found.told(hour)[0] for hour in range(24)]),
        )
        if label in found.known
    ]
    tops = found.tops()
    factor, unit = scale(max(tops), "g CO2e")
    base = [0.0] * 24
    for label, colour, values in parts:
        axis.bar(
            [hour + 0.5 for hour in range(24)], [one / factor for one in values], 0.86, base, color=colour, label=label
        )
        base = [below + one / factor for below, one in zip(base, values, strict=True)]
    for hour in (hour for hour in range(24) if found.variance[hour]):
        server, (_, low, high) = max(found.server[hour], 0.0), found.told(hour)
        ends = [(server + low) / factor, (server + high) / factor]
        axis.plot([hour + 0.5] * 2, ends, color=charts.INK, linewidth=1.0)
    axis.set_xlim(0, 24)
    axis.set_xticks(range(0, 25, 4), [f"{hour}:00" for hour in range(0, 25, 4)])
    axis.grid(visible=False, axis="x")
    charts.scalar(axis, unit)
    charts.legend(axis, 2)


def _waits(source: Source) -> Table:
    waited = [entry.waited for entry in source.released]
    asked = source.specification.config.schedule
    policy = (
        "rounds start at once: nothing is put off"
        if asked.policy == "immediate"
        else "rounds may be put off to the hours with the least carbon forecast, by "
        f"{amount(3600 * asked.slack_hours, 's')} in all"
    )
    told = (
        ("Schedule", policy),
        ("Rounds that were put off", f"{sum(one > 0 for one in waited):,} of {len(waited):,}"),
        ("Put off for cleaner hours, in all", value(source.said.time.waited)),
        ("Longest that one round was put off", amount(max(waited, default=0.0), "s")),
    )
    note = (
        "Only the time of a round moves: who is asked is never chosen by a grid, so that the privacy account stays as "
        "it is. What a run waited for devices is not in these figures."
    )
    return Table("Waiting for cleaner hours", ("", "Value"), told, note)


def _waiting(source: Source) -> tuple[Chart, ...]:
    released = source.released
    if not any(entry.waited for entry in released):
        return ()
    shown = series.bins(released, 60)
    longest = max(entry.waited for entry in released)
    alt = f"{value(source.said.time.waited)} in all, at most {amount(longest, 's')} before one round."
    note = f"Each bar is the mean of {len(shown[0])} rounds." if len(shown[0]) > 1 else ""

    def plot(axis: Axes) -> None:
        factor, unit = scale(longest, "s")
        places = [series.mean([entry.round for entry in some]) for some in shown]
        heights = [series.mean([entry.waited for entry in some]) / factor for some in shown]
        axis.bar(places, heights, 0.8 * len(shown[0]), color=charts.GREEN)
        charts.scalar(axis, f"{unit} waited")
        charts.rounds(axis, released[-1].round)
        axis.set_xlim(0.4, released[-1].round + 0.6)

    return (Chart("waits", "Waiting for cleaner hours, by round", alt, lambda: charts.drawn("waits", plot), note),)
