"""The same run in five ways: what differs is how updates are summed, noise, and bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way.

    Attributes:
        private: whether devices train with DP-SGD, with noise of their own.
        compressed: whether models travel as differences of 8 bits, and half of an update's coordinates.
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
            asked["downlink"] = {"bits": 8}
            asked["encoding"] = {"uplink": {"name": "projection", "share": 0.5}}
        return asked


COST: Final = "the cost of privacy, a round: "
BY_PHASE: Final = "joules of a round by phase, means"
"""Titles of the tables that the picture is drawn from."""

PLAIN: Final = "plain"
BOTH: Final = "both"
VARIANTS: Final = (
    Variant(name=PLAIN, exchange="clear_sum"),
    Variant(name="DP", exchange="clear_sum", private=True),
    Variant(name="secure sum", exchange="secure_sum"),
    Variant(name=BOTH, exchange="secure_sum", private=True),
    Variant(name="both, compressed", exchange="secure_sum", private=True, compressed=True),
)
EPSILON: Final = 3.0
DELTA: Final = 1e-5


def turns(repetition: int, variants: Sequence[Variant] = VARIANTS) -> list[Variant]:
    """The order of one repetition: each variant is first in one, second in the next to last, and so on."""
    start = repetition % len(variants)
    return [*variants[start:], *variants[:start]]
