"""How the demo ends: what each run's receipt says it cost, whether it holds, and its report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.errors import EnvironmentFault
from fedsus.privacy.stated import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from fedsus.reporting.figures import Quantity
    from fedsus.reporting.predicate import Predicate
    from fedsus_simulations.demo.results import Answer

REPORT: Final = "report.html"


@dataclass(frozen=True, slots=True)
class Closed:
    """One run's end.

    Attributes:
        answer: whose run it is.
        said: what its receipt says; it holds.
        report: the page.
        owned: J above idle of all devices, by their owners' own records; None where none has any.
    """

    answer: Answer
    said: Predicate
    report: Path
    owned: float | None


def close(answers: Sequence[Answer], home: Path, records: Sequence[Path]) -> list[Closed]:
    """Check the receipt of each deployed run against its journal, and write its report.

    Args:
        home: the server's folder, with the operator's key.
        records: what each device's owner keeps of its energy; the demo plays all owners.

    Raises:
        EnvironmentFault: a run has no receipt, or one that does not hold.
    """
    from fedsus.owner.energy_record import history

    owned: dict[str, float] = {}
    for record in records:
        for interval in history(record):
            if interval.attempt is not None:
                owned[interval.attempt.run] = owned.get(interval.attempt.run, 0.0) + interval.used.total
    return [_close(answer, Path(answer.run), home, owned) for answer in answers if answer.run]


def _close(answer: Answer, folder: Path, home: Path, owned: Mapping[str, float]) -> Closed:
    from fedsus.reporting import pages
    from fedsus_server import receipts

    receipts.leave(folder, home)
    source = pages.load(folder)
    if source.checked.status != "holds":
        raise EnvironmentFault(f"{folder}: the receipt is not as the journal says: {source.checked.why}")
    for name, make in ((REPORT, pages.html), ("report.md", pages.markdown), ("model-card.md", pages.card)):
        (folder / name).write_text(make(source), encoding="utf-8")
    return Closed(answer, source.said, folder / REPORT, owned.get(source.said.run.name))


def table(closed: Sequence[Closed]) -> Table:
    """What each deployed run cost, by its receipt. Fits 80 columns."""
    from rich import box
    from rich.table import Table

    shown = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        title="What each run cost, by its signed receipt",
        caption=(
            "J above idle, mg of the J that the receipt tells; ranges and methods are\n"
            "in the report. Devices tell theirs in the masked sum of a run without\n"
            "differential privacy; owners' J are in their own records, which nobody else\n"
            "sees: the demo plays all owners. Each receipt holds: it was recomputed from\n"
            "the run's journal."
        ),
    )
    shown.add_column("run", no_wrap=True)
    for name in ("epsilon", "server\nJ", "devices\nJ", "owners'\nJ", "mg\nCO2e", "kB"):
        shown.add_column(name, justify="right", no_wrap=True)
    for one in closed:
        energy, total = one.said.energy, one.said.traffic.total
        shown.add_row(
            one.answer.title,
            _epsilon(one.answer),
            _value(getattr(energy.server, "total", None)),
            _value(getattr(energy.devices, "total", None)),
            "-" if one.owned is None else f"{one.owned:.3g}",
            _value(one.said.carbon.total, 1000),
            f"{(total.sent.value + total.received.value) / 1000:.0f}",
        )
    return shown


def _epsilon(answer: Answer) -> str:
    """The most that a hospital's own ledger was charged."""
    spent = [row.epsilon for row in answer.rows if row.epsilon is not None]
    worst = max(spent, default=math.inf)
    return shown(worst)


def _value(found: Quantity | None, times: float = 1) -> str:
    """Three digits; a dash for what is not known."""
    value = getattr(found, "value", None)
    return "-" if value is None else f"{value * times:.3g}"
