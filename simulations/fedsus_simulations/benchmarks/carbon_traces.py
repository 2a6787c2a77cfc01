"""Carbon intensity on a regular grid of time, of one zone or the mean of several, and what is known of it when.

Read by `fedsus.energy.grid.series_files`, so that what a run would refuse is refused here. `Known` forecasts step by
step what `fedsus.energy.grid.series.Series` does, faster: a simulation looks at hundreds of thousands of forecasts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.energy.grid.days_alike import DAY, FADE, ages, calendar_of, weekday_of
from fedsus.energy.grid.intensity import Rate, Step, Steps
from fedsus.energy.grid.series_files import read
from fedsus.errors import ConfigError, EnvironmentFault
from fedsus.settings.carbon import SeriesSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

ZONES: Final = ("PGE", "SCE")
FILES: Final = "SGIP_CAISO_{}_*.csv.gz"
MADE: Final = "generated series, no real grid: give --data FOLDER for figures that mean something"
SPREAD: Final = 0.1
"""Of rates, which the simulation does not use: to either side, as `CarbonSettings.spread` has it by default."""

_MADE_DAYS: Final = 45
_AHEAD: Final = 36
_STEP: Final = 300.0
_MADE_START: Final = 1_609_459_200.0
"""2021-01-01 00:00 UTC."""


def settings(zone: str) -> SeriesSettings:
    """How the files of a zone are read; as `[carbon.series]` would say it."""
    return SeriesSettings(files=FILES.format(zone), value="moer", unit="kg/kWh", forecast="f")


@dataclass(frozen=True, slots=True)
class Trace:
    """A step function of g CO2e/kWh.

    Attributes:
        times: (n,) float64, seconds since the epoch, ``step`` apart.
        values: (n,) float64; each holds from its time to the next.
        ahead: (n, k) float64: what was forecast at each time for the k steps after it.
    """

    name: str
    times: NDArray[np.float64]
    values: NDArray[np.float64]
    ahead: NDArray[np.float64]
    sums: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.times) < 2 or not np.all(np.diff(self.times) == self.step):
            raise ConfigError(f"{self.name}: the rows of a simulated trace must be equally far apart, without gaps")
        object.__setattr__(self, "sums", np.concatenate([[0.0], np.cumsum(self.values * self.step)]))

    @property
    def step(self) -> float:
        """Seconds."""
        return float(self.times[1] - self.times[0])

    @property
    def start(self) -> float:
        """The first moment with a value."""
        return float(self.times[0])

    @property
    def end(self) -> float:
        """From here on there is none."""
        return float(self.times[-1]) + self.step

    def means(self, starts: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
        """Mean intensity of the intervals from ``starts`` on: exact, g/kWh.

        Raises:
            EnvironmentFault: an interval is not wholly inside the trace.
        """
        if starts.size and not self.start <= starts.min() <= starts.max() + seconds <= self.end:
            raise EnvironmentFault(f"{self.name}: no values for {seconds:g} s from some of {len(starts)} starts")
        edges = np.append(self.times, self.end)
        found: NDArray[np.float64] = np.interp(starts + seconds, edges, self.sums) - np.interp(starts, edges, self.sums)
        return found / seconds

    def row(self, now: float) -> int:
        """Which value holds at a moment.

        Raises:
            EnvironmentFault: none does.
        """
        if not self.start <= now < self.end:
            raise EnvironmentFault(f"{self.name}: no value at {now:g} s")
        return int((now - self.start) // self.step)


def mean_of(name: str, traces: Sequence[Trace]) -> Trace:
    """As many devices in each zone: the mean of values and of forecasts.

    Raises:
        ConfigError: they cover other times.
    """
    first = traces[0]
    if any(not np.array_equal(trace.times, first.times) or trace.ahead.shape != first.ahead.shape for trace in traces):
        raise ConfigError(
            f"{', '.join(trace.name for trace in traces)}: zones of one federation must cover equal times"
        )
    count = len(traces)
    values, ahead = sum(trace.values for trace in traces), sum(trace.ahead for trace in traces)
    return Trace(name, first.times, np.asarray(values) / count, np.asarray(ahead) / count)


def load(folder: Path | None) -> list[Trace]:
    """A trace for each zone; generated where no folder is given.

    Raises:
        ConfigError: as `fedsus.energy.grid.series_files.read`.
    """
    if folder is None:
        return [made(zone, seed) for seed, zone in enumerate(ZONES, 1)]
    return [_read(zone, folder) for zone in ZONES]


def _read(zone: str, folder: Path) -> Trace:
    rows, _ = read(settings(zone), "marginal", folder)
    return Trace(
        zone,
        np.array([row.time for row in rows]),
        np.array([row.value for row in rows]),
        np.array([row.forecast for row in rows]),
    )


def made(name: str, seed: int, days: int = _MADE_DAYS) -> Trace:
    """A grid with sun at noon, and forecasts that err the more the farther they look."""
    random = np.random.default_rng(seed)
    count = round(days * DAY / _STEP)
    hours = np.arange(count + _AHEAD, dtype=np.float64) * _STEP / 3600
    weather = np.repeat(random.uniform(0.3, 1.0, days + 1), round(DAY / _STEP))[: len(hours)]
    sun = np.clip(np.sin((hours % 24 - 6 - seed) / 12 * math.pi), 0, None) * weather
    values: NDArray[np.float64] = np.clip(300 - 220 * sun + random.normal(0, 25, len(hours)), 0, 900)
    ahead = np.stack([values[k : count + k] for k in range(1, _AHEAD + 1)], axis=1)
    ahead = np.clip(ahead + random.normal(0, 1, ahead.shape) * np.linspace(5, 40, _AHEAD), 0, 900)
    times: NDArray[np.float64] = _MADE_START + np.arange(count, dtype=np.float64) * _STEP
    return Trace(f"{name}, generated", times, values[:count], ahead)


@dataclass(frozen=True, slots=True)
class _Traced:
    """A trace's means, and its steps."""

    trace: Trace

    def over(self, start: float, end: float) -> Rate:
        """The mean."""
        return _rate(float(self.trace.means(np.array([start]), end - start)[0]))

    def _steps(self, now: float, until: float, row: int, values: NDArray[np.float64]) -> Steps:
        """Values of the rows from ``row`` on, from now on and until the end that is asked for."""
        rows = np.arange(row, row + len(values) + 1, dtype=np.float64)
        edges = np.asarray(self.trace.start + rows * self.trace.step, dtype=np.float64)
        edges[0], edges[-1] = now, min(edges[-1], until)
        return Steps(edges, values, lambda at: _rate(float(values[at])))

    def _count(self, row: int, until: float) -> int:
        """How many steps there are from ``row`` on."""
        return max(math.ceil((until - self.trace.start) / self.trace.step) - row, 0)


@dataclass(frozen=True, slots=True)
class Known(_Traced):
    """What a run knows: the trace's own forecast, then the same hours of the last day, or of several; see `Intensity`.

    Attributes:
        days: one is ``beyond = "yesterday"``, more are "days".
        calendar: as that of `SeriesSettings`.
    """

    days: int = 1
    calendar: str | None = None

    def forecast(self, now: float, until: float) -> Sequence[Step]:
        """As `fedsus.energy.grid.series.Series.forecast`."""
        row = self.trace.row(now)
        count = self._count(row, until)
        if until <= now:
            return ()
        foretold = np.append(self.trace.values[row], self.trace.ahead[row, : count - 1])
        return self._steps(now, until, row, np.append(foretold, self._seen(row, np.arange(len(foretold), count))))

    def _seen(self, row: int, after: NDArray[np.int64]) -> NDArray[np.float64]:
        """What stands for so many steps after a row, by weight over the days; up to the first that was seen on none."""
        day = round(DAY / self.trace.step)
        newest, kinds = -(-after // day), self._weekdays(row + after)
        back = np.empty((self.days, len(after)), dtype=np.int64)
        for first in np.unique(newest):
            for kind in np.unique(kinds):
                alike = ages(int(first), None if kind < 0 else int(kind), self.days)
                back[:, (newest == first) & (kinds == kind)] = np.array(alike)[:, None]
        rows = row + after - back * day
        weights = np.where(rows >= 0, FADE ** np.arange(self.days, dtype=np.float64)[:, None], 0.0)
        total = weights.sum(axis=0)
        blank = np.flatnonzero(total == 0)
        known = slice(0, int(blank[0]) if len(blank) else None)
        sums = (weights * self.trace.values[np.maximum(rows, 0)]).sum(axis=0)
        found: NDArray[np.float64] = sums[known] / total[known]
        return found

    def _weekdays(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of rows, 0 is Monday; -1 without a calendar."""
        if self.calendar is None or not len(rows):
            return np.full(len(rows), -1)
        times = self.trace.start + rows * self.trace.step
        hours, places = np.unique(times // 3600, return_inverse=True)
        found = [_weekday(int(hour), self.calendar) for hour in hours]
        return np.array(found)[places]


@dataclass(frozen=True, slots=True)
class Oracle(_Traced):
    """What no run knows: all that is to come; see `Intensity`."""

    def forecast(self, now: float, until: float) -> Sequence[Step]:
        """The trace itself."""
        row = self.trace.row(now)
        return (
            self._steps(now, until, row, self.trace.values[row : row + self._count(row, until)]) if until > now else ()
        )


@functools.cache
def _weekday(hour: int, calendar: str) -> int:
    """Of an hour since the epoch, of a zone that is whole hours from UTC."""
    found = weekday_of(hour * 3600.0, calendar_of(calendar))
    return -1 if found is None else found


def _rate(value: float) -> Rate:
    low, high = value * (1 - SPREAD), value * (1 + SPREAD)
    return Rate(value=value, low=low, high=high, method="modelled", kind="marginal", source="a simulated trace")
