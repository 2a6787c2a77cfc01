"""Keeps active runs going: submits a run whose round loop is not there, until its journal is closed.

One owner of submissions: `fedsus server run` only leaves a note (`Home.activate`), so that a new run, a killed round
loop, a restarted SuperLink and a restarted machine are all the same case.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from fedsus.errors import FedsusError, UserError
from fedsus.reporting import summary
from fedsus.types import Clock
from fedsus_server import looping, processes, receipts
from fedsus_server.home import ActiveRun, Home

if TYPE_CHECKING:
    from fedsus_server.flower.control import FlowerRun

TRIES: Final = 3
"""Submissions without a newly released round, after which a run is given up."""

_ASK_SECONDS: Final = 1.0
log = logging.getLogger("fedsus.server")


class Submitter(Protocol):
    """What is needed of `fedsus_server.flower.control.Control`."""

    def submit(self, folder: Path) -> int: ...
    def stop(self, run_id: int) -> None: ...
    def runs(self) -> Sequence[FlowerRun]: ...


class Resumer:
    """Looks after active runs; call `step` a few times a second.

    Args:
        home: where active runs are noted.
        connect: opens the control API.
        up_since: when the SuperLink that answers now was started; what was submitted before is lost.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        home: Home,
        connect: Callable[[], AbstractContextManager[Submitter]],
        up_since: Callable[[], float],
        clock: Clock,
    ) -> None:
        self._home, self._connect, self._up_since, self._clock = home, connect, up_since, clock
        self._asked: dict[str, float] = {}
        self._said: dict[str, str] = {}

    def step(self) -> None:
        """Look at each active run once. A fault of one does not touch the others."""
        for run in self._home.active():
            try:
                self._look(run)
            except (FedsusError, OSError) as error:
                if self._said.get(run.run) != str(error):
                    log.warning("run %s: %s", run.run, error)
                self._said[run.run] = str(error)
                if not isinstance(error, UserError):
                    self._give_up(run, str(error))

    def _look(self, run: ActiveRun) -> None:
        folder = Path(run.folder)
        loop = looping.of(folder)
        if run.given_up is not None:
            return
        if loop is not None and loop.alive and loop.ended is None:
            if run.submitted >= self._up_since():
                return
            # Its SuperLink is gone, and was not there to end it: it asks a closed port, and holds the run's folder.
            processes.end(loop.pid, loop.start, patience=3.0)
        found = summary(folder)
        if found.closed is not None:
            log.info("run %s is closed: %s", run.run, found.closed.reason)
            receipts.leave_quietly(folder, self._home.folder)  # the round loop may have been killed before it did
            self._home.forget(run.run)
            return
        if run.flower_run is None:
            self._submit(run, len(found.rounds), 1)
        elif loop == _loop_at(run):
            self._await_start(run, len(found.rounds))
        elif loop is not None and loop.ended is not None:
            self._give_up(run, loop.ended)
        else:
            self._again(run, len(found.rounds), "its round loop ended")

    def _await_start(self, run: ActiveRun, released: int) -> None:
        """Submitted, no process yet: wait, unless Flower says that none will come."""
        if run.submitted < self._up_since():
            self._again(run, released, "the SuperLink was restarted")
            return
        now = self._clock()
        if now - max(run.submitted, self._asked.get(run.run, 0.0)) < _ASK_SECONDS:
            return
        self._asked[run.run] = now
        with self._connect() as control:
            state = next((one for one in control.runs() if one.run_id == run.flower_run), None)
        if state is None or state.status == "finished":
            self._again(run, released, (state.details if state else "") or "its round loop did not start")

    def _again(self, run: ActiveRun, released: int, why: str) -> None:
        tries = 1 if released > run.released else run.tries + 1
        if tries > TRIES:
            self._give_up(run, f"{why}; {TRIES} tries released no further round")
            return
        log.warning("run %s: %s; it goes on after round %d (try %d of %d)", run.run, why, released, tries, TRIES)
        self._submit(run, released, tries)

    def _submit(self, run: ActiveRun, released: int, tries: int) -> None:
        loop = looping.of(Path(run.folder))
        with self._connect() as control:
            if run.flower_run is not None:
                # Flower may believe for another minute that the old one runs.
                with contextlib.suppress(FedsusError):
                    control.stop(run.flower_run)
            number = control.submit(Path(run.folder))
        self._home.activate(
            replace(
                run,
                flower_run=number,
                tries=tries,
                released=released,
                submitted=self._clock(),
                loop_pid=loop.pid if loop else None,
                loop_start=loop.start if loop else None,
                loop_ended=loop.ended if loop else None,
            )
        )
        log.info("run %s submitted", run.run)

    def _give_up(self, run: ActiveRun, why: str) -> None:
        log.error("run %s given up: %s", run.run, why)
        self._home.activate(replace(run, given_up=" ".join(why.split())))


def _loop_at(run: ActiveRun) -> looping.Loop | None:
    """The round loop that was there at the latest submission."""
    if run.loop_pid is None:
        return None
    return looping.Loop(run.loop_pid, run.loop_start, run.loop_ended)
