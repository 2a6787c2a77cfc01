"""The meter and the carbon intensity of the server's round loop, as ``[energy]`` and ``[carbon]`` of run.toml ask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.errors import ConfigError, EnvironmentFault

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from fedsus.config import RunConfig
    from fedsus.costs import Meter, Phase, Usage
    from fedsus.energy.grid.fetching import Fetch
    from fedsus.energy.grid.intensity import Intensity
    from fedsus.settings.carbon import CarbonSettings
    from fedsus.types import Clock

_SUPERLINK: Final = "fedsus_server.flower.superlink"
_SHARED: Final = "with the SuperLink, which all runs of this server share"


def of(config: RunConfig, folder: Path, clock: Clock, where: str = "run.toml") -> tuple[Meter, Intensity | None]:
    """A meter whose usages are priced, and what prices them.

    Args:
        where: the file that ``config`` is from, for whoever is to mend it.

    Raises:
        ConfigError: the source of intensity cannot be used.
        EnvironmentFault: counters are asked for without an assumption, and are not there.
    """
    from fedsus.energy.grid.carbon import make_intensity
    from fedsus.energy.meters.meter import make_meter
    from fedsus.energy.meters.parents import Parents
    from fedsus.energy.meters.phases import Times
    from fedsus.energy.priced import PricedMeter

    fetch: Fetch | None = None
    if config.carbon.http is not None:  # importing it takes longer than all else here
        from fedsus_server.fetching import fetch as opened

        fetch = opened
    intensity = make_intensity(config.carbon, folder, fetch, clock, where)
    parents = Parents(_SUPERLINK)
    meter = make_meter(config.energy, Times(process=parents))
    return PricedMeter(_WithSuperLink(meter) if parents.pids else meter, intensity, clock), intensity


class _WithSuperLink:
    """A meter whose usages say that they hold the SuperLink's."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """As `Meter.phase`."""
        return self._meter.phase(name)

    def take(self) -> Usage | None:
        """As `Meter.take`."""
        usage = self._meter.take()
        return None if usage is None else replace(usage, boundary=f"{usage.boundary}; {_SHARED}")


def located(carbon: CarbonSettings, folder: Path) -> CarbonSettings:
    """The settings with whole paths: the round loop works in another folder than run.toml's."""
    changes: dict[str, object] = {}
    if carbon.series is not None:
        changes["series"] = carbon.series.model_copy(update={"files": str(folder / carbon.series.files)})
    if carbon.http is not None:
        files = {"token_file": carbon.http.token_file, "ca": carbon.http.ca}
        whole = {name: str(folder / file) for name, file in files.items() if file is not None}
        changes["http"] = carbon.http.model_copy(update=whole)
    return carbon.model_copy(update=changes)


def check(config: RunConfig, file: Path, clock: Clock) -> None:
    """Refuse before a run of ``file`` opens what its round loop could not use.

    A source without which the run would end, once its first round is released, is asked for its present value.

    Raises:
        ConfigError, EnvironmentFault: as `of`; or there is no such value.
    """
    if config.carbon.source is None and (config.energy.meter, config.energy.missing) != ("counter", "refuse"):
        return
    _, intensity = of(config, file.parent, clock, str(file))
    if intensity is None or config.carbon.missing != "refuse":
        return
    try:
        now = clock()
        intensity.over(now, now)
    except EnvironmentFault as fault:
        raise ConfigError(
            f'{file}: [carbon] has no figure for now, and missing = "refuse": {fault}; mend the source, or set '
            'missing = "assume", or give [carbon.fallback]'
        ) from None


def lines(config: RunConfig) -> list[str]:
    """What the operator should know of the run's budget and schedule; nothing where there are none."""
    found, budget, schedule = [], config.budget, config.schedule
    given = ((budget.joules, "J"), (budget.kwh, "kWh"), (budget.grams, "g CO2e"))
    caps = [f"{value:g} {unit}" for value, unit in given if value is not None]
    if caps:
        found.append(f"budget: at most {' and '.join(caps)}; {_counted(config)}")
    if schedule.policy == "cleanest":
        later = f"up to {schedule.slack_hours:g} h later than at once"
        found.append(f"schedule: rounds move to cleaner hours, {later}")
        if schedule.slack_hours == 0:
            found.append("! no round is put off: [schedule] slack_hours is 0; say how much later the run may end")
        elif config.carbon.source not in ("series", "http"):
            found.append("! no source of [carbon] tells hours apart (series and http do): all rounds start at once")
        elif schedule.duration is None:
            found.append("! the first round starts at once: [schedule] duration says how long one takes")
    return found


def _counted(config: RunConfig) -> str:
    """Whose usage counts towards the budget."""
    server = "this server's round loop" if config.energy.meter != "off" else "not this server (its meter is off)"
    if config.plan.costs is not None:
        devices = "what devices report"
    elif config.budget.device_watts is not None:
        devices = f"{config.budget.device_watts:g} W assumed of each device"
    else:
        devices = "not the devices (they are asked for no [plan.costs])"
    return f"counted: {server}; {devices}"
