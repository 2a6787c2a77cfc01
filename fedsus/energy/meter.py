"""The meter of this process: phases, and the parts of the machine whose joules are counted or modelled."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Final

from fedsus.energy.model import model_of
from fedsus.energy.phases import Phases, Times
from fedsus.energy.spent import Spent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from fedsus.costs import Meter, Phase, Usage
    from fedsus.energy.spent import Part
    from fedsus.settings.energy import EnergySettings

_TIMES: Final = Times()


class PartsMeter:
    """See `fedsus.costs.Meter`: the sum of its parts."""

    def __init__(self, parts: Sequence[Part], times: Times = _TIMES) -> None:
        self._parts, self._phases, self._lock = parts, Phases(times), threading.Lock()

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """As `Meter.phase`."""
        return self._phases.inside(name)

    def take(self) -> Usage | None:
        """As `Meter.take`."""
        with self._lock:
            work = self._phases.take()
            return sum((part.spend(work) for part in self._parts), Spent()).usage(work.seconds)


class NoMeter:
    """Measures nothing, and says so."""

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """Nothing happens."""
        del name
        return contextlib.nullcontext()

    def take(self) -> Usage | None:
        """None."""
        return None


def make_meter(settings: EnergySettings, times: Times = _TIMES) -> Meter:
    """The meter that the settings ask for, of what this machine has."""
    if settings.meter == "off":
        return NoMeter()
    return PartsMeter((model_of(settings, os.cpu_count() or 1),), times)
