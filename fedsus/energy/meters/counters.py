"""Energy counters of the hardware: what they must be able to do, and what lies between two readings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from fedsus.errors import EnvironmentFault

if TYPE_CHECKING:
    from pathlib import Path

LAG: Final = 0.2
"""Seconds by which a reading may be late: NVML's counters move every 20 to 100 ms, RAPL's every one."""

STANDS: Final = 1.0
"""Seconds after which a counter that did not move is broken: hardware that is on draws something."""


_BEGINNING: Final = 256


class Counter(Protocol):
    """A counter of joules.

    Attributes:
        name: for a person: "RAPL package-0".
        wraps: joules at which it begins again at 0; None where it never does.
        most: W that the hardware cannot exceed.
    """

    @property
    def name(self) -> str: ...
    @property
    def wraps(self) -> float | None: ...
    @property
    def most(self) -> float: ...

    def read(self) -> float:
        """Joules since some moment.

        Raises:
            EnvironmentFault: it cannot be read (any more).
        """
        ...


def beginning(file: Path) -> str:
    """The first 256 bytes of a file of the system, which makes its text anew for each who opens it.

    Three calls of the system: 4 microseconds for a counter, where `Path.read_text` takes nine calls and 28.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read, or is no ASCII.
    """
    handle = os.open(file, os.O_RDONLY)
    try:
        return os.read(handle, _BEGINNING).decode("ascii")
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Lost:
    """The joules of an interval are not known: ``why`` continues the counter's name, ``detail`` has the numbers."""

    why: str
    detail: str = ""


def between(before: float, now: float, seconds: float, counter: Counter) -> float | Lost:
    """Joules from one reading to the next, ``seconds`` later; never negative, and nothing that cannot be."""
    limit = counter.most * (seconds + LAG)
    used = now - before
    if used < 0:
        if counter.wraps is None or used + counter.wraps > limit:
            return Lost("began anew", f"from {before:.0f} J to {now:.0f} J; was the driver loaded again?")
        used += counter.wraps
    if used > limit:
        return Lost("jumped", f"by {used:.0f} J in {seconds:.2g} s, more than {counter.most:g} W")
    if counter.wraps is not None and used + counter.wraps <= limit:
        return Lost("was not read in time", f"for {seconds:.0f} s, in which it may have begun anew")
    if used == 0 and seconds >= STANDS:
        return Lost("stands still")
    return used


class Follower:
    """Reads one counter again and again."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self._last = self._read()

    def since(self, seconds: float) -> float | Lost:
        """Joules since it was asked last, ``seconds`` ago."""
        before, now = self._last, self._read()
        self._last = now
        if isinstance(now, Lost):
            return now
        if isinstance(before, Lost):
            return Lost("could not be read before")
        return between(before, now, seconds, self.counter)

    def _read(self) -> float | Lost:
        try:
            return self.counter.read()
        except EnvironmentFault as error:
            return Lost("cannot be read", str(error))
