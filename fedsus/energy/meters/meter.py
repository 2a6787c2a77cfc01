"""The meter of this process: phases, and the parts of the machine whose joules are counted or modelled."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from fedsus.energy.meters.machine import Hardware, Machine, look
from fedsus.energy.meters.phases import Inside, Phases, Times
from fedsus.energy.meters.spent import Spent
from fedsus.errors import EnvironmentFault

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from fedsus.costs import Meter, Phase, Usage
    from fedsus.energy.meters.counters import Counter
    from fedsus.energy.meters.spent import Part
    from fedsus.settings.energy import EnergySettings

log = logging.getLogger("fedsus.energy")

EVERY: Final = 1.0
"""Seconds between readings of counters at borders of phases; a reading costs some ten microseconds."""

_NOTHING: Final = Spent()
_TIMES: Final = Times()
_HARDWARE: Final = Hardware()
_FORKED: Final = "energy: not measured in a process that was forked from the one with the meter; make one there"


class PartsMeter:
    """See `fedsus.costs.Meter`: the sum of its parts. It is of one process: in a child that was forked from it, phases
    measure nothing, and `take` says so.

    Counters are read when it is taken, at borders of phases that are `EVERY` seconds or more after the last reading,
    and, where they begin again at 0, by a thread that sleeps at most half as long as that takes.

    Args:
        counters: those that the parts read.
        idle_watts: what the whole machine draws when idle, where its owner says so.
        refuse: whether a counter that fails is an error.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        times: Times = _TIMES,
        *,
        counters: Sequence[Counter] = (),
        idle_watts: float | None = None,
        refuse: bool = False,
    ) -> None:
        self._parts, self._idle_watts, self._refuse = parts, idle_watts, refuse
        self._lock, self._spent, self._seconds = threading.Lock(), _NOTHING, 0.0
        self._phases = Phases(times, self._border if counters else None)
        self._sampled = times.steady()
        self._elsewhere = False
        _METERS.add(self)
        if counters:
            # What was used between finding the counters and now is nobody's.
            self._sample()
            self._spent, self._seconds = _NOTHING, 0.0
        if wrapping := [counter.wraps / counter.most for counter in counters if counter.wraps is not None]:
            self._watch(min(wrapping) / 2)

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """As `Meter.phase`."""
        return Inside(self._phases, name)

    def take(self) -> Usage:
        """As `Meter.take`; always something.

        Raises:
            EnvironmentFault: also in a child of the process that it was made in.
        """
        if self._elsewhere:
            raise EnvironmentFault(_FORKED)
        with self._lock:
            self._sample()
            spent, seconds = self._spent, self._seconds
            self._spent, self._seconds = _NOTHING, 0.0
        if spent.lost and self._refuse:
            raise EnvironmentFault(f'energy: {spent.lost[0]}; [energy] missing = "refuse" ends the work here')
        for why in spent.lost:
            log.warning("energy: %s; this interval is by the model", why)
        usage = spent.usage(seconds)
        if self._idle_watts is None:
            return usage
        source = f"{usage.source}; {self._idle_watts:g} W idle as declared"
        return replace(usage, idle=self._idle_watts * seconds, source=source)

    def sample(self) -> None:
        """Read the counters now."""
        with self._lock:
            self._sample()

    def forked(self) -> None:
        """To be called in a child: another thread, which is not here, may have held the locks."""
        self._lock, self._elsewhere = threading.Lock(), True
        self._phases.forked()

    def _sample(self) -> None:
        work = self._phases.take()
        self._sampled += work.seconds
        self._seconds += work.seconds
        for part in self._parts:
            spent = part.spend(work)
            self._spent = spent if self._spent is _NOTHING else self._spent + spent

    def _border(self, steady: float) -> None:
        # Who takes or samples at this moment does the same, so that nobody waits.
        if steady - self._sampled >= EVERY and self._lock.acquire(blocking=False):
            try:
                self._sample()
            finally:
                self._lock.release()

    def _watch(self, seconds: float) -> None:
        gone, this = threading.Event(), weakref.ref(self)
        weakref.finalize(self, gone.set)
        threading.Thread(target=watched, args=(this, gone, seconds), name="fedsus-energy", daemon=True).start()


def watched(this: weakref.ref[PartsMeter], gone: threading.Event, seconds: float) -> None:
    """Sample a meter every ``seconds`` until it is gone."""
    while not gone.wait(seconds):
        meter = this()
        if meter is not None:
            meter.sample()
        del meter


_METERS: Final[weakref.WeakSet[PartsMeter]] = weakref.WeakSet()


def _forked() -> None:
    for meter in list(_METERS):
        meter.forked()


if hasattr(os, "register_at_fork"):  # where there is fork
    os.register_at_fork(after_in_child=_forked)


class NoMeter:
    """Measures nothing, and says so."""

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """Nothing happens."""
        del name
        return contextlib.nullcontext()

    def take(self) -> Usage | None:
        """None."""
        return None


def make_meter(settings: EnergySettings, times: Times = _TIMES, hardware: Hardware = _HARDWARE) -> Meter:
    """The meter that the settings ask for, of what this machine has. Made once a process.

    Raises:
        EnvironmentFault: counters are asked for, one is missing, and the settings refuse to go on without.
    """
    if settings.meter == "off":
        return NoMeter()
    machine = look(settings, hardware)
    if settings.meter == "counter":
        for note in machine.notes:
            log.warning("energy: %s", note)
    return meter_of(machine, settings, times)


def meter_of(machine: Machine, settings: EnergySettings, times: Times = _TIMES) -> PartsMeter:
    """The meter of what was found of this machine."""
    return PartsMeter(
        machine.parts,
        times,
        counters=machine.counters,
        idle_watts=settings.idle_watts,
        refuse=settings.missing == "refuse",
    )
