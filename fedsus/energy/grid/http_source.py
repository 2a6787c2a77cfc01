"""Carbon intensity from a source over HTTP: asked now and then, remembered in memory, never believed blindly."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fedsus.energy.grid.certificates import authorities
from fedsus.energy.grid.fetching import Fetch, Patience, Request
from fedsus.energy.grid.http_answers import Point, understood
from fedsus.energy.grid.intensity import Clock, Kind, Rate, Step, finite
from fedsus.energy.grid.series_files import moment
from fedsus.errors import ConfigError, EnvironmentFault
from fedsus.settings.carbon import HttpSettings

_REMEMBERED: Final = 2 * 86_400.0
"""Seconds of values before the newest that are kept."""


class HttpSource:
    """Asks every ``refresh`` seconds at most, if a figure is needed; values hold to the next, or ``oldest`` seconds.

    While it cannot be asked, the last value goes on holding that long, marked as assumed, with twice the spread.

    Args:
        spread: fraction to either side, where the source gives no range.
        folder: of the TOML file.
        fetch: opens the connection.

    Raises:
        ConfigError: the token's file is missing, empty, or readable by others; or that of the authorities is missing,
            or holds no certificate.
    """

    def __init__(
        self, settings: HttpSettings, kind: Kind, spread: float, folder: Path, fetch: Fetch, clock: Clock
    ) -> None:
        self._own, self._kind, self._spread, self._clock = settings, kind, spread, clock
        self._fetch = Patience(fetch)
        self._token = None if settings.token_file is None else folder / settings.token_file
        self._ca = None if settings.ca is None else folder / settings.ca
        parts = urlsplit(settings.url)
        self.name = f"{parts.hostname}{parts.path}"
        """Where it is from, without the query, which may hold a key."""
        self._lock = threading.Lock()
        self._points: list[Point] = []
        self._ahead: list[Point] = []
        self._asked: float | None = None
        self._fault = ""
        if self._token is not None:
            token(self._token)
        if self._ca is not None:
            authorities(self._ca)

    def over(self, start: float, end: float) -> Rate:
        """See `Intensity.over`; takes up to ``timeout`` seconds where an answer is due.

        Raises:
            EnvironmentFault: no answer that holds for the whole interval is there; one line that says why.
        """
        finite(start, end)
        with self._lock:
            self._refresh()
            points, fault = self._points, self._fault
        if not points:
            raise EnvironmentFault(fault or f"{self.name}: no value yet")
        early = start < points[0].time
        newest = moment(points[-1].time)
        if not start <= end <= points[-1].time + self._own.oldest or start < points[0].time - self._own.oldest:
            raise EnvironmentFault(fault or f"{self.name}: no value for this time; the newest is of {newest}")
        rate = self._mean(points, start, end)
        if fault and end > points[-1].time + self._own.refresh:
            value, spread = rate.value, min(1.0, 2 * self._spread)
            low, high = min(rate.low, value * (1 - spread)), max(rate.high, value * (1 + spread))
            return replace(rate, low=low, high=high).assumed(f"held since {newest}: {fault}")
        return rate.assumed("the first value that is known stands for the time before") if early else rate

    def forecast(self, now: float, until: float) -> Sequence[Step]:
        """See `Intensity.forecast`: of the last answer."""
        finite(now, until)
        with self._lock:
            self._refresh()
            points, ahead = self._points, self._ahead
        if not points or not ahead or until <= now:
            return ()
        known = [points[-1], *(point for point in ahead if point.time > points[-1].time)]
        if len(known) < 2 or now < known[0].time:
            return ()
        ends = [point.time for point in known[1:]]
        ends.append(ends[-1] + (ends[-1] - known[-2].time))
        return tuple(
            Step(start=max(now, point.time), end=min(until, end), rate=self._rate(*self._range(point)))
            for point, end in zip(known, ends, strict=True)
            if end > now and point.time < until
        )

    def _refresh(self) -> None:
        """Ask, if it is time to; what goes wrong is remembered as one line."""
        now = self._clock()
        if self._asked is not None and 0 <= now - self._asked < self._own.refresh:
            return
        self._asked = now
        try:
            finite(now)
            values, ahead = understood(self._fetch(self._request()), self._own, self._kind, now)
        except (EnvironmentFault, ConfigError) as error:
            self._fault = f"{self.name}: {error}"
            return
        except Exception as error:  # what no answer should cause: neither a round nor a run ends by it
            self._fault = f"{self.name}: cannot be read: {type(error).__name__}"
            return
        self._fault = ""
        newer = {point.time: point for point in (*self._points, *values)}
        oldest = values[-1].time - _REMEMBERED
        # A clock that was set back leaves values behind that are now to come: they are dropped.
        self._points = [newer[time] for time in sorted(newer) if oldest <= time <= values[-1].time]
        self._ahead = ahead

    def _request(self) -> Request:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self._token is not None:
            text = token(self._token)
            bearer = self._own.header.lower() == "authorization"
            headers[self._own.header] = f"Bearer {text}" if bearer else text
        own = self._own
        return Request(url=own.url, headers=headers, timeout=own.timeout, largest=own.largest, ca=self._ca)

    def _mean(self, points: list[Point], start: float, end: float) -> Rate:
        """Weighted by time; the first value also stands for what is before it.

        Raises:
            EnvironmentFault: a gap between two answers is longer than a value may hold.
        """
        first = max(0, bisect_right(points, start, key=lambda point: point.time) - 1)
        total, sums = 0.0, [0.0, 0.0, 0.0]
        for at in range(first, len(points)):
            until = points[at + 1].time if at + 1 < len(points) else end
            begin = start if at == first else points[at].time
            if at > first and begin >= end:
                break
            if min(until, end) > points[at].time + self._own.oldest:
                raise EnvironmentFault(f"{self.name}: no value for {moment(points[at].time)} to {moment(until)}")
            width = min(until, end) - begin if end > start else 1.0
            total += width
            sums = [sum_ + width * each for sum_, each in zip(sums, self._range(points[at]), strict=True)]
        return self._rate(*(each / total for each in sums))

    def _range(self, point: Point) -> tuple[float, float, float]:
        low = point.value * (1 - self._spread) if point.low is None else point.low
        high = point.value * (1 + self._spread) if point.high is None else point.high
        return point.value, low, high

    def _rate(self, value: float, low: float, high: float) -> Rate:
        source = f"{self.name}{f' of {self._own.zone}' if self._own.zone else ''}"
        return Rate(
            value=value,
            low=min(low, value),
            high=max(high, value),
            method="modelled",
            kind=self._kind,
            source=source,
        )


def token(path: Path) -> str:
    """The text of a token's file.

    Raises:
        ConfigError: missing, empty, no single line of plain characters, or readable by others.
    """
    try:
        others = os.name == "posix" and path.stat().st_mode & 0o077
        text = path.read_bytes()[:10_000].decode("ascii").strip()
    except OSError as error:
        raise ConfigError(f"token_file: {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    if others:
        raise ConfigError(f"token_file: {path}: others may read the token: chmod 600 {path}")
    if not text or not text.isprintable() or " " in text:
        raise ConfigError(f"token_file: {path}: one line with a token is expected")
    return text
