"""The first screen: what was trained, by whom, at what cost, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.reporting.figures import Absent, Figure
from fedsus.reporting.pages.document import Tile
from fedsus.reporting.pages.parts import evidence, privacy
from fedsus.reporting.pages.words import (
    amount,
    chance,
    cleaned,
    counted,
    detail,
    digits,
    listed,
    scale,
    span,
    total,
    value,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedsus.reporting.figures import Quantity
    from fedsus.reporting.pages.source import Source
    from fedsus.reporting.predicate import Energy

_STATES = {"open": "is still open", "completed": "completed", "stopped": "was stopped", "failed": "failed"}


def lead(source: Source) -> tuple[str, ...]:
    """What happened, in a few sentences."""
    there, run = source.said.participation, source.said.run
    planned = source.specification.config.plan.rounds
    trained = sum(entry.round <= planned for entry in there.rounds)
    what = (
        f"Run '{cleaned(run.name)}' trains one model for the task '{cleaned(source.specification.config.task.name)}' "
        f"on data that stay where they are: {counted(there.cohort, 'client')} are asked in each round, and "
        f"{trained:,} of {counted(planned, 'round')} were released."
    )
    how = f"It {_STATES[run.status]}. Ended by: {cleaned(source.said.budgets.ended_by)}."
    if run.status == "open":
        how = "It is still open: all figures are those so far."
    simulated = " It is a simulation: all clients ran on one computer, and figures of devices are that computer's."
    return (what, how + (simulated if source.virtual else ""))


def notices(source: Source) -> Iterator[str]:
    """What nobody may miss."""
    if source.checked.status == "broken":
        yield f"The receipt beside this run does not hold: {cleaned(source.checked.why)}"
    if source.checked.status == "unknown":
        yield f"The receipt beside this run cannot be checked: {cleaned(source.checked.why)}"


def tiles(source: Source) -> tuple[Tile, ...]:
    """The numbers."""
    return (
        _quality(source),
        _privacy(source),
        _energy(source),
        _carbon(source),
        _bytes(source),
        _people(source),
        _ended(source),
        Tile("Receipt", *_receipt(source)),
    )


def _quality(source: Source) -> Tile:
    found = source.said.metrics
    if isinstance(found, Absent):
        return Tile("Quality of the model", "not known", (cleaned(found.absent),))
    name = "accuracy" if "accuracy" in found else next(iter(found))
    one = found[name]
    if isinstance(one, Absent):
        return Tile(cleaned(name).capitalize()[:40], "not known", (cleaned(one.absent),))
    last = one.last.value
    ranged = "no noise in it" if last.low == last.high else f"range with its noise {span(last).removesuffix(' 1')}"
    return Tile(
        cleaned(name).capitalize()[:40],
        digits(last.value),
        (
            f"{ranged}, summed over the devices",
            f"round {one.last.round}; round {one.first.round}: {digits(one.first.value.value)}",
        ),
    )


def _privacy(source: Source) -> Tile:
    goal = next((loss for loss in source.said.privacy.losses if loss.goal), None)
    if goal is None:
        return Tile("Privacy (epsilon)", "infinite", ("no differential privacy: no bound for anybody",))
    return Tile(
        "Privacy (epsilon)",
        privacy.epsilon(goal),
        (
            f"for {privacy.UNITS[goal.unit]}, against {privacy.AGAINST[goal.adversary]}",
            f"delta {chance(goal.delta or 1)}; cap {source.said.privacy.asked_epsilon or 0:g}; a computed upper bound",
        ),
    )


def _energy(source: Source) -> Tile:
    found = source.said.energy
    parts = {"server": _totalled(found.server), "devices": _totalled(found.devices)}
    return _summed("Energy", parts, "idle draw and network not in it")


def _totalled(found: Energy | Absent) -> Quantity:
    return found if isinstance(found, Absent) else found.total


def _summed(label: str, parts: dict[str, Quantity], more: str) -> Tile:
    both = total(list(parts.values()), label)
    if isinstance(both, Absent):
        return Tile(label, "not known", (cleaned(both.absent),))
    return Tile(label, value(both), (detail(both), f"{_parts(parts, both)}; {more}"))


def _parts(parts: dict[str, Quantity], both: Figure) -> str:
    """What a sum is made of, in its unit, and what is not in it."""
    factor, unit = scale(both.value, both.unit)
    known = [f"{name} {digits(part.value / factor)}" for name, part in parts.items() if isinstance(part, Figure)]
    missing = [name for name, part in parts.items() if isinstance(part, Absent)]
    gaps = f"; not known: {listed(missing)}" if missing else ""
    return f"{listed(known)} {unit}{gaps}"


def _carbon(source: Source) -> Tile:
    found = source.said.carbon
    if isinstance(found.total, Absent):
        return Tile("Carbon", "not known", (cleaned(found.total.absent),))
    parts = {
        name: total([line.grams for line in found.operational if line.machine == name], name)
        for name in ("server", "devices")
    }
    return Tile("Carbon", value(found.total), (detail(found.total), f"operational: {_parts(parts, found.total)}"))


def _bytes(source: Source) -> Tile:
    found = source.said.traffic
    both = found.total.sent.value + found.total.received.value
    unknown = f"; {counted(found.unknown, 'attempt')} not noted" if found.unknown else ""
    return Tile(
        "Bytes sent and received",
        amount(both, "B"),
        (
            f"counted by the server{unknown}",
            f"{value(found.total.sent)} to the clients, {value(found.total.received)} from them",
        ),
    )


def _people(source: Source) -> Tile:
    there = source.said.participation
    if not there.rounds:
        return Tile("Who took part", "nobody yet", (f"{counted(there.attempts, 'attempt')}, no round was released",))
    mean = there.survivors / len(there.rounds)
    gone = there.abandoned + there.cut_off
    return Tile(
        "Clients in each sum",
        f"{mean:.1f} of {there.cohort}".replace(".0 of", " of"),
        (
            f"mean of {counted(len(there.rounds), 'release')}, counted",
            f"{there.refused:,} refusals, {there.lost:,} lost; {gone:,} of {counted(there.attempts, 'attempt')} "
            "released nothing",
        ),
    )


def _ended(source: Source) -> Tile:
    run = source.said.run
    lasted = value(source.said.time.run)
    return Tile(
        "How it ended",
        run.status,
        (cleaned(source.said.budgets.ended_by), f"{lasted} from first to last entry, by the server's clock"),
    )


def _receipt(source: Source) -> tuple[str, tuple[str, ...]]:
    words = {"none": "none", "holds": "holds", "broken": "does NOT hold", "unknown": "not checked"}
    found = source.checked
    if found.status != "holds":
        return words[found.status], (evidence.sentence(source),)
    many = counted(len(found.countersigners), "countersignature")
    return words["holds"], (
        f"signed by the key {found.operator}: compare it with the operator's",
        f"{many}; all figures recomputed from the journal",
    )
