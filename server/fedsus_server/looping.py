"""Which process runs a run's round loop: ``loop.json`` in the run's folder, written by that process.

Flower notices a killed round loop only after its task heartbeat expires (30 s, 60 s later on); this file tells at once.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fedsus.rounds.server_half.postponing import CLEANER
from fedsus_server import processes
from fedsus_server.home import write

NAME: Final = "loop.json"


@dataclass(frozen=True, slots=True)
class Loop:
    """The latest round loop over a folder.

    Attributes:
        ended: the reason when it ended itself by a named error.
        waits: until when it waits, seconds since the epoch.
        why: what for, as `fedsus.rounds.server_half.postponing.Waits` says it.
    """

    pid: int
    start: str | None
    ended: str | None = None
    waits: float | None = field(default=None, compare=False)
    why: str = field(default=CLEANER, compare=False)

    @property
    def alive(self) -> bool:
        """Whether that process still lives."""
        return processes.alive(self.pid, self.start)


def note_start(folder: Path) -> None:
    """Called by a round loop once it holds the journal."""
    write(folder / NAME, asdict(Loop(os.getpid(), processes.started(os.getpid()))))


def note_end(folder: Path, reason: str) -> None:
    """Called by a round loop that cannot go on, with the reason in one line."""
    found = of(folder)
    if found is None or not found.alive or found.pid == os.getpid():
        write(folder / NAME, asdict(Loop(os.getpid(), processes.started(os.getpid()), reason)))


def note_wait(folder: Path, until: float | None, why: str = CLEANER) -> None:
    """Called by a round loop that waits; None once it does no longer."""
    found = of(folder)
    if found is not None and found.pid == os.getpid():
        write(folder / NAME, asdict(replace(found, waits=until, why=why)))


def waits(folder: Path) -> str | None:
    """What the living round loop of a folder waits for, for a person; None where it does not."""
    found = of(folder)
    if found is None or found.waits is None or not found.alive:
        return None
    return f"waits {found.why} until {datetime.fromtimestamp(found.waits, UTC):%Y-%m-%d %H:%M} UTC"


def of(folder: Path) -> Loop | None:
    """The latest round loop of a folder, alive or not; None before the first."""
    try:
        return Loop(**json.loads((folder / NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
