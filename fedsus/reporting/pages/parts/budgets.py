"""What was capped, and how much of it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.reporting.pages.document import Section, Share, Table
from fedsus.reporting.pages.parts import privacy
from fedsus.reporting.pages.words import amount, cleaned

if TYPE_CHECKING:
    from fedsus.reporting.pages.document import Cell
    from fedsus.reporting.pages.source import Source

_KINDS = {
    "joules": ("Energy (joules)", "joules", "J"),
    "kwh": ("Energy (kWh)", "joules", "J"),
    "grams": ("Carbon", "grams", "g CO2e"),
}


def section(source: Source) -> Section:
    """Epsilon, attempts, energy and carbon against their caps."""
    found = source.said.budgets
    used = source.said.participation.attempts
    rows: list[tuple[Cell, ...]] = [privacy.budget(source)]
    part = used / found.attempts
    rows.append(("Attempts", f"{found.attempts:,}", f"{used:,}", Share(part, f"{100 * part:.0f}%")))
    for name, (label, kind, unit) in _KINDS.items():
        if name not in found.caps:
            continue
        cap = found.caps[name] * (3.6e6 if name == "kwh" else 1.0)
        counted = next(one for key, one in found.counted.items() if key == kind)
        share = counted.value / cap
        rows.append((label, amount(cap, unit), amount(counted.value, unit), Share(share, f"{100 * share:.0f}%")))
    text = [f"Whichever is used up first ends the run. Ended by: {cleaned(found.ended_by)}."]
    if not found.caps:
        text.append("The operator capped neither energy nor carbon of this run.")
    points = tuple(f"Counted towards the cap of {kind}: {cleaned(one.source)}." for kind, one in found.counted.items())
    table = Table("Budgets of the run", ("", "Cap", "Used", "Share"), tuple(rows))
    note = "Devices have budgets of their own, which their owners set and which no operator sees."
    return Section("budgets", "Budgets", (*text, note), (), None, (table,), "", points)
