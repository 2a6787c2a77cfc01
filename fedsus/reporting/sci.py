"""Software carbon intensity of a run, ISO/IEC 21031, for the receipt: grams per round and per accuracy point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.reporting.costing import summed
from fedsus.reporting.figures import Absent, Figure
from fedsus.reporting.outside import GRAMS
from fedsus.reporting.predicate import SoftwareCarbonIntensity as Intensity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsus.journal import RoundReleased
    from fedsus.reporting.figures import Quantity
    from fedsus.reporting.predicate import Carbon, Metric
    from fedsus.rounds.planning.specification import Specification


def intensity(
    specification: Specification,
    found: Carbon,
    released: Sequence[RoundReleased],
    metrics: dict[str, Metric | Absent] | Absent,
) -> Intensity:
    """Software carbon intensity, (E * I + M) / R. What is not known is left out, and the boundary says so."""
    parts: dict[str, Quantity] = {"operational": found.total, "assumed (devices)": found.assumed}
    parts |= {
        "embodied (server)": found.embodied_server,
        "embodied (devices)": found.embodied_devices,
        "network": found.network,
    }
    known = {name: part for name, part in parts.items() if isinstance(part, Figure)}
    left = [name for name in parts if name not in known]
    boundary = f"in it: {', '.join(known) or 'nothing'}" + (f"; left out, not known: {', '.join(left)}" if left else "")
    boundary += f"; {found.boundary}"
    if isinstance(found.total, Absent):
        none = Absent(absent=f"operational carbon is not known: {found.total.absent}")
        return Intensity(per_round=none, per_accuracy_point=none, boundary=boundary)
    rounds = sum(entry.round <= specification.config.plan.rounds for entry in released)
    total = summed(list(known.values()), GRAMS, boundary)
    return Intensity(
        per_round=_per(total, rounds, "round", "no training round was released"),
        per_accuracy_point=_per_point(total, metrics),
        boundary=boundary,
    )


def _per_point(total: Figure, metrics: dict[str, Metric | Absent] | Absent) -> Quantity:
    """Noise of the run in the accuracies widens the range; a rise that may be nothing but noise has no rate."""
    accuracy = None if isinstance(metrics, Absent) else metrics.get("accuracy")
    if accuracy is None:
        return Absent(absent="no metric named 'accuracy' left the devices")
    if isinstance(accuracy, Absent):
        return Absent(absent=f"accuracy is not known: {accuracy.absent}")
    first, last = accuracy.first.value, accuracy.last.value
    gained, least, most = (
        100 * rise for rise in (last.value - first.value, last.low - first.high, last.high - first.low)
    )
    found = _per(total, gained, "accuracy point", "accuracy did not rise from the first measured model to the last")
    if isinstance(found, Absent) or least == most:
        return found
    if least <= 0:
        return Absent(absent=f"accuracy rose by {gained:.3g} points, which may be the noise of the run alone")
    return found.model_copy(update={"low": total.low / most, "high": total.high / least})


def _per(total: Figure, count: float, what: str, otherwise: str) -> Quantity:
    if count <= 0:
        return Absent(absent=otherwise)
    return Figure(
        value=total.value / count,
        low=total.low / count,
        high=total.high / count,
        unit=f"g CO2e/{what}",
        method=total.method,
        source=f"({total.source}) / {count:.6g} ({what}s)",
    )
