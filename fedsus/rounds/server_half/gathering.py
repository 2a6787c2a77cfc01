"""Waits for the clients of a round: as many as the plan asks for, or enough of them, of whom enough take part."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from fedsus.errors import RunFailed
from fedsus.protection import ClientCentral
from fedsus.rounds.server_half.absences import Absences, ration
from fedsus.types import Clock, Member

if TYPE_CHECKING:
    from fedsus.journal import RunState
    from fedsus.rounds.planning.specification import Specification
    from fedsus.rounds.server_half.exchange import Fleet
    from fedsus.rounds.server_half.postponing import Waits
    from fedsus.rounds.server_half.secure import Draw, SecureRounds

log = logging.getLogger("fedsus.server")

_WAIT_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 30.0
_LONGEST_LOOK_SECONDS: Final = 10.0
"""An agent whose owner raised a cap stays away for longer: it is seen to leave and come back."""


def pause_after(abandoned: int) -> float:
    """Seconds that a run waits after so many attempts that were abandoned in a row."""
    return min(2.0 ** min(abandoned - 1, 10), _LONGEST_PAUSE_SECONDS) if abandoned else 0.0


class Gathering:
    """Chooses who is asked in an attempt.

    Args:
        secure: the sessions of a secure sum; None in a run in clear.
        draw: chooses a cohort when more clients are connected than the plan asks.
        now, sleep: time, a simulation's own where it has one.
        absences: who sits out; nobody, as in a simulation, where there is none.
        waits: told when a wait for those who sit out, or decline, begins, moves and ends.
    """

    def __init__(
        self,
        specification: Specification,
        fleet: Fleet,
        secure: SecureRounds | None,
        draw: Draw,
        now: Clock,
        sleep: Callable[[float], None],
        absences: Absences | None = None,
        waits: Waits | None = None,
    ) -> None:
        self._specification, self._fleet, self._secure = specification, fleet, secure
        self._draw, self._now, self._sleep = draw, now, sleep
        self._absences, self._waits = absences, waits or (lambda *_: None)
        self._round, self._failed = 0, 0

    def cohort(self, progress: RunState, patient: bool = True) -> list[Member]:
        """Who is asked: all that the plan's size allows, once enough are connected and do not sit out.

        Args:
            patient: whether those who sit out are waited for.

        Raises:
            RunFailed: too few came, or sit out.
        """
        asked = self._specification.config.plan.cohort
        self._begin(progress.next_round)
        # The first attempt waits for everyone; later ones take the minimum: one lost device costs no wait.
        wanted = asked.size if progress.attempts == 0 else self._least
        patience = self._now() + self._patience
        said = ""
        while True:
            members = self._connected(progress.next_round)
            known = members if self._secure is None else self._secure.known(members)
            if len(known) >= wanted:
                if self._until(known) is None:
                    break
                if not patient:
                    raise RunFailed(f"{self._out(known)} of {len(known)} connected devices sit out")
                self.returned(progress)
                patience = self._now() + self._patience
                continue
            if self._now() >= patience:
                raise RunFailed(self._too_few(len(known), len(members), wanted))
            said = self._tell_waiting(members, wanted, said)
            self._sleep(_WAIT_SECONDS)
        if self._absences is not None:
            self._absences.begin()
        if self._secure is None and len(known) > asked.size:
            return sorted(self._draw(known, asked.size, progress.attempts + 1), key=attrgetter("id"))
        return list(known)

    def returned(self, progress: RunState) -> bool:
        """Wait while so many of the connected sit out that no attempt can succeed, or, after two that failed, that a
        draw holds too few of the others on average; whether that took any time."""
        self._begin(progress.next_round)
        look, told = 1.0, None
        while self._absences is not None and self._absences.known:
            members = self._connected(progress.next_round)
            known = members if self._secure is None else self._secure.known(members)
            until = self._until(known)
            if until is None:
                break
            if until != told:
                self._tell(until, f"for {self._out(known)} of {len(known)} devices, whose day's budget is spent,")
            told = until
            # Others may come meanwhile, and then nobody needs to be waited for.
            self._sleep(max(min(until - self._now(), look), _WAIT_SECONDS))
            look = min(2 * look, _LONGEST_LOOK_SECONDS)
        if told is not None:
            self._waits(None, "")
        return told is not None

    def pause(self, abandoned: int, left: int) -> None:
        """Wait after an attempt that was abandoned, longer after each in a row: each costs the devices' budget.

        Where devices declined and do not say until when, the last attempts that may fail are kept for later.

        Args:
            abandoned: in a row.
            left: attempts that may still be; below 0 the run can have no last round any more.
        """
        self._failed, seconds = abandoned, pause_after(abandoned)
        if self._absences is not None and self._absences.declined and abandoned > 1 and left >= 0:
            seconds = max(seconds, ration(left, self._patience))
        if seconds > _LONGEST_PAUSE_SECONDS:
            spare = f"{left or 'no'} spare attempt{'s are' if left > 1 else ' is'} left"
            why = f"after devices declined (their owners see why: fedsus client status; {spare})"
            self._tell(self._now() + seconds, why)
        self._sleep(seconds)
        if seconds > _LONGEST_PAUSE_SECONDS:
            self._waits(None, "")

    @property
    def _least(self) -> int:
        return self._specification.config.plan.cohort.minimum if self._secure is None else self._secure.floor

    @property
    def _patience(self) -> float:
        return self._specification.config.server.wait_for_devices

    def _begin(self, round: int) -> None:
        """Attempts that failed in another round say nothing of this one."""
        if round != self._round:
            self._round, self._failed = round, 0

    def _until(self, known: Sequence[Member]) -> float | None:
        if self._absences is None:
            return None
        least, size = self._least, self._specification.config.plan.cohort.size
        if self._failed > 1 and len(known) > size:
            # Who is drawn does not depend on who sits out, so that draws would fail again until attempts are spent.
            least = math.ceil(least * len(known) / size)
        return self._absences.until(known, least)

    def _out(self, known: Sequence[Member]) -> int:
        return 0 if self._absences is None else self._absences.out(known)

    def _tell(self, until: float, why: str) -> None:
        self._waits(until, why)
        log.info("waits %s until %s", why, datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%d %H:%M UTC"))

    def _connected(self, round: int) -> Sequence[Member]:
        """Who is connected and may take part in the next round."""
        members = self._fleet.members()
        if self._absences is not None:
            self._absences.see(members)
        return self._due(members, round)

    def _due(self, members: Sequence[Member], round: int) -> Sequence[Member]:
        """Who may take part in the next round: with noise that is correlated over b rounds, each client in every b-th.

        By a hash of its name, so that it is the same after a restart; devices refuse a round that comes too soon.
        """
        privacy = self._specification.privacy
        if not isinstance(privacy, ClientCentral) or privacy.banded is None or privacy.banded.bands == 1:
            return members
        bands, run = privacy.banded.bands, self._specification.run
        turn = round % bands
        return [member for member in members if turn_of(run, member.name, bands) == turn]

    def _tell_waiting(self, members: Sequence[Member], wanted: int, said: str) -> str:
        """Say in the server's log whom the run waits for, whenever that changes; what was said last."""
        if self._secure is None:
            text = f"waiting: {len(members)} of {wanted} devices are connected"
        else:
            missing, strangers = self._secure.absent(members)
            text = f"waiting: {len(self._secure.known(members))} of {wanted} members; missing: {', '.join(missing)}"
            if strangers:
                text += f"; connected under no name of the roster: {', '.join(strangers)}"
        if text != said:
            log.info("%s", text)
        return text

    def _too_few(self, known: int, connected: int, wanted: int) -> str:
        waited = f"waited {self._patience:g} s ([server] wait_for_devices)"
        if known < connected:
            return (
                f"{known} of {connected} connected devices bear a name of the roster, {wanted} are needed; {waited}; "
                "'fedsus server devices add NAME' and 'fedsus federation admit' must use the same names"
            )
        return f"{connected} devices are connected, {wanted} are needed; {waited}"


def turn_of(run: str, client: str, bands: int) -> int:
    """Which of every ``bands`` rounds a client takes part in: 0..bands - 1."""
    found = hashlib.sha256(f"fedsus turn {run} {client}".encode()).digest()
    return int.from_bytes(found[:8], "big") % bands
