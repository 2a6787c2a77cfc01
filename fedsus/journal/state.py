"""Where a run stands: its entries, folded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fedsus.errors import CorruptionError
from fedsus.journal.entries import AttemptAbandoned, AttemptOpened, Entry, RoundReleased, RunClosed, RunOpened

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class RunState:
    """What a server needs to go on.

    Attributes:
        opened: the first entry; None before it.
        next_round: the round to ask for next, 1-based.
        attempts: attempts used; one that a crash cut off is among them.
        attempt: the attempt that was opened and has not ended, if any.
        checkpoint: blob of the last state; the first state before any round was released.
        released: the last released round, if any.
        closed: the last entry of a run that is over.
    """

    opened: RunOpened | None = None
    next_round: int = 1
    attempts: int = 0
    attempt: AttemptOpened | None = None
    checkpoint: str | None = None
    released: RoundReleased | None = None
    closed: RunClosed | None = None

    def after(self, entry: Entry) -> RunState:
        """The state after one more entry.

        Raises:
            CorruptionError: the entry cannot follow.
        """
        if self.closed is not None:
            raise CorruptionError(f"{type(entry).__name__} after the run was closed")
        if (self.opened is None) != isinstance(entry, RunOpened):
            raise CorruptionError("RunOpened must be the first entry, and only that")
        match entry:
            case RunOpened():
                return replace(self, opened=entry, checkpoint=entry.checkpoint)
            case AttemptOpened():
                return self._open(entry)
            case RoundReleased():
                self._must_be_open(entry)
                return replace(
                    self, next_round=entry.round + 1, attempt=None, checkpoint=entry.checkpoint, released=entry
                )
            case AttemptAbandoned():
                self._must_be_open(entry)
                return replace(self, attempt=None)
            case RunClosed():
                return replace(self, attempt=None, closed=entry)

    def _open(self, entry: AttemptOpened) -> RunState:
        if (entry.round, entry.attempt) != (self.next_round, self.attempts + 1):
            raise CorruptionError(
                f"round {entry.round}, attempt {entry.attempt} was opened; "
                f"round {self.next_round}, attempt {self.attempts + 1} had to be next"
            )
        return replace(self, attempts=entry.attempt, attempt=entry)

    def _must_be_open(self, entry: RoundReleased | AttemptAbandoned) -> None:
        opened = self.attempt
        if opened is None or (opened.round, opened.attempt) != (entry.round, entry.attempt):
            name = type(entry).__name__
            raise CorruptionError(f"{name} of round {entry.round}, attempt {entry.attempt}, which is not open")


def fold(entries: Iterable[Entry]) -> RunState:
    """The state after all ``entries``.

    Raises:
        CorruptionError: they cannot follow each other.
    """
    state = RunState()
    for entry in entries:
        state = state.after(entry)
    return state
