"""What the server makes of devices that decline: who sits out until when, and how slowly the others are asked again.

A device whose day's budget is spent may say in which hour it takes part again; see `fedsus.owner.day_budget`. The
server believes that for a day at most, and only to wait: who is asked, and what an attempt costs, is as without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fedsus.errors import ProtocolViolation
from fedsus.rounds.messages import declined, decode_hour
from fedsus.secagg import wire
from fedsus.secagg.wire import Kind
from fedsus.types import Answered, Ask, Lost, Member, Partial, Refused, Reply

if TYPE_CHECKING:
    from fedsus.rounds.server_half.exchange import Fleet
    from fedsus.types import Clock

HOUR: Final = 3600.0
SKEW_SECONDS: Final = 300.0
"""Devices' clocks may be as far behind: they are not asked earlier."""

LONGEST_SECONDS: Final = 26 * HOUR
"""Nobody sits out for longer than a day, which has 25 hours where clocks change; whoever says so says nothing."""

_LONGEST_RATION: Final = 900.0
_SHORTENED: Final = 8.0


class Absences:
    """Who sits out, as far as devices said so.

    Args:
        now: seconds since the epoch.

    Attributes:
        declined: how many answers since `begin` were refusals without an hour that is believed.
    """

    def __init__(self, now: Clock) -> None:
        self._now = now
        self._until: dict[str, float] = {}
        self._left: set[str] = set()
        self._again: dict[str, float] = {}
        self.declined = 0

    @property
    def known(self) -> bool:
        """Whether anybody may sit out."""
        return bool(self._until)

    def begin(self) -> None:
        """An attempt begins."""
        self.declined = 0

    def hear(self, reply: Reply) -> None:
        """Take a client's reply into account; of what is no answer, nothing is believed."""
        match reply:
            case Refused():
                self.declined += 1
            case Answered():
                self._answered(reply)
            case Lost() | Partial():
                pass

    def see(self, connected: Sequence[Member]) -> None:
        """Who left and came back is asked again, for its owner may have raised the cap; once for each hour it says."""
        here, now = {member.id for member in connected}, self._now()
        for client in self._left & here & self._until.keys():
            self._again[client] = self._until.pop(client)
        self._again = {client: at for client, at in self._again.items() if at > now}
        self._left = {
            client for client, at in self._until.items() if client not in here and at != self._again.get(client)
        }

    def until(self, members: Sequence[Member], least: int) -> float | None:
        """When so many of these take part again, seconds since the epoch; None where they do, or are too few anyway."""
        now = self._now()
        self._until = {client: at for client, at in self._until.items() if now < at <= now + LONGEST_SECONDS}
        if not self._until:
            return None
        times = sorted(self._until.get(member.id, now) for member in members)
        return None if len(times) < least or least < 1 or times[least - 1] <= now else times[least - 1]

    def out(self, members: Sequence[Member]) -> int:
        """How many of these sit out, as `until` saw it last."""
        return sum(member.id in self._until for member in members)

    def _answered(self, reply: Answered) -> None:
        try:
            said = _said(reply.body)
        except ProtocolViolation:
            return
        now = self._now()
        found = [hour * HOUR + SKEW_SECONDS for hour in said.hours]
        known = [at for at in found if now < at <= now + LONGEST_SECONDS]
        if known:
            self._until[reply.client] = max(known)
        elif said.refuses:
            self.declined += 1
        elif said.joins:
            self._until.pop(reply.client, None)


class Heard:
    """A fleet whose replies an `Absences` hears too."""

    def __init__(self, fleet: Fleet, absences: Absences) -> None:
        self._fleet, self._absences = fleet, absences

    def members(self) -> Sequence[Member]:
        """As the fleet's."""
        return self._fleet.members()

    def ask(self, ask: Ask) -> Iterator[Reply]:
        """As the fleet's."""
        for reply in self._fleet.ask(ask):
            self._absences.hear(reply)
            yield reply
            del reply  # before the next one is made: the server holds one answer at a time


def ration(left: int, wait: float) -> float:
    """Seconds between attempts of which the devices declined several in a row: the fewer may still fail, the longer.

    Args:
        left: attempts that may still be abandoned.
        wait: the operator's own patience with devices, ``[server] wait_for_devices``.
    """
    return min(_LONGEST_RATION / _SHORTENED ** min(max(left, 0), 10), wait)


@dataclass(frozen=True, slots=True)
class _Said:
    """What an answer says of taking part: whether it refuses, in which hours it would not, and whether it joins."""

    refuses: bool
    hours: Sequence[int] = ()
    joins: bool = False


def _said(body: bytes) -> _Said:
    """Raises:
    ProtocolViolation: it is no answer.
    """
    if not wire.is_secure(body):
        found = declined(body)
        return _Said(False, joins=True) if found is None else _Said(True, [found] if found else [])
    frames = wire.frames(body)
    # Who refused the next session answers the other phases of this one all the same: they say nothing of it.
    first = [frame for frame in frames if frame.kind == Kind.ADVERTISE]
    hours = [decode_hour(frame.body) for frame in first if frame.refused and frame.body]
    return _Said(any(frame.refused for frame in frames), hours, any(not frame.refused for frame in first))
