"""How the demo ends: what each run's receipt says it cost, whether it holds, and its report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.errors import EnvironmentFault

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    """

    answer: Answer
    said: Predicate
    report: Path


def close(answers: Sequence[Answer], home: Path) -> list[Closed]:
    """Check the receipt of each deployed run against its journal, and write its report.

    Args:
        home: the server's folder, with the operator's key.

    Raises:
        EnvironmentFault: a run has no receipt, or one that does not hold.
    """
    return [_close(answer, Path(answer.run), home) for answer in answers if answer.run]


def _close(answer: Answer, folder: Path, home: Path) -> Closed:
    from fedsus.reporting import pages
    from fedsus_server import receipts

    receipts.leave(folder, home)
    source = pages.load(folder)
    if source.checked.status != "holds":
        raise EnvironmentFault(f"{folder}: the receipt is not as the journal says: {source.checked.why}")
    for name, make in ((REPORT, pages.html), ("report.md", pages.markdown), ("model-card.md", pages.card)):
        (folder / name).write_text(make(source), encoding="utf-8")
    return Closed(answer, source.said, folder / REPORT)


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
            "J above idle, mg of these J; ranges and methods are in the report.\n"
            "In the sum of a run without differential privacy devices tell theirs;\n"
            "elsewhere their owners alone know. Each receipt holds: it was\n"
            "recomputed from the run's journal."
        ),
    )
    shown.add_column("run", no_wrap=True)
    for name in ("epsilon", "server J", "devices J", "mg CO2e", "kB"):
        shown.add_column(name, justify="right", no_wrap=True)
    for one in closed:
        energy, total = one.said.energy, one.said.traffic.total
        shown.add_row(
            one.answer.title,
            _epsilon(one.answer),
            _value(getattr(energy.server, "total", None)),
            _value(getattr(energy.devices, "total", None)),
            _value(one.said.carbon.total, 1000),
            f"{(total.sent.value + total.received.value) / 1000:.0f}",
        )
    return shown


def _epsilon(answer: Answer) -> str:
    """The most that a hospital's own ledger was charged."""
    spent = [row.epsilon for row in answer.rows if row.epsilon is not None]
    worst = max(spent, default=math.inf)
    return "inf" if math.isinf(worst) else f"{worst:.2f}"


def _value(found: Quantity | None, times: float = 1) -> str:
    """Three digits; a dash for what is not known."""
    value = getattr(found, "value", None)
    return "-" if value is None else f"{value * times:.3g}"
