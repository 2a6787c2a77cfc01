"""What no machine of a run measures of itself: the network, what making the machines emitted, and who is silent.

Each is a function of the journal alone: the assumptions are the operator's, in the run's configuration.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal

from fedsus.energy.embodied import embodied
from fedsus.energy.grid.intensity import JOULES_PER_KWH, Rate
from fedsus.energy.network import network
from fedsus.journal import AttemptAbandoned, RoundReleased
from fedsus.reporting.figures import Absent, Figure, exact, joined
from fedsus.rounds.server_half.budgets import tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsus.energy.figures import Figure as Amount
    from fedsus.journal import Entry
    from fedsus.reporting.figures import Quantity
    from fedsus.reporting.predicate import Traffic
    from fedsus.rounds.planning.specification import Specification

GRAMS: Final = "g CO2e"
AT_LEAST: Final = ", at least: the clock was set back meanwhile"
_NO_NETWORK: Final = "not counted: run.toml has no [carbon.network]"


def network_joules(specification: Specification, traffic: Traffic) -> Quantity:
    """Joules of carrying the run's bytes, by the kWh per GB that the operator stated, or published ones."""
    found = network(specification.config.carbon.network)
    if found is None:
        return Absent(absent=_NO_NETWORK)
    return _figure(found.joules(_octets(traffic)), "")


def network_grams(specification: Specification, traffic: Traffic, entries: Sequence[Entry]) -> Quantity:
    """Grams of carrying them, as if all of the way were on the server's grid."""
    found, rate = network(specification.config.carbon.network), _rate(entries)
    if found is None:
        return Absent(absent=_NO_NETWORK)
    if rate is None:
        return Absent(absent="no carbon intensity of the server's grid is known")
    return _figure(found.grams(_octets(traffic), rate), "")


def embodied_server(specification: Specification, seconds: float, at_least: bool = False) -> Quantity:
    """The server's share of what making it emitted, over the run, which took so many seconds, or ``at_least`` so."""
    found = embodied(specification.config.carbon.embodied)
    if found is None:
        return Absent(absent="not counted: run.toml has no [carbon.embodied]")
    return _figure(found.over(seconds), f"; over {seconds:.6g} s" + (AT_LEAST if at_least else ""))


def embodied_devices() -> Quantity:
    """The devices' share of what making them emitted."""
    return Absent(absent="devices tell nothing of what they are made of")


def assumed(specification: Specification, entries: Sequence[Entry], kind: Literal["joules", "grams"]) -> Quantity:
    """What devices that reported nothing are assumed to have used, as `fedsus.rounds.server_half.budgets` counts it."""
    budget = specification.config.budget
    stated = budget.device_watts if kind == "joules" else budget.device_grams_per_kwh
    if stated is None:
        name = "device_watts" if kind == "joules" else "device_grams_per_kwh"
        return Absent(absent=f"nothing is assumed of devices that report nothing: run.toml has no [budget] {name}")
    unit, what = ("J", "W") if kind == "joules" else (GRAMS, "g CO2e/kWh")
    source = f"devices that reported nothing, at {stated:g} {what} by the operator's [budget]; no range is known"
    return exact(tally(entries, budget, kind, _virtual(entries)).assumed, unit, source, "assumed")


def counted(specification: Specification, entries: Sequence[Entry], kind: Literal["joules", "grams"]) -> Figure:
    """What counts towards a cap of the run: the values of the figures, not the ends of their ranges."""
    found = tally(entries, specification.config.budget, kind, _virtual(entries))
    parts = f"server {found.server:.6g}, assumed {found.assumed:.6g}, devices' reports {found.reported:.6g}"
    silent = f"; not counted: {' and '.join(sorted(found.silent))}" if found.silent else ""
    if found.reported and specification.privacy.unit != "none":
        parts += " with the noise of the run in it, which may be most of it"
    return exact(found.total, "J" if kind == "joules" else GRAMS, parts + silent, "computed")


def _virtual(entries: Sequence[Entry]) -> bool:
    """Whether the run is a simulation, with a clock of its own."""
    return any(isinstance(e, RoundReleased | AttemptAbandoned) and e.virtual is not None for e in entries)


def _octets(traffic: Traffic) -> int:
    return int(traffic.total.sent.value + traffic.total.received.value)


def _rate(entries: Sequence[Entry]) -> Rate | None:
    """The mean intensity of the server's grid over its priced joules; None where there are none."""
    noted = [entry.server for entry in entries if isinstance(entry, RoundReleased | AttemptAbandoned)]
    priced = [(usage, usage.grams) for usage in noted if usage is not None and usage.grams is not None]
    joules = math.fsum(usage.total for usage, _ in priced)
    if joules <= 0:
        return None
    value = math.fsum(grams.value for _, grams in priced) / joules * JOULES_PER_KWH
    # Ranges of the grams hold those of the joules too: what is left of them is the intensity's.
    low = _over(math.fsum(grams.low for _, grams in priced), math.fsum(usage.low for usage, _ in priced), value)
    high = _over(math.fsum(grams.high for _, grams in priced), math.fsum(usage.high for usage, _ in priced), value)
    first = priced[0][1]
    sources = joined(grams.source for _, grams in priced)
    return Rate(
        value=value, low=min(low, value), high=max(high, value), method="assumed", kind=first.kind, source=sources
    )


def _over(grams: float, joules: float, otherwise: float) -> float:
    return grams / joules * JOULES_PER_KWH if joules > 0 else otherwise


def _figure(found: Amount, more: str) -> Figure:
    return Figure(
        value=found.value,
        low=min(found.low, found.value),
        high=max(found.high, found.value),
        unit=found.unit,
        method=found.method,
        source=found.source + more,
    )
