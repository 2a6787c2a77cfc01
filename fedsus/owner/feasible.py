"""What a policy can ever let pass: told to its owner before a run asks."""

from __future__ import annotations

from typing import Final

from fedsus.owner import filters
from fedsus.owner.caps import Account, PrivacyPolicy, accounts

KINDS: Final = (("example", "local"), ("example", "distributed"), ("client", "distributed"), ("client", "central"))
"""Unit and placement of the runs with differential privacy that there are (`fedsus.protection`)."""


def obstacles(privacy: PrivacyPolicy, data: str) -> dict[tuple[str, str], str | None]:
    """Each kind of run that units and placements grant, and the first account that refuses it always; None: nothing.

    Args:
        data: the data set.
    """
    return {
        (unit, placement): _obstacle(privacy, data, unit, placement)
        for unit, placement in KINDS
        if unit in privacy.units and placement in privacy.placements
    }


def _obstacle(privacy: PrivacyPolicy, data: str, unit: str, placement: str) -> str | None:
    for account in accounts(data):
        cap = privacy.cap_of(account)
        if cap is None or not cap.finite:
            continue
        if cap.epsilon <= 0 or cap.delta <= 0:
            return f"{account}: the cap is {cap}"
        if placement == "distributed" and privacy.composition == "renyi" and not filters.allowance(cap, 2).releases:
            largest = filters.largest_epsilon(cap.delta, 1)
            way = "raise its delta" if largest is None else f"{largest:g} is the largest that lets one pass"
            return f"{account}: the cap is {cap}, and the samplers of noise in shares leave nothing of its delta: {way}"
        if _infinite(account, unit, placement, privacy.rows_per_patient):
            return f"{account}: the cap is {cap}, and such noise protects nothing there"
    return None


def _infinite(account: Account, unit: str, placement: str, rows: int | None) -> bool:
    """As `fedsus.privacy.adversaries` finds it."""
    if placement == "central":
        return account.adversary == "server"
    return unit == "example" and (account.unit == "client" or (account.unit == "patient" and rows is None))
