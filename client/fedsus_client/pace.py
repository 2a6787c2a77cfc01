"""When to ask the server next: short while a round is on, long when idle.

Every request costs the server 10-20 ms, so an agent that just answered waits most of the time that the last rounds
left between its answer and the next message, then asks often, and slows down as the wait grows.
"""

from __future__ import annotations

import random
from typing import Final

_SLEPT: Final = 0.7
_STRETCH: Final = 0.15


class Pace:
    """Waits between two polls.

    Args:
        active: seconds between polls while a message is due.
        idle: the longest wait.
        draw: uniform in [0, 1), for the jitter that keeps agents from asking in step.
    """

    def __init__(self, active: float, idle: float, draw: random.Random | None = None) -> None:
        self._active, self._idle = active, idle
        self._draw = draw or random.SystemRandom()
        self._answered: float | None = None
        self._gap: float | None = None

    def answered(self, now: float) -> None:
        """A message was answered: another may be due soon."""
        self._answered = now

    def received(self, now: float) -> None:
        """A message came: learn how long after the last answer."""
        if self._answered is None:
            return
        gap = now - self._answered
        # The shortest recent gap counts most: waiting past it would cost the round, one poll too many costs little.
        self._gap = gap if self._gap is None or gap < self._gap else min(gap, 0.8 * self._gap + 0.2 * gap)

    def wait(self, now: float) -> float:
        """Seconds until the next poll."""
        if self._answered is None:
            return self._jittered(self._idle)
        since = now - self._answered
        due = self._gap * _SLEPT - since if self._gap is not None else 0.0
        return min(self._jittered(max(due, self._active, _STRETCH * (since - (self._gap or 0.0)))), self._idle)

    def _jittered(self, seconds: float) -> float:
        return seconds * (0.9 + 0.2 * self._draw.random())


class Backoff:
    """Waits between attempts to reconnect: doubling, with jitter, for ever.

    Args:
        first, longest: seconds.
    """

    def __init__(self, first: float = 1.0, longest: float = 60.0, draw: random.Random | None = None) -> None:
        self._first, self._longest = first, longest
        self._draw = draw or random.SystemRandom()
        self._failures = 0

    def reset(self) -> None:
        """The connection is good."""
        self._failures = 0

    def wait(self) -> float:
        """Seconds until the next attempt."""
        ceiling = min(self._first * 2**self._failures, self._longest)
        self._failures = min(self._failures + 1, 16)
        return ceiling * (0.5 + 0.5 * self._draw.random())
