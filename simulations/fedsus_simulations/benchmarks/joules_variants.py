"""The same run in all ways: what differs is how updates are summed, noise, and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, Literal

BITS: Final = 8
SHARE: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way.

    Attributes:
        private: whether devices train with DP-SGD, with noise of their own.
        compressed: whether models travel as differences of `BITS`, and `SHARE` of an update's coordinates.
    """

    name: str
    exchange: Literal["clear_sum", "secure_sum"]
    private: bool = False
    compressed: bool = False

    def plan(self, plain: Mapping[str, Any], private: Mapping[str, Any]) -> dict[str, Any]:
        """``[plan]``.

        Args:
            plain, private: ``[plan]`` without DP and with it.
        """
        asked = {**(private if self.private else plain), "exchange": self.exchange}
        if self.compressed:
            asked["downlink"] = {"bits": BITS}
            asked["encoding"] = {"uplink": {"name": "projection", "share": SHARE}}
        return asked

    @property
    def file(self) -> str:
        """Its name in a file's."""
        return self.name.replace(", ", "-").replace(" ", "-").lower()


COST: Final = "the cost of privacy, a round: "
BY_PHASE: Final = "where the joules of a round go, medians"
"""Titles of the tables that the picture is drawn from."""

PLAIN: Final = "plain"
AGAIN: Final = "plain, again"
"""The very same once more in each block: its ratio is 1 but for what the measurement cannot tell apart."""

BOTH: Final = "both"
_NAMES: Final = {(False, False): PLAIN, (True, False): "DP", (False, True): "secure sum", (True, True): BOTH}


def _variants() -> tuple[Variant, ...]:
    made = [Variant(name=AGAIN, exchange="clear_sum")]
    for compressed, secure, private in product((False, True), repeat=3):
        name = _NAMES[private, secure] + (", compressed" if compressed else "")
        exchange: Literal["clear_sum", "secure_sum"] = "secure_sum" if secure else "clear_sum"
        made.append(Variant(name=name, exchange=exchange, private=private, compressed=compressed))
    return (made[1], made[0], *made[2:])


VARIANTS: Final = _variants()
"""Plain first, and once more; then noise, masks and fewer bytes, each with and without each other."""

EPSILON: Final = 3.0
DELTA: Final = 1e-5
