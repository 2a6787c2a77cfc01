"""Energy and carbon of a run, for the receipt: sums of what the journal's entries noted, each with its range."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from fedsus.costs import PHASES, worst
from fedsus.journal import AttemptAbandoned, AttemptOpened, RoundReleased
from fedsus.reporting.figures import MOST_SOURCES, Absent, Figure, How, joined
from fedsus.reporting.outside import GRAMS, assumed, embodied_devices, embodied_server, network_grams, network_joules
from fedsus.reporting.predicate import Carbon, Energy, EnergySpent, Operational
from fedsus.reporting.reported import hidden, range_of, reporting_of, reports
from fedsus.reporting.traffic import traffic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedsus.costs import Grams, Usage
    from fedsus.journal import Entry
    from fedsus.reporting.figures import Quantity
    from fedsus.rounds.planning.specification import Specification

_NO_REPORTS = "no device's costs were asked for: the plan has no [plan.costs]"
_NO_SHARE = "no device's costs left it: no part of the privacy budget was set aside for them, or no round was released"


def lasted(entries: Sequence[Entry]) -> float:
    """Seconds from the first entry to the last; where the clock was set back, of the steps forward alone."""
    if not set_back(entries):
        return entries[-1].time - entries[0].time
    return math.fsum(max(later.time - entry.time, 0.0) for entry, later in pairwise(entries))


def set_back(entries: Sequence[Entry]) -> bool:
    """Whether the clock was, so that nobody knows how long the run took."""
    return any(later.time < entry.time for entry, later in pairwise(entries))


def energy(specification: Specification, entries: Sequence[Entry]) -> EnergySpent:
    """Joules of the server, of the devices and of the network between them."""
    return EnergySpent(
        server=_server(specification, entries),
        devices=_devices(specification, entries),
        assumed=assumed(specification, entries, "joules"),
        network=network_joules(specification, traffic(entries)),
    )


def _intervals(entries: Sequence[Entry]) -> list[Usage | None]:
    """What the server noted at the end of each attempt."""
    return [entry.server for entry in entries if isinstance(entry, RoundReleased | AttemptAbandoned)]


def _unmetered(specification: Specification, entries: Sequence[Entry]) -> str:
    """Why there are no joules of the server, as far as the journal tells."""
    energy, carbon = specification.config.energy, specification.config.carbon
    if energy.meter == "off":
        return 'the server noted no energy: its meter was switched off ([energy] meter = "off")'
    if not _intervals(entries):
        return "the server noted no energy: no attempt came to an end that is in the journal"
    strict = [
        name
        for name, refused in (
            ("[energy]", energy.meter == "counter" and energy.missing == "refuse"),
            ("[carbon]", carbon.source is not None and carbon.missing == "refuse"),
        )
        if refused
    ]
    if not strict:
        return "the server noted no energy: it had no meter"
    return (
        f'the server noted no energy: no figure was there, and {" and ".join(strict)} missing = "refuse" assumes none'
    )


def _server(specification: Specification, entries: Sequence[Entry]) -> Energy | Absent:
    known = [usage for usage in _intervals(entries) if usage is not None]
    if not known:
        return Absent(absent=_unmetered(specification, entries))
    total, method = math.fsum(usage.total for usage in known), worst(*(usage.method for usage in known))
    low = min(math.fsum(usage.low for usage in known), total)
    high = max(math.fsum(usage.high for usage in known), total)
    source = joined(usage.source for usage in known)

    def part(joules: float) -> Figure:
        """The range of a phase is the total's, in proportion."""
        shares = (joules, joules) if total == 0 else (joules * low / total, joules * high / total)
        return Figure(
            value=joules,
            low=min(shares[0], joules),
            high=max(shares[1], joules),
            unit="J",
            method=method,
            source=source,
        )

    by_phase = {phase: math.fsum(usage.joules.get(phase, 0.0) for usage in known) for phase in PHASES}
    return Energy(
        total=Figure(value=total, low=low, high=high, unit="J", method=method, source=source),
        phases={phase: part(by_phase[phase]) for phase in PHASES if any(phase in usage.joules for usage in known)},
        idle=_idle(math.fsum(usage.idle for usage in known), method),
        boundary=joined(usage.boundary for usage in known),
        covered=len(known),
        of=_opened(entries),
    )


def _opened(entries: Sequence[Entry]) -> int:
    """Attempts. What the server used for one that a crash cut off, it could note nowhere."""
    return sum(isinstance(entry, AttemptOpened) for entry in entries)


def _idle(joules: float, method: How) -> Figure:
    """The idle baseline, which is known no better than within a factor of two until a counter saw the machine idle."""
    sure = method == "counter"
    return Figure(
        value=joules,
        low=joules if sure else 0.0,
        high=joules if sure else 2 * joules,
        unit="J",
        method=method,
        source="the idle baseline, not in the total",
    )


def _devices(specification: Specification, entries: Sequence[Entry]) -> Energy | Absent:
    """Sums of the devices' reports. A device reports what it used since its last report that was summed."""
    told = reports(entries)
    if not told:
        return Absent(absent=_NO_REPORTS if specification.config.plan.costs is None else _NO_SHARE)
    asked = sum(entry.survivors for entry, _ in told)
    reporting = reporting_of(told)
    if reporting == 0:
        return Absent(absent="every owner switched its device's reports off, or no device had a meter")
    gone = hidden(specification, told, "joules")
    if gone is not None:
        return gone
    joules, low, high = range_of(specification, told, "joules")
    counted = round(math.fsum(costs.get("counted", 0.0) for _, costs in told))
    private = specification.privacy.unit != "none"
    source = (
        "the devices' own meters, whose methods no private report tells; with the noise of the run"
        if private
        else f"the devices' own meters: {counted} of {reporting} reports by a counter, the others by a model of "
        "processor time, whose watts are the processor's, its owner's or a default"
    )
    if joules == 0 and math.fsum(costs.get("joules", 0.0) for _, costs in told) < 0:
        source += ", which took the sum below zero"
    # A report tells whether it is a counter's, and not whether the model's watts were known or assumed.
    method: How = "counter" if not private and counted == reporting else "assumed"
    total = Figure(value=joules, low=low, high=high, unit="J", method=method, source=source)
    phases = {phase: math.fsum(costs.get(f"joules_{phase}", 0.0) for _, costs in told) for phase in PHASES}
    whole = math.fsum(phases.values())
    return Energy(
        total=total,
        phases={
            phase: _share(total, part, whole)
            for phase, part in phases.items()
            if whole > 0 and not private and part > 0
        },
        idle=Absent(absent="reports hold no idle baseline"),
        boundary=(
            "the devices' work for the run, above idle, up to each one's last report that was summed; each report is "
            "clamped to the plan's bound"
        ),
        covered=asked if reporting is None else reporting,
        of=asked,
    )


def _share(total: Figure, part: float, whole: float) -> Figure:
    """One phase of a total, with the total's relative range."""
    scale = part / whole if whole else 0.0
    return Figure(
        value=part,
        low=min(total.low * scale, part),
        high=max(total.high * scale, part),
        unit=total.unit,
        method=total.method,
        source=total.source,
    )


def carbon(specification: Specification, entries: Sequence[Entry]) -> Carbon:
    """Grams of CO2 equivalent: operational by source and kind; embodied and network apart."""
    lines = [*_server_grams(entries), *_device_grams(specification, entries)]
    known = [line for line in lines if isinstance(line.grams, Figure)]
    gone: dict[str, str] = {line.machine: line.grams.absent for line in lines if isinstance(line.grams, Absent)}
    machines = sorted({line.machine for line in known}, reverse=True)
    missing = [
        f"{machine} ({gone[machine]})" if machine in gone else machine
        for machine in ("server", "devices")
        if machine not in machines
    ]
    covered = {machine: sum(line.covered for line in lines if line.machine == machine) for machine in machines}
    of = {line.machine: line.of for line in known}
    partial = [f"{machine} ({covered[machine]} of {of[machine]})" for machine in of if covered[machine] < of[machine]]
    boundary = "no operational carbon is known"
    if machines:
        boundary = f"operational carbon of {' and '.join(machines)}, location-based, idle baseline left out"
    boundary += f"; not known: {', '.join(missing)}" if missing else ""
    boundary += f"; in part: {', '.join(partial)}" if partial else ""
    return Carbon(
        operational=tuple(lines),
        total=_total(lines, boundary, gone),
        assumed=assumed(specification, entries, "grams"),
        embodied_server=embodied_server(specification, lasted(entries), set_back(entries)),
        embodied_devices=embodied_devices(),
        network=network_grams(specification, traffic(entries), entries),
        boundary=boundary,
    )


def _total(lines: Sequence[Operational], boundary: str, gone: Mapping[str, str]) -> Quantity:
    known = [line.grams for line in lines if isinstance(line.grams, Figure)]
    if known:
        return summed(known, GRAMS, boundary)
    return Absent(absent="; ".join(f"{machine}: {why}" for machine, why in gone.items()) or "no intensity known")


def _server_grams(entries: Sequence[Entry]) -> list[Operational]:
    groups: dict[tuple[str, str], list[Grams]] = {}
    for usage in _intervals(entries):
        if usage is not None and usage.grams is not None:
            key = usage.grams.source, usage.grams.kind
            known = key in groups or len(groups) < MOST_SOURCES
            groups.setdefault(key if known else ("further sources", key[1]), []).append(usage.grams)
    return [
        Operational(
            machine="server",
            kind=parts[0].kind,
            grams=Figure(
                value=(value := math.fsum(part.value for part in parts)),
                low=min(math.fsum(part.low for part in parts), value),
                high=max(math.fsum(part.high for part in parts), value),
                unit=GRAMS,
                method=worst(*(part.method for part in parts)),
                source=joined([source]),
            ),
            covered=len(parts),
            of=_opened(entries),
        )
        for (source, _), parts in groups.items()
    ]


def _device_grams(specification: Specification, entries: Sequence[Entry]) -> list[Operational]:
    told = reports(entries)
    private = specification.privacy.unit != "none"
    reporting = sum(entry.survivors for entry, _ in told) if private else reporting_of(told)
    priced = reporting if private else round(math.fsum(costs.get("priced", 0.0) for _, costs in told))
    if not told or not reporting or not priced:
        return []
    gone = hidden(specification, told, "grams")
    if gone is not None:
        return [Operational(machine="devices", kind="mixed", grams=gone, covered=priced, of=reporting)]
    value, low, high = range_of(specification, told, "grams")
    source = "the devices' own intensities"
    source += ", whichever know one; with the noise of the run" if private else f": {priced} of {reporting} reports"
    grams = Figure(value=value, low=low, high=high, unit=GRAMS, method="assumed", source=source)
    return [Operational(machine="devices", kind="mixed", grams=grams, covered=priced, of=reporting)]


def summed(parts: Sequence[Figure], unit: str, source: str) -> Figure:
    """As good as its worst part; ranges add up, as if all erred alike."""
    methods = [part.method for part in parts]
    certain = [method for method in methods if method in ("counter", "modelled", "assumed")]
    return Figure(
        value=math.fsum(part.value for part in parts),
        low=math.fsum(part.low for part in parts),
        high=math.fsum(part.high for part in parts),
        unit=unit,
        method=worst(*certain) if certain else "summed",
        source=source,
    )
