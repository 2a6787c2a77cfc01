"""What a device answers, and how it refuses: without a reason on the wire, with one in its owner's log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fedsus.errors import FedsusError, ProtocolViolation, Refusal
from fedsus.owner.day_budget import SitsOut
from fedsus.plan import Plan
from fedsus.rounds.messages import REFUSAL, encode_hour
from fedsus.secagg import wire
from fedsus.types import Ring, Stop

log = logging.getLogger("fedsus.device")


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back, and what to tell the ledger once it left: call ``sent`` before handing over ``body``.

    Attributes:
        refusal: the reason, for the owner alone; None where the request was answered.
        plan: what was answered, for the owner's status; None for a refusal, and for a phase without a plan.
        declined: why any phase of it was refused, for the owner's status; None where it is nobody's fault.
    """

    body: bytes
    sent: Callable[[], None]
    refusal: str | None = None
    plan: Plan | None = None
    declined: str | None = None


class Granted(Protocol):
    """One request that the owner's policy grants, with its task and data."""

    @property
    def bits(self) -> int:
        """Sums are taken mod 2**bits."""
        ...

    def charge(self) -> None:
        """Charge the run, once, and this attempt, durably, before anything is trained."""
        ...

    def encoded(self, stop: Stop) -> Ring:
        """Train or evaluate, and encode what may leave: (n,) uint32. What fails is refunded."""
        ...

    def sent(self) -> None:
        """Note that the answer leaves the device."""
        ...

    def refund(self) -> None:
        """Note that nothing leaves the device."""
        ...

    def certified(self) -> Callable[[int], None]:
        """What to call with the number of survivors of a sum once they are certified, before it can be opened."""
        ...


def nothing() -> None:
    """There is nothing to tell the ledger."""


def indifferent(survivors: int) -> None:
    """What is charged does not depend on how many survive."""
    del survivors


def refusal_of(raw: bytes) -> bytes:
    """How a message is refused as a whole: each phase of secure aggregation that it asks for, or a clear request."""
    try:
        asked = wire.frames(raw)
    except ProtocolViolation:
        return REFUSAL
    phases = (frame.kind for frame in asked if frame.kind != wire.Kind.SEALED)
    return b"".join(wire.frame(kind, refused=True) for kind in phases) or REFUSAL


def refused(error: Exception, body: bytes = REFUSAL) -> Answer:
    """A refusal; its owner reads the reason in the log, as one line."""
    reason = logged(error)
    return Answer(body, nothing, reason, declined=reason)


def hour_of(error: Exception) -> bytes:
    """What a refusal may say beside that it is one: in which hour this device takes part again, as its owner allows."""
    hour = error.hour if isinstance(error, SitsOut) else None
    return b"" if hour is None else encode_hour(hour)


def without_identity(raw: bytes) -> Answer:
    """How a device that cannot sign refuses all phases of a secure sum."""
    return refused(Refusal("secure sum: this device has no identity; run: fedsus client enroll"), refusal_of(raw))


def logged(error: Exception) -> str:
    """The reason of a refusal, written to the owner's log."""
    reason = str(error) if isinstance(error, FedsusError) else line(error)
    log.warning("refused: %s", reason)
    if not isinstance(error, FedsusError):
        log.info("where it failed:", exc_info=error)
    return reason


def line(error: Exception) -> str:
    """An error of the owner's own code as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
