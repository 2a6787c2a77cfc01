"""What the figures take for granted, in plain words, each once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.reporting.figures import Absent
from fedsus.reporting.pages.document import Section, Table
from fedsus.reporting.pages.words import cleaned, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedsus.reporting.figures import Quantity
    from fedsus.reporting.pages.document import Cell
    from fedsus.reporting.pages.source import Source


def section(source: Source) -> Section:
    """Privacy's assumptions with whom they concern; then what is modelled, assumed or not known of costs."""
    assumed: dict[str, list[str]] = {}
    for loss in source.said.privacy.losses:
        for one in loss.assumptions:
            assumed.setdefault(cleaned(one), []).append(f"{loss.unit}/{loss.adversary}")
    everywhere = len(source.said.privacy.losses)
    privacy: tuple[tuple[Cell, ...], ...] = tuple(
        (one, "all" if len(whose) == everywhere else listed(whose)) for one, whose in assumed.items()
    )
    tables = [Table("Assumptions behind epsilon", ("Assumption", "For (unit/adversary)"), privacy)]
    gaps = tuple(_gaps(source))
    if gaps:
        tables.append(Table("Not known", ("Figure", "Why"), gaps))
    text = (
        "A figure is worth what it assumes. Modelled: computed from measured time and load by a documented formula. "
        "Assumed: taken from a number that somebody stated. Absent figures are not zero: they are not known.",
    )
    return Section("assumptions", "Assumptions and gaps", text, (), None, tuple(tables))


def _gaps(source: Source) -> Iterator[tuple[str, str]]:
    said = source.said
    whole: dict[str, Quantity | object] = {
        "Energy of the server": said.energy.server,
        "Energy of the devices": said.energy.devices,
        "Energy of silent devices": said.energy.assumed,
        "Energy of the network": said.energy.network,
        "Carbon, operational": said.carbon.total,
        "Carbon of making the server": said.carbon.embodied_server,
        "Carbon of making the devices": said.carbon.embodied_devices,
        "Carbon of the network": said.carbon.network,
        "Metrics": said.metrics,
        **{
            f"Carbon of the {line.machine}, operational": line.grams
            for line in said.carbon.operational
            if isinstance(line.grams, Absent)
        },
        **(
            {} if isinstance(said.metrics, Absent) else {f"Metric {cleaned(k)}": one for k, one in said.metrics.items()}
        ),
        "Secure sum": said.secure_sum,
        "Released model": said.model,
    }
    for name, found in whole.items():
        if isinstance(found, Absent):
            yield name, cleaned(found.absent)
