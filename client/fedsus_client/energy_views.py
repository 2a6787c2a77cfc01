"""What this device used, as its owner reads it: days, phases, budget; and plain data for a program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from fedsus.costs import PHASES
from fedsus.owner import days
from fedsus.owner.consumed import NOTHING, Consumed
from fedsus.owner.day_budget import Bar, Standing, quantity
from fedsus.owner.energy_record import Interval, looked_at
from fedsus.owner.policy import DayBudget
from fedsus.types import Clock

_WIDTH: Final = 24
_FIELDS: Final = ("seconds", "low", "high", "idle", "unpriced", "unmeasured", "method")
COLUMNS: Final = (
    *("time", "run", "round", "attempt", "joules", *(f"joules_{phase}" for phase in PHASES), *_FIELDS),
    *("grams_average", "grams_marginal", "sources", "boundaries"),
)
"""Of the rows of an export; joules, grams (CO2e) and seconds."""


class Book:
    """A record, read once.

    Args:
        path: of the record; an agent may be writing it.
        clock: seconds since the epoch.

    Raises:
        CorruptionError, EnvironmentFault: as `fedsus.owner.energy_record.looked_at`.
    """

    def __init__(self, path: Path, budget: DayBudget, clock: Clock) -> None:
        (self.intervals, recent), self.budget = looked_at(path), budget
        last = self.intervals[-1].time if self.intervals else 0.0
        self.standing: Standing = recent.standing(budget, max(clock(), last))

    def days(self, many: int) -> dict[str, Consumed]:
        """What was used on each of the last days that have anything, the oldest first."""
        since = days.begins(self.standing.now, self.budget.zone) - (many - 1) * days.DAY - 2 * 3600
        found: dict[str, Consumed] = {}
        for interval in self.intervals:
            if interval.time >= since:
                name = days.named(interval.time, self.budget.zone)
                found[name] = found.get(name, NOTHING) + interval.used
        return dict(list(found.items())[-many:])


def show(book: Book, many: int) -> None:
    """Print days, phases and budget."""
    from rich.console import Console

    found = book.days(many)
    console = Console()
    if found:
        console.print(_days_table(found))
        console.print()
        console.print(_phases_table(sum(found.values(), NOTHING)))
        click.echo()
    else:
        click.echo("nothing was used yet")
    for line in (*_remarks(sum(found.values(), NOTHING)), *budget_lines(book.standing)):
        click.echo(line)


def plain(book: Book, many: int) -> dict[str, Any]:
    """As plain data."""
    standing = book.standing
    bars = [
        {"name": bar.name, "cap": bar.cap, "used": bar.used, "left": bar.left}
        | {"round": bar.round, "largest_round": bar.largest}
        for bar in standing.bars
    ]
    return {
        "zone": book.budget.zone,
        "today": days.named(standing.now, book.budget.zone),
        "days": [{"day": day, "total": used.total} | used.written() for day, used in book.days(many).items()],
        "budget": bars,
        "sits_out": standing.too_little(),
    }


def rows(intervals: Sequence[Interval]) -> Iterator[list[Any]]:
    """The record, a row each, after the titles."""
    yield list(COLUMNS)
    for one in intervals:
        used, kinds = one.used, one.used.grams
        yield [
            datetime.fromtimestamp(one.time, UTC).isoformat(timespec="milliseconds"),
            *(one.attempt or ("", "", "")),
            used.total,
            *(used.joules.get(phase, 0.0) for phase in PHASES),
            *(getattr(used, name) for name in _FIELDS),
            *(kinds[kind].value if kind in kinds else "" for kind in ("average", "marginal")),
            "; ".join(used.sources),
            "; ".join(used.boundaries),
        ]


def today(standing: Standing) -> str:
    """One line about today, for `fedsus client status`."""
    used = standing.today
    if not used.measured:
        return "nothing was used today" if not used.unmeasured else "not measured today"
    caps = "; ".join(f"{bar} ({_share(bar)})" for bar in standing.bars)
    text = caps or quantity(used.total, "J") + (f", {_grams(used)[0]} g CO2e" if used.grams else "")
    return f"{text} today, {used.method}"


def budget_lines(standing: Standing) -> Iterator[str]:
    """Each cap as a bar, and whether this device sits rounds out."""
    for bar in standing.bars:
        full = min(round(_WIDTH * bar.used / bar.cap), _WIDTH)
        round_takes = f", a round takes {quantity(bar.round, bar.unit)}" if bar.round else ""
        yield f"{bar.name:<7}[{'#' * full}{'.' * (_WIDTH - full)}] {bar} today ({_share(bar)}){round_takes}"
    reason = standing.too_little()
    if reason is not None:
        yield f"sits rounds out: {reason}"


def _days_table(found: dict[str, Consumed]) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("day", "J", "low to high", "g CO2e", "low to high", "method"):
        table.add_column(title, no_wrap=True, justify="left" if title in ("day", "method") else "right")
    for day, used in found.items():
        if not used.measured:
            table.add_row(day, "not measured")
            continue
        table.add_row(day, f"{used.total:.4g}", _span(used.low, used.high), *_grams(used), used.method)
    return table


def _grams(used: Consumed) -> tuple[str, str]:
    """Grams of what is priced, and their range; a mark where they are of a part alone."""
    if not used.grams:
        return "not known", ""
    kinds = used.grams.values()
    span = _span(sum(one.low for one in kinds), sum(one.high for one in kinds))
    return f"{'at least ' if used.unpriced else ''}{used.carbon:.3g}", span


def _span(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


def _phases_table(used: Consumed) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("phase", "J", "share"):
        table.add_column(title, no_wrap=True, justify="left" if title == "phase" else "right")
    for phase in PHASES:
        joules = used.joules.get(phase, 0.0)
        table.add_row(phase, f"{joules:.4g}", f"{joules / used.total:.1%}" if used.total else "")
    return table


def _remarks(used: Consumed) -> Iterator[str]:
    """Where the figures are from, and what is not in them."""
    if used.sources:
        yield f"J: joules above what the machine draws when idle, which was {quantity(used.idle, 'J')} meanwhile"
        yield f"source:   {'; '.join(used.sources)}"
        yield f"boundary: {'; '.join(used.boundaries)}"
    for one in used.grams.values():
        yield f"carbon:   {one.kind}, {one.method}: {one.source}"
    if used.unpriced:
        yield f"carbon of {quantity(used.unpriced, 'J')} is not known: [carbon] of agent.toml gave none at the time"
    if used.unmeasured:
        yield f"not measured: {used.unmeasured:.0f} s; the agent's log says why"


def _share(bar: Bar) -> str:
    return f"{bar.used / bar.cap:.0%}"
