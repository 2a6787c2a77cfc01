"""Whose processor time it was: the process's, divided over phases that several threads are in at once."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from fedsus.costs import PHASES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from fedsus.costs import Phase

_BITS: Final[Mapping[Phase, int]] = {phase: 1 << place for place, phase in enumerate(PHASES)}
_ALONE: Final[Mapping[int, Phase]] = {0: "wait", **{bit: phase for phase, bit in _BITS.items()}}
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


@dataclass(slots=True)
class _Stack:
    """The phases of one thread, outermost first, and since when it is in the innermost."""

    thread: int
    phases: list[Phase] = field(default_factory=list)
    since: float = 0.0
    used: float = 0.0


class Phases:
    """Counts processor time by phase. Entering and leaving cost a few microseconds.

    The rule. Between two borders (a thread enters or leaves a phase, anywhere in the process) the processor time of
    the whole process belongs to the phases that threads are in, whoever used it: the workers of a phase have no phase
    of their own. Where threads are in one phase, all of it is that phase's. Where they are in several, each has a part
    in proportion to its load, which is the processor time of its own threads per second in it, so far: who waits for a
    lock or a network takes next to nothing from who trains. A phase without a load yet has 1, "wait" has 0. In no
    phase, it is "wait".
    """

    def __init__(self, times: Times, border: Callable[[float], None] | None = None) -> None:
        """``border`` is called after each border with the steady time."""
        self._now, self._used, self._used_here = times.steady, times.process, times.thread
        self._lock, self._local, self._after = threading.Lock(), threading.local(), border
        self._inside, self._set = dict.fromkeys(PHASES, 0), 0
        self._own: dict[Phase, tuple[float, float]] = {}
        self._shared: dict[int, float] = {}
        self._steady, self._process = times.steady(), times.process()
        self._began = self._steady

    def inside(self, phase: Phase) -> Inside:
        """A context in which ``phase`` is the calling thread's; inside another one, it alone."""
        return Inside(self, phase)

    def enter(self, phase: Phase) -> _Stack:
        """The calling thread is in ``phase`` from now on."""
        stack: _Stack | None = getattr(self._local, "stack", None)
        if stack is None:
            stack = self._local.stack = _Stack(threading.get_ident())
        with self._lock:
            self._border(stack)
            if stack.phases:
                self._out(stack.phases[-1])
            self._in(phase)
            stack.phases.append(phase)
        if self._after is not None:
            self._after(self._steady)
        return stack

    def leave(self, stack: _Stack) -> None:
        """Its innermost phase is over: a context may end in another thread than it began in."""
        with self._lock:
            self._border(stack)
            self._out(stack.phases.pop())
            if stack.phases:
                self._in(stack.phases[-1])
        if self._after is not None:
            self._after(self._steady)

    def take(self) -> Work:
        """All since the last take."""
        with self._lock:
            self._border(None)
            seconds, self._began = self._steady - self._began, self._steady
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

    def _border(self, stack: _Stack | None) -> None:
        steady, process = self._now(), self._used()
        used = process - self._process
        if used > 0:
            self._shared[self._set] = self._shared.get(self._set, 0.0) + used
        self._steady, self._process = steady, process
        if stack is None or stack.thread != threading.get_ident():
            return
        mine = self._used_here()
        if stack.phases:
            phase = stack.phases[-1]
            own, seconds = self._own.get(phase, (0.0, 0.0))
            self._own[phase] = (own + mine - stack.used, seconds + steady - stack.since)
        stack.since, stack.used = steady, mine

    def _out(self, phase: Phase) -> None:
        left = self._inside[phase] = self._inside[phase] - 1
        if not left:
            self._set &= ~_BITS[phase]

    def _in(self, phase: Phase) -> None:
        self._inside[phase] += 1
        self._set |= _BITS[phase]

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
