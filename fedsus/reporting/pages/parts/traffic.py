"""Bytes between server and clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedsus.reporting.figures import Absent
from fedsus.reporting.pages import charts
from fedsus.reporting.pages.document import Chart, Section, Table
from fedsus.reporting.pages.words import METHODS, amount, cleaned, counted, scale, value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fedsus.reporting.pages.source import Source
    from fedsus.reporting.predicate import Traffic

_PHASES: Final = {
    "advertise": "exchange keys",
    "share": "share secrets",
    "contribute": "model and masked update",
    "confirm": "confirm who is in",
    "confirm+advertise": "confirm, and the next keys",
    "unmask": "remove the masks",
    "unmask+share": "unmask, and the next secrets",
}


def section(source: Source) -> Section:
    """Bytes by phase, and beside the size of the model and of the data."""
    found = source.said.traffic
    kind = "encoded" if isinstance(source.said.secure_sum, Absent) else "masked"
    text = (
        "Bytes of all messages between the server and the clients, both ways. The data themselves never travel: what "
        f"travels is the model, and each client's {kind} change to it.",
    )
    unknown = f"Of {counted(found.unknown, 'attempt')} nobody noted the bytes." if found.unknown else ""
    rows = [
        (name(phase), amount(both.sent.value, "B"), amount(both.received.value, "B"))
        for phase, both in found.phases.items()
    ]
    rows.append(("All", value(found.total.sent), value(found.total.received)))
    method = METHODS[found.total.sent.method]
    table = Table(
        f"Bytes by phase, {method}",
        ("Phase", "Server to clients", "Clients to server"),
        tuple(rows),
        f"{cleaned(found.total.sent.source)}. {unknown}".strip(),
    )
    return Section("bytes", "Bytes", text, _charts(found), _compared(source), (table,))


def name(phase: str) -> str:
    """A phase of the exchange in words."""
    words = _PHASES.get(phase)
    return f"{words} ({phase})" if words else cleaned(phase)[:40]


def _label(phase: str) -> str:
    """Beside a bar."""
    return _PHASES.get(phase) or cleaned(phase)[:24]


def _compared(source: Source) -> Table:
    found, there = source.said.traffic, source.said.participation
    both = found.total.sent.value + found.total.received.value
    rows = [("Both ways, in all", amount(both, "B"))]
    model = source.said.model
    dimension = None if isinstance(model, Absent) else model.dimension
    if dimension:
        rows.append(("The model itself (32-bit numbers)", f"{amount(4 * dimension, 'B')}, {dimension:,} parameters"))
        rows.append(("Bytes for each byte of the model", f"{both / (4 * dimension):,.1f}"))
    else:
        rows.append(("The model itself", "not known: the journal does not say how large it is"))
    if there.rounds:
        answers = there.survivors + there.refused + there.lost
        rows.append(("For each client and released round", amount(both / max(answers, 1), "B")))
    rows.append(("The devices' data", "not known: no device tells the size of its data"))
    return Table("Bytes in proportion", ("", "Value"), tuple(rows))


def _charts(found: Traffic) -> tuple[Chart, ...]:
    if not found.phases:
        return ()
    told = ", ".join(
        f"{name(phase)} {amount(both.sent.value, 'B')} to and {amount(both.received.value, 'B')} from the clients"
        for phase, both in found.phases.items()
    )
    height = 1.1 + 0.45 * min(len(found.phases), 12)
    return (
        Chart("bytes", "Bytes by phase", f"{told}.", lambda: charts.drawn("bytes", lambda a: _plot(a, found), height)),
    )


def _plot(axis: Axes, found: Traffic) -> None:
    shown = sorted(found.phases.items(), key=lambda one: -one[1].sent.value - one[1].received.value)[:12]
    factor, unit = scale(max(max(both.sent.value, both.received.value) for _, both in shown), "B")
    groups = [
        ("to clients", charts.BLUE, [both.sent.value / factor for _, both in shown]),
        ("from clients", charts.ORANGE, [both.received.value / factor for _, both in shown]),
    ]
    charts.bars(axis, [_label(phase) for phase, _ in shown], groups, unit)
