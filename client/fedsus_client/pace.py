"""When to ask the server again, where it does not hold the question until there is an answer."""

from __future__ import annotations

import random
from typing import Final

_STRETCH: Final = 0.15


class Pace:
    """Waits between two questions: short after an answer, for a round may be on, then longer and longer.

    Args:
        active: the shortest wait, seconds.
        idle: the longest.
        draw: uniform in [0, 1), for the jitter that keeps agents from asking in step.
    """

    def __init__(self, active: float, idle: float, draw: random.Random | None = None) -> None:
        self._active, self._idle = active, idle
        self._draw = draw or random.SystemRandom()
        self._answered: float | None = None

    def answered(self, now: float) -> None:
        """A message was answered: another may be due soon."""
        self._answered = now

    def wait(self, now: float, asked: float) -> float:
        """Seconds until the next question, when the last was asked at ``asked``; 0 where the server held it."""
        wanted = self._idle
        if self._answered is not None:
            wanted = min(max(self._active, _STRETCH * (now - self._answered)), self._idle)
        return max(wanted * (0.9 + 0.2 * self._draw.random()) - (now - asked), 0.0)


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
        ceiling = min(self._first * 2.0**self._failures, self._longest)
        self._failures = min(self._failures + 1, 16)
        return ceiling * (0.5 + 0.5 * self._draw.random())
