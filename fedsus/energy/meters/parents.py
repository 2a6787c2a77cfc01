"""Processor time of this process and of parents that work for it: a round loop, and the SuperLink that started it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PROC: Final = Path("/proc")
_FRESH_SECONDS: Final = 0.25
"""How old a reading of parents may be: phases begin and end more often."""

_DEEPEST: Final = 16


class Parents:
    """Processor seconds of this process, and of its parents up to the nearest whose command line has a word.

    To be the ``process`` of `fedsus.energy.meters.phases.Times`: never less than it was, also when a parent has ended.

    Args:
        word: of the command line; where no parent has it, this process counts alone.
        own, steady: of this process; seconds.

    Attributes:
        pids: the parents that count.
    """

    def __init__(
        self,
        word: str,
        proc: Path = PROC,
        own: Callable[[], float] = time.process_time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._proc, self._own, self._steady = proc, own, steady
        self._ticks = os.sysconf("SC_CLK_TCK")
        self.pids = self._up_to(word)
        self._last = {pid: self._seconds(pid) for pid in self.pids}
        self._sum, self._at = 0.0, steady()

    def __call__(self) -> float:
        """Seconds; parents' from when this was made."""
        if self.pids and self._steady() - self._at >= _FRESH_SECONDS:
            self._at = self._steady()
            for pid in self.pids:
                now = self._seconds(pid)
                if now is not None:
                    before = self._last[pid]
                    # Another process may have got the number of one that ended: its time begins anew.
                    self._sum += 0.0 if before is None else max(now - before, 0.0)
                    self._last[pid] = now
        return self._own() + self._sum

    def _up_to(self, word: str) -> tuple[int, ...]:
        found: list[int] = []
        pid = os.getpid()
        for _ in range(_DEEPEST):
            fields = self._stat(pid)
            pid = int(fields[1]) if fields else 0
            if pid <= 1:
                return ()
            found.append(pid)
            try:
                if word in (self._proc / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0"):
                    return tuple(found)
            except OSError:
                return ()
        return ()

    def _seconds(self, pid: int) -> float | None:
        """User and system time, proc(5): fields 14 and 15, in clock ticks; None where it is gone."""
        fields = self._stat(pid)
        return (int(fields[11]) + int(fields[12])) / self._ticks if fields else None

    def _stat(self, pid: int) -> list[str]:
        """Fields from the third on: the second, the name, may hold anything."""
        try:
            text = (self._proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return text.rpartition(")")[2].split()
