"""How many bytes a client sends in one attempt, before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass

from fedsus.encoding.mechanisms import mechanism_of
from fedsus.encoding.packing import packed_size
from fedsus.plan import Plan
from fedsus.rounds.messages import encode_answer
from fedsus.secagg import wire
from fedsus.secagg.keys import HASH_BYTES
from fedsus.secagg.shares import SHARE_BYTES
from fedsus.secagg.thresholds import Thresholds

_INDEX = 4
"""Bytes of an index, and of a count."""


@dataclass(frozen=True, slots=True)
class Upload:
    """Bytes of one client in one attempt.

    Attributes:
        update: its packed integers.
        overhead: all else: keys, shares, signatures and headers.
    """

    update: int
    overhead: int

    @property
    def total(self) -> int:
        """Both."""
        return self.update + self.overhead


def upload(plan: Plan, thresholds: Thresholds | None) -> Upload:
    """What one client sends if nobody drops out.

    Args:
        thresholds: of a secure sum; None of one in clear.

    Raises:
        ConfigError: the plan's numbers cannot carry its cohort.
    """
    mechanism = mechanism_of(plan)
    overhead = len(encode_answer(b"")) if thresholds is None else secure_overhead(thresholds)
    return Upload(packed_size(mechanism.size, mechanism.bits), overhead)


def secure_overhead(thresholds: Thresholds) -> int:
    """Bytes beside the masked integers: five answers of `fedsus.secagg.wire`, and a row for each holder of shares."""
    holders = thresholds.neighbours - (thresholds.rule == "complete")
    phases = (wire.Kind.ADVERTISE, wire.Kind.SHARE, wire.Kind.CONTRIBUTE, wire.Kind.CONFIRM, wire.Kind.UNMASK)
    shared = HASH_BYTES + 2 * wire.SIGNATURE_BYTES + _INDEX + holders * (_INDEX + wire.SEALED_BYTES)
    opened = wire.SIGNATURE_BYTES + _INDEX + holders * (_INDEX + SHARE_BYTES)
    signed = 2 * wire.SIGNATURE_BYTES  # of the masked integers, and of who survives
    return sum(len(wire.frame(phase)) for phase in phases) + wire.ADVERT_BYTES + shared + signed + opened
