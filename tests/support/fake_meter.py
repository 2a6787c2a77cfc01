"""A meter that says what it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from fedsus.costs import Grams, Method, Phase, Usage


@dataclass
class FakeMeter:
    """Each phase that is entered uses ``each`` joules, divided by nothing: an exact number of binary digits.

    Attributes:
        method: of all that is taken.
        entered: phases, in order.
        failing: raised by each take.
        off: measures nothing.
    """

    each: float = 1.0
    method: Method = "counter"
    seconds: float = 1.0
    entered: list[Phase] = field(default_factory=list)
    failing: Exception | None = None
    off: bool = False
    used: dict[Phase, float] = field(default_factory=dict)
    taken: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        self.entered.append(name)
        self.use(name, self.each)
        yield

    def use(self, name: Phase, joules: float) -> None:
        """Something used so much."""
        with self.lock:
            self.used[name] = self.used.get(name, 0.0) + joules

    def take(self) -> Usage | None:
        if self.failing is not None:
            raise self.failing
        if self.off:
            return None
        with self.lock:
            used, self.used = self.used, {}
        total = sum(used.values())
        self.taken += total
        return Usage(
            seconds=self.seconds,
            joules=used,
            low=total / 2,
            high=total * 2,
            idle=4.0,
            method=self.method,
            source="a fake",
            boundary="nothing",
        )


def stated(usage: Usage, start: float, end: float) -> Usage:
    """A gram for each joule."""
    del start, end
    total = usage.total
    grams = Grams(value=total, low=usage.low, high=usage.high, method="assumed", kind="average", source="a number")
    return replace(usage, grams=grams)
