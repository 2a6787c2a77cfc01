"""Entries of a run as they are written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fedsus.journal import NAME, Entry, Reader, RunClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fedsus.types import Stop


def follow(
    run_dir: Path, stop: Stop, poll: float = 0.2, wait: Callable[[float], object] = time.sleep
) -> Iterator[Entry]:
    """All entries, from the first; then each as it comes, until the run is closed or ``stop()`` says so.

    Waits for a journal that is not there yet. A last line without its line break is not an entry: it is
    left until it is whole.

    Args:
        run_dir: the run's folder.
        stop: asked before each look at the file; the look after it is the last.
        poll: seconds between two looks when nothing is new.
        wait: how to pass that time; an event's ``wait`` ends it early.

    Raises:
        CorruptionError: a broken line or chain, by file and line.
    """
    path = run_dir / NAME
    reader, position = Reader(path), 0
    ending = False
    while not ending:
        ending = stop()  # before the look: what was written until then is still told
        lines, position = _whole_lines(path, position)
        for line in lines:
            entry = reader.feed(line)
            yield entry
            if isinstance(entry, RunClosed):
                return
        if not lines and not ending:
            wait(poll)


def _whole_lines(path: Path, position: int) -> tuple[list[bytes], int]:
    """The finished lines after ``position``, without line breaks, and the position after them."""
    try:
        with path.open("rb") as file:
            file.seek(position)
            data = file.read()
    except FileNotFoundError:
        return [], position
    end = data.rfind(b"\n") + 1
    return data[:end].split(b"\n")[:-1], position + end
