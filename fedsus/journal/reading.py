"""Reading a journal, whole or as it grows; every line is checked against the one before."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from fedsus.errors import CorruptionError
from fedsus.journal.entries import GENESIS, Entry, decode
from fedsus.journal.state import RunState

if TYPE_CHECKING:
    from pathlib import Path

NAME: Final = "journal.jsonl"


class Reader:
    """Checks and decodes one line after the other.

    Attributes:
        path: the file, for messages.
        count: lines so far.
        prev: hash of the last line, as the next one must give it.
        state: the run's state after the last line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.prev = GENESIS
        self.state = RunState()

    def feed(self, line: bytes) -> Entry:
        """The entry of the next line, without its line break.

        Raises:
            CorruptionError: names file and line.
        """
        try:
            entry = decode(line, self.count, self.prev)
            state = self.state.after(entry)
        except CorruptionError as error:
            raise CorruptionError(f"{self.path}: line {self.count + 1}: {error}") from error
        self.accept(line, state)
        return entry

    def accept(self, line: bytes, state: RunState) -> None:
        """Count a line that is known to be right."""
        self.count += 1
        self.prev = hashlib.sha256(line).hexdigest()
        self.state = state
