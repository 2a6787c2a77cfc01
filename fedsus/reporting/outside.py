"""What no machine of a run can measure of itself: the network between them, and what making them emitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.reporting.figures import Absent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsus.journal import Entry
    from fedsus.reporting.figures import Quantity
    from fedsus.reporting.predicate import Traffic
    from fedsus.rounds.specification import Specification


def network_joules(traffic: Traffic) -> Quantity:
    """Joules of carrying the run's bytes."""
    return Absent(absent="no energy per byte is stated")


def network_grams(specification: Specification, traffic: Traffic) -> Quantity:
    """Grams of carrying the run's bytes."""
    return Absent(absent="no energy per byte is stated")


def embodied_server(specification: Specification, entries: Sequence[Entry]) -> Quantity:
    """The server's share of what making it emitted, over the run."""
    return Absent(absent="no embodied carbon is stated")


def embodied_devices(specification: Specification, entries: Sequence[Entry]) -> Quantity:
    """The devices' share of what making them emitted, over the run."""
    return Absent(absent="devices tell nothing of what they are made of")
