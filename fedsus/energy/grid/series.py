"""A time series of carbon intensity: each value holds from its moment to the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.energy.grid.days_alike import DAY, FADE, ages, calendar_of, weekday_of
from fedsus.energy.grid.intensity import Kind, Rate, Step, finite
from fedsus.energy.grid.series_files import Row, moment, read
from fedsus.errors import ConfigError, EnvironmentFault
from fedsus.settings.carbon import SeriesSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GAP: Final = 1.5
"""Steps between two rows from which on they have a gap between them; months differ by less."""


class Series:
    """A step function over [first moment, last moment + one step), and what was forecast at each step.

    Args:
        rows: in the order of time, two at least.
        spread: fraction to either side, for rows without a range of their own.
        name: of the series, for a person.

    Raises:
        ConfigError: a gap that may not be filled.
    """

    def __init__(self, rows: Sequence[Row], settings: SeriesSettings, kind: Kind, spread: float, name: str) -> None:
        times = np.array([row.time for row in rows])
        self.step = float(np.median(np.diff(times)))
        """Seconds from one row to the next, most of the time."""
        self._kind, self._name, self._spread = kind, name, spread
        self._weights = FADE ** np.arange(settings.days_looked_at, dtype=np.float64)
        self._calendar = calendar_of(settings.calendar)
        self._stands_in = _stands_in(settings)
        self._source = f"{name}, {'its own range' if settings.low is not None else f'±{spread:.0%}'}"
        filled = list(_filled(rows, settings, self.step, spread))
        self._times = np.array([time for time, *_ in filled])
        values, lows, highs = (np.array([row[k] for row in filled]) for k in (1, 2, 3))
        self._table = np.stack([values, lows, highs])
        self._guessed = np.array([own is None for *_, own in filled])
        self._own = np.maximum.accumulate(np.where(self._guessed, 0, np.arange(len(filled))))
        wide = max(len(row.forecast) for row in rows)
        self._ahead = np.full((len(filled), wide), np.nan)
        for at, (*_, own) in enumerate(filled):
            if own is not None:
                self._ahead[at, : len(own.forecast)] = own.forecast
        self._ends = np.append(self._times[1:], self._times[-1] + self.step)

    @property
    def start(self) -> float:
        """The first moment with a value, seconds since the epoch."""
        return float(self._times[0])

    @property
    def end(self) -> float:
        """From here on there is none."""
        return float(self._ends[-1])

    def over(self, start: float, end: float) -> Rate:
        """See `Intensity.over`.

        Raises:
            EnvironmentFault: the interval is not wholly inside the series.
        """
        finite(start, end)
        if not self.start <= start <= end <= self.end or start == self.end:
            # The same words for all intervals: they become the source of what stands in, and are logged once.
            when = "earlier" if start < self.start else "later"
            raise EnvironmentFault(
                f"{self._name}: no value for {when} times; it covers {moment(self.start)} to {moment(self.end)}"
            )
        first = int(np.searchsorted(self._times, start, side="right")) - 1
        last = max(first, int(np.searchsorted(self._times, end, side="left")) - 1)
        part = slice(first, last + 1)
        widths = np.minimum(self._ends[part], end) - np.maximum(self._times[part], start)
        if end == start:
            widths = np.ones(1)
        return self._rate(self._table[:, part] @ (widths / widths.sum()), guessed=bool(self._guessed[part].any()))

    def forecast(self, now: float, until: float) -> Sequence[Step]:
        """See `Intensity.forecast`: what the last row before ``now`` says, then the last days' hours if so set."""
        finite(now, until)
        if not self.start <= now < self.end:
            return ()
        return tuple(self._steps(now, until))

    def _steps(self, now: float, until: float) -> Iterator[Step]:
        # In a gap that is filled by a line nobody knows its other end yet: the row before it is what was known.
        row = int(self._own[int(np.searchsorted(self._times, now, side="right")) - 1])
        issued = float(self._times[row])
        start, count = now, 0
        while start < until:
            rate = self._expected(row, issued, count)
            if rate is None:
                return
            end = issued + (count + 1) * self.step
            if end > start:
                yield Step(start=start, end=min(end, until), rate=rate)
                start = end
            count += 1

    def _expected(self, row: int, issued: float, count: int) -> Rate | None:
        """For ``count`` steps after the row's moment, of what was known at that moment."""
        if count == 0:
            return self._rate(self._table[:, row], guessed=bool(self._guessed[row]))
        if count <= self._ahead.shape[1] and not np.isnan(value := float(self._ahead[row, count - 1])):
            return self._rate(np.array([value, value * (1 - self._spread), value * (1 + self._spread)]), guessed=False)
        time = issued + count * self.step
        newest = int(-(-count * self.step // DAY))
        seen = time - np.array(ages(newest, weekday_of(time, self._calendar), len(self._weights))) * DAY
        seen = seen[seen >= self.start]
        if not len(seen):
            return None
        weights = self._weights[: len(seen)]
        same = np.searchsorted(self._times, seen, side="right") - 1
        return self._rate(self._table[:, same] @ (weights / weights.sum()), guessed=True, why=self._stands_in)

    def _rate(self, parts: NDArray[np.float64], *, guessed: bool, why: str = "a gap was filled") -> Rate:
        value, low, high = map(float, parts)
        rate = Rate(
            value=value,
            low=min(low, value),
            high=max(high, value),
            method="modelled",
            kind=self._kind,
            source=self._source,
        )
        return rate.assumed(why) if guessed else rate


def _stands_in(settings: SeriesSettings) -> str:
    """What is said of a forecast that is none."""
    if settings.days is None:
        return "the same hour of the last day"
    kind = "" if settings.calendar is None else ", working days or weekends as the day itself"
    return f"the same hour of the last {settings.days} days{kind}, the newer the more"


def load_series(settings: SeriesSettings, kind: Kind, spread: float, folder: Path) -> Series:
    """Read the files that ``settings`` names.

    Raises:
        ConfigError: as `fedsus.energy.grid.series_files.read`, or a gap.
    """
    rows, zone = read(settings, kind, folder)
    # Without its folders: names of sources go into journals, which others read.
    name = f"series {Path(settings.files).name}{f' of {zone}' if zone else ''}"
    return Series(rows, settings, kind, spread, name)


def _filled(
    rows: Sequence[Row], settings: SeriesSettings, step: float, spread: float
) -> Iterator[tuple[float, float, float, float, Row | None]]:
    """Time, value, low, high of each row and of those that fill gaps, which have no row of their own."""
    before: tuple[float, float, float, float] | None = None
    for row in rows:
        low = row.value * (1 - spread) if row.low is None else row.low
        high = row.value * (1 + spread) if row.high is None else row.high
        now = (row.time, row.value, low, high)
        if before is not None and row.time - before[0] > _GAP * step:
            for time, value, least, most in _between(before, now, row, settings, step):
                yield time, value, least, most, None
        yield *now, row
        before = now


_Point = tuple[float, float, float, float]


def _between(before: _Point, after: _Point, row: Row, settings: SeriesSettings, step: float) -> Iterator[_Point]:
    """What fills a gap.

    Raises:
        ConfigError: gaps are refused, or this one is too long.
    """
    gap = after[0] - before[0]
    if settings.gaps == "refuse" or gap > settings.longest_gap:
        ways = []
        if settings.gaps == "refuse":
            ways.append("set series.gaps = 'previous' or 'linear' to fill it")
        if gap > settings.longest_gap:
            ways.append(f"series.longest_gap = {settings.longest_gap:g} s is less")
        rule = ", but ".join(ways)
        raise ConfigError(
            f"{row.place}: a gap of {gap:g} s before {moment(row.time)}, where rows are {step:g} s apart; {rule}"
        )
    if settings.gaps == "previous":
        yield before[0] + step, *before[1:]
        return
    low, high = min(before[2], after[2]), max(before[3], after[3])
    for count in range(1, int(np.ceil(gap / step))):
        time = before[0] + count * step
        yield time, before[1] + (after[1] - before[1]) * (time - before[0]) / gap, low, high
