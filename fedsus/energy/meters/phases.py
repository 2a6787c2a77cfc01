"""Whose processor time it was: the process's, divided over phases that several threads are in at once."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING, Final

from fedsus.costs import PHASES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from fedsus.costs import Phase

    _Mark = tuple["_Stack", Phase | None, float, float, float | None]
    """A border: the phase that a thread is in from now on; the steady, the process's and the thread's own time."""

_BITS: Final[Mapping[Phase, int]] = {phase: 1 << place for place, phase in enumerate(PHASES)}
_ALONE: Final[Mapping[int, Phase]] = {0: "wait", **{bit: phase for phase, bit in _BITS.items()}}
_MANY: Final = 256
"""Borders that are noted before they are reckoned, at most."""

_IDLE: Final = 1e-3
"""Least load of a phase, so that the time of phases that all sleep is still divided."""


@dataclass(frozen=True, slots=True)
class Times:
    """Clocks in seconds; none of them ever goes back, whatever happens to the date.

    Attributes:
        steady: time while the machine is awake: a suspended machine is not idle but off.
        process: processor time of all threads of this process.
        thread: processor time of the calling thread.
    """

    steady: Callable[[], float] = time.monotonic
    process: Callable[[], float] = time.process_time
    thread: Callable[[], float] = time.thread_time


@dataclass(frozen=True, slots=True)
class Work:
    """Processor time of this process over an interval.

    Attributes:
        seconds: length of the interval.
        cpu: processor seconds by phase, phases without any left out; their sum is that of the process.
    """

    seconds: float
    cpu: Mapping[Phase, float]

    @property
    def total(self) -> float:
        """Processor seconds of all phases."""
        return sum(self.cpu.values())


class _Stack:
    """The phases of one thread, outermost first; of what is reckoned, the innermost, and since when."""

    __slots__ = ("inside", "phases", "since", "thread", "used")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self.phases: list[Phase] = []
        self.inside: Phase | None = None
        self.since = 0.0
        self.used: float | None = None


class Phases:
    """Counts processor time by phase. Entering and leaving cost a few microseconds.

    The rule. Between two borders (a thread enters or leaves a phase, anywhere in the process) the processor time of
    the whole process belongs to the phases that threads are in, whoever used it: the workers of a phase have no phase
    of their own. Where threads are in one phase, all of it is that phase's. Where they are in several, each has a part
    in proportion to its load, which is the processor time of its own threads per second in it, so far: who waits for a
    lock or a network takes next to nothing from who trains. A phase without a load yet has 1, "wait" has 0. In no
    phase, it is "wait".

    A border notes what the clocks say, no more. What that amounts to is reckoned later, many borders at once: beside
    work that fills the processor's caches a line of code costs several times what it does among its own kind.
    """

    def __init__(self, times: Times, border: Callable[[float], None] | None = None) -> None:
        """``border`` is called after each border with the steady time."""
        self._now, self._used, self._used_here = times.steady, times.process, times.thread
        self._lock, self._local, self._after = threading.Lock(), threading.local(), border
        self._marks: list[_Mark] = []
        self._inside, self._set = dict.fromkeys(PHASES, 0), 0
        self._own: dict[Phase, tuple[float, float]] = {}
        self._shared: dict[int, float] = {}
        self._process, self._began = times.process(), times.steady()

    def inside(self, phase: Phase) -> Inside:
        """A context in which ``phase`` is the calling thread's; inside another one, it alone."""
        return Inside(self, phase)

    def enter(self, phase: Phase) -> _Stack:
        """The calling thread is in ``phase`` from now on."""
        try:
            stack: _Stack = self._local.stack
        except AttributeError:
            stack = self._local.stack = _Stack(get_ident())
        phases = stack.phases
        if not phases or phases[-1] != phase:
            self._border(stack, phase, True)
        phases.append(phase)
        return stack

    def leave(self, stack: _Stack) -> None:
        """Its innermost phase is over: a context may end in another thread than it began in."""
        phases = stack.phases
        left = phases.pop()
        now = phases[-1] if phases else None
        if now != left:
            self._border(stack, now, stack.thread == get_ident())

    def forked(self) -> None:
        """To be called in a child process, where nothing is counted any more: whoever held the lock is not here."""
        self._lock, self._after, self._marks = threading.Lock(), None, []

    def _border(self, stack: _Stack, phase: Phase | None, here: bool) -> None:
        with self._lock:
            steady = self._now()
            self._marks.append((stack, phase, steady, self._used(), self._used_here() if here else None))
            if len(self._marks) >= _MANY:
                self._reckon()
        if self._after is not None:
            self._after(steady)

    def take(self) -> Work:
        """All since the last take."""
        with self._lock:
            steady, process = self._now(), self._used()
            self._reckon()
            self._count(process)
            seconds, self._began = steady - self._began, steady
            shared, self._shared = self._shared, {}
            cpu: dict[Phase, float] = {}
            for inside, used in shared.items():
                alone = _ALONE.get(inside)
                if alone is not None:
                    cpu[alone] = cpu.get(alone, 0.0) + used
                    continue
                for phase, part in self._parts(inside):
                    cpu[phase] = cpu.get(phase, 0.0) + used * part
        return Work(seconds, cpu)

    def _reckon(self) -> None:
        """Count what was noted."""
        for stack, phase, steady, process, mine in self._marks:
            self._count(process)
            before = stack.inside
            if before is not None:
                if mine is not None and stack.used is not None:
                    own, seconds = self._own.get(before, (0.0, 0.0))
                    self._own[before] = (own + mine - stack.used, seconds + steady - stack.since)
                left = self._inside[before] = self._inside[before] - 1
                if not left:
                    self._set &= ~_BITS[before]
            if phase is not None:
                self._inside[phase] += 1
                self._set |= _BITS[phase]
            stack.inside, stack.since, stack.used = phase, steady, mine
        self._marks.clear()

    def _count(self, process: float) -> None:
        used = process - self._process
        if used > 0:
            self._shared[self._set] = self._shared.get(self._set, 0.0) + used
            self._process = process

    def _parts(self, inside: int) -> Iterator[tuple[Phase, float]]:
        phases = [phase for phase in PHASES if inside & _BITS[phase]]
        loads = [self._load(phase) for phase in phases]
        yield from zip(phases, (load / sum(loads) for load in loads), strict=True)

    def _load(self, phase: Phase) -> float:
        own, seconds = self._own.get(phase, (0.0, 0.0))
        if seconds <= 0:
            return _IDLE if phase == "wait" else 1.0
        return max(own / seconds, _IDLE)


class Inside:
    """See `Phases.inside`."""

    __slots__ = ("_phase", "_phases", "_stack")

    def __init__(self, phases: Phases, phase: Phase) -> None:
        self._phases, self._phase = phases, phase

    def __enter__(self) -> None:
        self._stack = self._phases.enter(self._phase)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phases.leave(self._stack)
