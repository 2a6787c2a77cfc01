"""The owner's meter and carbon intensity: found beside the connection, since looking at the hardware takes a moment."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import AbstractContextManager
from threading import Event
from typing import TYPE_CHECKING, Final

from fedsus.owner.consumption import Consumption, Fault

if TYPE_CHECKING:
    from fedsus.costs import Meter, Phase, Usage
    from fedsus.energy.grid.fetching import Fetch
    from fedsus.energy.grid.intensity import Intensity
    from fedsus.types import Clock
    from fedsus_client.config import AgentConfig

_LOOK_SECONDS: Final = 0.2


class LateMeter:
    """A meter that is waited for when it is first needed."""

    def __init__(self, found: Future[Meter]) -> None:
        self._found = found
        self._meter: Meter | None = None

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """As `fedsus.costs.Meter.phase`."""
        return (self._meter or self._wait()).phase(name)

    def take(self) -> Usage | None:
        """As `fedsus.costs.Meter.take`."""
        return (self._meter or self._wait()).take()

    def _wait(self) -> Meter:
        self._meter = self._found.result()
        return self._meter


class Metering:
    """Makes what an owner's ``[energy]`` and ``[carbon]`` ask for.

    Attributes:
        consumption: what the agent counts by.

    Raises:
        CorruptionError: the record was changed.
        EnvironmentFault: another agent uses it, or it cannot be read.
    """

    def __init__(self, config: AgentConfig, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="meter")
        self._intensity = self._worker.submit(self._find_intensity)
        meter = LateMeter(self._worker.submit(self._find_meter))
        refuse: set[Fault] = {"meter", "record"} if config.energy.missing == "refuse" else set()
        if config.carbon.source and config.carbon.missing == "refuse":
            refuse.add("carbon")
        self.consumption = Consumption(meter, config.energy_record, clock, price=self._priced, refuse=refuse)

    def wait(self, stopped: Event) -> None:
        """Until ``[carbon]`` was read, which takes a moment for long series: no server hears of a device before.

        Raises:
            UserError: what makes it unusable; see `fedsus.energy.grid.carbon.make_intensity`.
        """
        while not stopped.is_set() and not wait_for([self._intensity], timeout=_LOOK_SECONDS).done:
            pass
        if self._intensity.done():
            self._intensity.result()

    def close(self) -> None:
        """Write what was counted."""
        self.consumption.close()
        self._worker.shutdown(cancel_futures=True)

    def _find_meter(self) -> Meter:
        from fedsus.energy.meters.meter import make_meter

        return make_meter(self._config.energy)

    def _find_intensity(self) -> Intensity | None:
        return intensity_of(self._config, self._clock)

    def _priced(self, usage: Usage, start: float, end: float) -> Usage:
        from fedsus.energy.grid.carbon import priced

        return priced(usage, self._intensity.result(), start, end)


def intensity_of(config: AgentConfig, clock: Clock) -> Intensity | None:
    """The source that ``[carbon]`` of an agent.toml names; None where it names none.

    Raises:
        UserError: as `fedsus.energy.grid.carbon.make_intensity`.
    """
    if config.carbon.source is None:
        return None
    from fedsus.energy.grid.carbon import make_intensity

    fetch: Fetch | None = None
    if config.carbon.http is not None:  # importing it takes longer than all else here
        from fedsus_client.fetching import fetch as opened

        fetch = opened
    return make_intensity(config.carbon, config.state.folder, fetch, clock, str(config.file))
