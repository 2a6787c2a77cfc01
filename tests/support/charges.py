"""What runs charge to a ledger, made of plans as a device would."""

from __future__ import annotations

import math
from typing import Any

import dp_accounting as dpa

from fedsus.owner.caps import KEYS, PrivacyPolicy
from fedsus.owner.charges import UNPROTECTED, Charge, Turns, epsilon_of
from fedsus.owner.filters import NON_PRIVATE
from fedsus.privacy.events import to_json

DELTA = 1e-5
CLEAR = Charge("spec", None, math.inf, 0.0, 5, UNPROTECTED)
"""A run without differential privacy."""


def gaussian(noise: float) -> str:
    """The event of one release with Gaussian noise."""
    return to_json(dpa.GaussianDpEvent(noise))


def charge(noise: float = 5.0, attempts: int = 5, specification: str = "spec", **changes: Any) -> Charge:
    """A run with noise for examples: nothing that it does protects a patient or the client."""
    events = {key: gaussian(noise) if key.startswith("example/") else NON_PRIVATE for key in KEYS}
    return made(events, "example/server", attempts, specification, **changes)


def client_charge(noise: float = 5.0, attempts: int = 5, specification: str = "spec", **changes: Any) -> Charge:
    """A run with noise for clients, in shares: an example moves twice as much, and the server knows one of 5 shares."""
    known = {"server": 0.8, "clients": 0.8, "recipients": 1.0}
    events = {}
    for key in KEYS:
        unit, adversary = key.split("/")
        events[key] = gaussian(noise * math.sqrt(known[adversary]) / (1 if unit == "client" else 2))
    return made(events, "client/server", attempts, specification, **changes)


def central_charge(noise: float = 5.0, attempts: int = 5, specification: str = "spec", **changes: Any) -> Charge:
    """A run with noise for clients, that the server adds."""
    events = {}
    for key in KEYS:
        unit, adversary = key.split("/")
        events[key] = NON_PRIVATE if adversary == "server" else gaussian(noise / (1 if unit == "client" else 2))
    return made(events, "client/recipients", attempts, specification, **changes)


def banded_charge(noise: float = 5.0, attempts: int = 12, bands: int = 3, participations: int = 2) -> Charge:
    """As `central_charge`, with noise that is correlated over rounds."""
    return central_charge(noise, attempts, once=True, turns=Turns(bands, participations))


def made(events: dict[str, str], goal: str, attempts: int, specification: str, **changes: Any) -> Charge:
    """A charge whose epsilon is what its events spend."""
    times = 1 if changes.get("once") else attempts
    epsilon = epsilon_of({events[goal]: times}, DELTA)
    fields: dict[str, Any] = {
        "specification": specification,
        "goal": goal,
        "epsilon": epsilon,
        "delta": DELTA,
        "attempts": attempts,
        "events": events,
    }
    return Charge(**(fields | changes))


def policy(epsilon: float = 8.0, delta: float = 1e-4, **changes: Any) -> PrivacyPolicy:
    """``[privacy]``."""
    return PrivacyPolicy.model_validate({"epsilon": epsilon, "delta": delta, **changes})
