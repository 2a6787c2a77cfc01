"""Waits for the clients of a round: as many as the plan asks for, or enough of them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from fedsus.errors import RunFailed
from fedsus.protection import ClientCentral
from fedsus.types import Clock, Member

if TYPE_CHECKING:
    from fedsus.journal import RunState
    from fedsus.rounds.exchange import Fleet
    from fedsus.rounds.secure import Draw, SecureRounds
    from fedsus.rounds.specification import Specification

log = logging.getLogger("fedsus.server")

_WAIT_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 30.0


def pause_after(abandoned: int) -> float:
    """Seconds that a run waits after so many attempts that were abandoned in a row."""
    return min(2.0 ** min(abandoned - 1, 10), _LONGEST_PAUSE_SECONDS) if abandoned else 0.0


class Gathering:
    """Chooses who is asked in an attempt.

    Args:
        secure: the sessions of a secure sum; None in a run in clear.
        draw: chooses a cohort when more clients are connected than the plan asks.
        now, sleep: time, a simulation's own where it has one.
    """

    def __init__(
        self,
        specification: Specification,
        fleet: Fleet,
        secure: SecureRounds | None,
        draw: Draw,
        now: Clock,
        sleep: Callable[[float], None],
    ) -> None:
        self._specification, self._fleet, self._secure = specification, fleet, secure
        self._draw, self._now, self._sleep = draw, now, sleep

    def cohort(self, progress: RunState) -> list[Member]:
        """Who is asked: all that the plan's size allows, once enough are connected."""
        asked = self._specification.config.plan.cohort
        least = asked.minimum if self._secure is None else self._secure.floor
        # The first attempt waits for everyone; later ones take the minimum: one lost device costs no wait.
        wanted = asked.size if progress.attempts == 0 else least
        patience = self._now() + self._specification.config.server.wait_for_devices
        said = ""
        while True:
            members = self._due(self._fleet.members(), progress.next_round)
            known = members if self._secure is None else self._secure.known(members)
            if len(known) >= wanted:
                break
            if self._now() >= patience:
                raise RunFailed(self._too_few(len(known), len(members), wanted))
            said = self._tell_waiting(members, wanted, said)
            self._sleep(_WAIT_SECONDS)
        if self._secure is None and len(known) > asked.size:
            return sorted(self._draw(known, asked.size, progress.attempts + 1), key=attrgetter("id"))
        return list(known)

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
        waited = f"waited {self._specification.config.server.wait_for_devices:g} s ([server] wait_for_devices)"
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
