"""What the owner is told while the agent works: ``status.json``, written when it says something else."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.errors import FedsusError
from fedsus.types import Clock
from fedsus_client.status import Status, paused, process_start, write_status

if TYPE_CHECKING:
    from fedsus.rounds.device_half.device import Answer

_SECONDS: Final = 1.0
log = logging.getLogger("fedsus.client")


class Telling:
    """The agent's status; each change reaches the disk within a second or two, and seldom more than one a second.

    Args:
        folder: the agent's state folder.
        server: host:port.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, server: str, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        self._written, self._untold = 0.0, False
        self._status = Status(
            state="starting",
            server=server,
            pid=os.getpid(),
            started=process_start(os.getpid()) or "",
            updated=clock(),
        )

    def tell(self, state: str, detail: str = "", force: bool = False) -> None:
        """Write the status, at most once a second unless it must be said now."""
        now = self._clock()
        if not force and now - self._written < _SECONDS:
            return
        self._written, self._untold = now, False
        self._status = replace(self._status, state=state, detail=detail, updated=now, memory=_resident())
        write_status(self._folder, self._status)

    def last(self, state: str) -> None:
        """As `tell`, at the agent's end; a disk that is full is said in the log, and keeps nothing from its end."""
        try:
            self.tell(state, force=True)
        except FedsusError as error:
            log.warning("%s", error)

    def waiting(self) -> None:
        """A question waits at the server: write the status if it says something else."""
        state = "paused" if paused(self._folder) else "idle"
        if self._untold or self._status.state != state:
            self.tell(state)

    def answered(self, answer: Answer) -> None:
        """Note an answer, and a refusal, be it of the next session alone; its reason never leaves the device."""
        self._untold = True
        status, plan = self._status, answer.plan
        if plan is not None:
            last = min(plan.round, plan.rounds)  # the evaluation of the final model comes after the last round
            status = replace(status, answered=status.answered + 1, run=plan.run, round=last, rounds=plan.rounds)
        if answer.declined is not None:
            refused, now = status.refused + 1, self._clock()
            status = replace(status, refused=refused, last_refusal=answer.declined, last_refused=now)
        self._status = status


def _resident() -> int | None:
    """Resident bytes of this process, where /proc tells."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGESIZE")
