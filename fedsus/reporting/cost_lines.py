"""The lines of a receipt that say what a run cost: energy, carbon, bytes, and the rates made of them."""

from __future__ import annotations

from typing import Literal

from fedsus.costs import Phase
from fedsus.reporting.figures import Absent, Count, Figure, Quantity, Text
from fedsus.strict import Strict


class Energy(Strict):
    """Energy of the server's machine, or of all devices.

    Attributes:
        total: joules above the idle baseline.
        phases: the same by phase; empty where phases are not told.
        idle: joules of the idle baseline, not in ``total``.
        boundary: what is inside the figure.
        covered, of: how many of the attempts (server) or reports (devices) the figure is of.
    """

    total: Figure
    phases: dict[Phase, Figure]
    idle: Quantity
    boundary: Text
    covered: Count
    of: Count


class EnergySpent(Strict):
    """Joules: separate lines, each with its own range.

    Attributes:
        assumed: of devices that reported nothing, where the operator says what to assume.
        network: of carrying the run's bytes.
    """

    server: Energy | Absent
    devices: Energy | Absent
    assumed: Quantity
    network: Quantity


class Operational(Strict):
    """Carbon of one machine's (or all devices') joules, by where the intensity is from.

    Attributes:
        grams: absent where the noise of the run hides them.
        kind: of the intensity; "mixed" over devices, which do not tell.
        covered, of: how many of the attempts (server) or reports (devices) know an intensity.
    """

    machine: Literal["server", "devices"]
    kind: Literal["average", "marginal", "mixed"]
    grams: Quantity
    covered: Count
    of: Count


class Carbon(Strict):
    """Grams of CO2 equivalent, location-based. Embodied and network carbon are lines of their own.

    Attributes:
        operational: server and devices.
        total: of the operational lines alone; absent where there is none.
        assumed: of devices that reported nothing, where the operator says what to assume.
        embodied_server, embodied_devices: their share of what making the machines emitted.
        network: of carrying the run's bytes.
        boundary: what ``total`` leaves out.
    """

    operational: tuple[Operational, ...]
    total: Quantity
    assumed: Quantity
    embodied_server: Quantity
    embodied_devices: Quantity
    network: Quantity
    boundary: Text


class Directions(Strict):
    """Bytes between server and devices, as the transport was given them."""

    sent: Figure
    received: Figure


class Traffic(Strict):
    """Bytes.

    Attributes:
        phases: by phase of the exchange, over all attempts that noted them.
        total: those, and of released rounds of older journals their totals.
        unknown: attempts whose bytes are in no line: cut off by a crash, or abandoned in an older journal.
    """

    total: Directions
    phases: dict[str, Directions]
    unknown: Count


class SoftwareCarbonIntensity(Strict):
    """ISO/IEC 21031: (E * I + M) per R.

    Attributes:
        per_round: R is one released training round.
        per_accuracy_point: R is one percentage point of accuracy gained between the first and the last measured model.
        boundary: what is in (E * I + M), and what is not.
    """

    per_round: Quantity
    per_accuracy_point: Quantity
    boundary: Text
