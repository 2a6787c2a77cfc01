"""The part of ``fedsus client check`` about energy: what the meter can do, carbon, whether a day's budget works."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from fedsus.costs import Usage
from fedsus.errors import CorruptionError, FedsusError
from fedsus.owner.consumed import Consumed
from fedsus.owner.day_budget import NO_AMOUNTS, Amounts, quantity
from fedsus.owner.days import DAY
from fedsus.owner.policy import DayBudget
from fedsus.types import Clock
from fedsus_client.config import AgentConfig
from fedsus_client.energy_views import Book
from fedsus_client.findings import Finding, fail, fine, warn
from fedsus_client.metering import intensity_of

if TYPE_CHECKING:
    from fedsus.energy.grid.intensity import Intensity

_WATTS = "set [energy] watts in agent.toml, or let a counter be read; 'fedsus energy show' says what this machine has"
_ENOUGH_SECONDS: Final = 3600.0
"""Of waiting in the record, before it says what a day of it takes."""

_DECLARED = "watts that are declared stay assumed; 'fedsus energy show' says why no counter is read"


def energy(agent: AgentConfig, budget: DayBudget, clock: Clock) -> Iterator[Finding]:
    """The findings."""
    usage = yield from _meter(agent)
    if agent.carbon.source is not None:  # also where nothing is measured: the agent would not start
        usage = yield from _carbon(agent, usage, clock)
    try:
        book = Book(agent.energy_record, budget, clock)
    except CorruptionError as error:
        fix = "find out who changed it; move it away to begin a new one: what was used today is forgotten then"
        yield fail("energy", str(error), fix)
        return
    except FedsusError as error:
        yield fail("energy", str(error), "give it to the user that runs the agent")
        return
    if budget.capped:
        yield from _budget(book, usage)


def _meter(agent: AgentConfig) -> Generator[Finding, None, Usage | None]:
    """Yields one finding; returns a first reading, None where there is none."""
    from fedsus.energy.meters.meter import make_meter

    try:
        usage = make_meter(agent.energy).take()
    except FedsusError as error:
        grade = fail if agent.energy.missing == "refuse" else warn
        yield grade("energy", str(error), f"mend it, or set [energy] of {agent.file} otherwise")
        return None
    if usage is None:
        yield warn("energy", "[energy] meter = 'off': nothing is measured")
    elif usage.method == "assumed":
        way = _WATTS if agent.energy.watts is None else _DECLARED
        yield warn("energy", f"assumed: {usage.source} ({usage.boundary})", way)
    else:
        yield fine("energy", f"{usage.method}: {usage.source} ({usage.boundary})")
    return usage


def _carbon(agent: AgentConfig, usage: Usage | None, clock: Clock) -> Generator[Finding, None, Usage | None]:
    """Yields one finding; returns ``usage`` with its carbon, where that is known."""
    from fedsus.energy.grid.carbon import priced
    from fedsus.energy.grid.intensity import STANDS_IN

    try:
        now, intensity = clock(), intensity_of(agent, clock)
        found = None if usage is None else priced(usage, intensity, now, now)
        rate = None if intensity is None else intensity.over(now, now)
    except FedsusError as error:
        yield fail("carbon", str(error), f"mend [carbon] of {agent.file}")
        return usage
    if rate is not None:
        value = f"{rate.value:.4g} g CO2e/kWh now ({rate.low:.4g} to {rate.high:.4g})"
        stands_in = STANDS_IN in rate.source
        text = f"{value}, {rate.kind}, {rate.method}: {rate.source}{'' if stands_in else _end(intensity)}"
        yield (
            warn("carbon", text, "mend the source, or go on with what stands in") if stands_in else fine("carbon", text)
        )
    return found


def _end(intensity: Intensity | None) -> str:
    """Until when a series has figures."""
    from fedsus.energy.grid.intensity import Backed

    end = intensity.end if isinstance(intensity, Backed) else None
    return "" if end is None else f"; it ends {datetime.fromtimestamp(end, UTC):%Y-%m-%d %H:%M} UTC"


def _waiting(book: Book) -> Iterator[Finding]:
    """A warning for each cap that a day of waiting alone would reach, as far as the record knows what waiting takes."""
    waited = [one.used for one in book.intervals if one.attempt is None and set(one.used.joules) == {"wait"}]
    seconds = sum(one.seconds for one in waited)
    if seconds < _ENOUGH_SECONDS:
        return
    took = sum((Amounts.of(one) for one in waited), NO_AMOUNTS)
    for bar in book.standing.bars:
        a_day = getattr(took, bar.name) / seconds * DAY
        if bar.cap <= a_day:
            text = f"[budget] {bar.name}: waiting alone takes {quantity(a_day, bar.unit)} a day, as it did until now"
            yield warn("budget", text, f"the cap of {quantity(bar.cap, bar.unit)} is reached each day: set it higher")


def _budget(book: Book, usage: Usage | None) -> Iterator[Finding]:
    """Whether the caps can be kept, and whether they let any round pass."""
    standing, budget = book.standing, book.budget
    unknown = standing.unknown(Consumed() if usage is None else Consumed.of(usage))
    if unknown is not None and budget.missing == "refuse":
        yield fail("budget", f'{unknown}; every round is refused: [budget] missing = "refuse"', "or set it to 'assume'")
    elif unknown is not None:
        yield warn("budget", unknown)
    yield from _waiting(book)
    reason = standing.too_little()
    bars = list(standing.bars)
    if any(bar.hopeless for bar in bars):
        yield fail("budget", str(reason), "see: fedsus client energy")
    elif reason is not None:
        yield warn("budget", reason)
    else:
        first = "" if any(bar.largest for bar in bars) else "; what a round takes is known after the first"
        yield fine("budget", "; ".join(f"{bar.name}: {bar} today" for bar in bars) + first)
