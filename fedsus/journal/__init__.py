"""The append-only list of what happened in a run, and its checkpoints, on the operator's disk.

A run's folder holds ``journal.jsonl`` and ``blobs/``. Resuming needs these two and nothing else.
"""

from fedsus.journal.blobs import get, prune, put
from fedsus.journal.disk import Disk
from fedsus.journal.entries import (
    AttemptAbandoned,
    AttemptOpened,
    Entry,
    RoundReleased,
    RunClosed,
    RunOpened,
)
from fedsus.journal.journal import Journal
from fedsus.journal.reading import NAME, Reader
from fedsus.journal.state import RunState, fold

__all__ = [
    "NAME",
    "AttemptAbandoned",
    "AttemptOpened",
    "Disk",
    "Entry",
    "Journal",
    "Reader",
    "RoundReleased",
    "RunClosed",
    "RunOpened",
    "RunState",
    "fold",
    "get",
    "prune",
    "put",
]
