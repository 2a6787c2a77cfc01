"""Bytes of a run by phase and direction, for the receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.journal import AttemptAbandoned, AttemptOpened, RoundReleased
from fedsus.reporting.cost_lines import Directions, Traffic
from fedsus.reporting.figures import exact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsus.journal import Entry


def traffic(entries: Sequence[Entry]) -> Traffic:
    """Bytes by phase and direction; of an older journal's released rounds their totals alone."""
    phases: dict[str, list[int]] = {}
    sent = received = unknown = 0
    ended = [entry for entry in entries if isinstance(entry, RoundReleased | AttemptAbandoned)]
    for entry in ended:
        for phase, (out, back) in (entry.traffic or {}).items():
            both = phases.setdefault(phase, [0, 0])
            both[0], both[1] = both[0] + out, both[1] + back
        if isinstance(entry, RoundReleased):
            sent, received = sent + entry.bytes_sent, received + entry.bytes_received
        elif entry.traffic is not None:
            sent += sum(out for out, _ in entry.traffic.values())
            received += sum(back for _, back in entry.traffic.values())
        else:
            unknown += 1
    unknown += sum(isinstance(entry, AttemptOpened) for entry in entries) - len(ended)
    return Traffic(
        total=_directions(sent, received),
        phases={phase: _directions(*both) for phase, both in sorted(phases.items())},
        unknown=unknown,
    )


def _directions(sent: int, received: int) -> Directions:
    source = "messages given to and taken from the transport; its own headers and encryption not counted"
    return Directions(sent=exact(sent, "B", source), received=exact(received, "B", source))
