"""Files of a time series of carbon intensity, read strictly: nothing in them is repaired without the owner's word."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

from fedsus.energy.grid.intensity import Kind
from fedsus.errors import ConfigError
from fedsus.settings.carbon import SeriesSettings, Unit

GRAMS_PER_KWH: Final[dict[Unit, float]] = {"g/kWh": 1.0, "kg/kWh": 1000.0, "kg/MWh": 1.0, "lb/MWh": 0.45359237}
ABSURD: Final = 3000.0
"""g CO2e/kWh. The dirtiest plants, of lignite, have half of it; more is a mistaken unit."""

_KINDS: Final = (".csv", ".csv.gz", ".parquet")
_BLANK: Final = frozenset({"", "na", "n/a", "nan", "null", "none"})


@dataclass(frozen=True, slots=True)
class Row:
    """A moment's values in g/kWh, and where they stand; NaN is a forecast that was not made."""

    time: float
    value: float
    low: float | None
    high: float | None
    forecast: array[float]
    place: str

    def same(self, other: Row) -> bool:
        """Whether both say the same of their moment."""
        if self.forecast.tobytes() != other.forecast.tobytes():  # NaN differs from itself, but not in its bytes
            return False
        return (self.value, self.low, self.high) == (other.value, other.low, other.high)


def read(settings: SeriesSettings, kind: Kind, folder: Path) -> tuple[list[Row], str]:
    """Rows of all files, ordered by time, each moment once; and the zone, "" where nothing says it.

    Raises:
        ConfigError: a file that is missing or broken; times without zone, twice or out of order; values that are
            missing, negative or absurd; another zone or unit; files that overlap and differ. Names file and line.
    """
    found: list[list[Row]] = []
    zone = settings.zone or ""
    for path in files(settings, folder):
        rows, zone = _File(path, settings, kind, zone).read()
        found.append(rows)
    found.sort(key=lambda rows: rows[0].time)
    merged: dict[float, Row] = {}
    for rows in found:
        for row in rows:
            before = merged.setdefault(row.time, row)
            if before is not row and not before.same(row):
                raise ConfigError(f"{row.place}: {moment(row.time)} has other values than at {before.place}")
    if len(merged) < 2:
        raise ConfigError(f"{folder / settings.files}: at least 2 rows are needed, to know for how long a value holds")
    return [merged[time] for time in sorted(merged)], zone


def files(settings: SeriesSettings, folder: Path) -> list[Path]:
    """The files that ``settings.files`` means: one, those of a folder, or those of a pattern.

    Raises:
        ConfigError: there are none, or of another kind.
    """
    where = folder / settings.files
    if "*" in settings.files:
        base = Path(where.anchor) if where.is_absolute() else Path()
        chosen = sorted(path for path in base.glob(str(where.relative_to(base))) if path.is_file())
    elif where.is_dir():
        chosen = sorted(path for path in where.iterdir() if path.name.lower().endswith(_KINDS))
    else:
        chosen = [where]
    if not chosen:
        raise ConfigError(f"{where}: no files (series.files); {', '.join(_KINDS)} are read")
    for path in chosen:
        if not path.name.lower().endswith(_KINDS):
            raise ConfigError(f"{path}: unknown kind of file; {', '.join(_KINDS)} are read")
    return chosen


def moment(time: float) -> str:
    """A time as a person reads it, in UTC."""
    try:
        return datetime.fromtimestamp(time, UTC).isoformat(sep=" ", timespec="seconds")
    except (OverflowError, OSError, ValueError):
        return f"{time:g} s after 1970"


def instant(value: Any, place: str) -> float:
    """Seconds since the epoch of an ISO 8601 text, or of what Parquet holds.

    Raises:
        ConfigError: not a moment, or without its zone.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ConfigError(f"{place}: {_short(value)} is no time such as 2021-03-28T00:30:00+01:00") from None
    if not isinstance(value, datetime):
        raise ConfigError(f"{place}: {_short(value)} is no time such as 2021-03-28T00:30:00+01:00")
    if value.utcoffset() is None:
        raise ConfigError(
            f"{place}: time {value.isoformat(sep=' ')} has no zone: write one after it, such as Z or +01:00; "
            "without, an hour of autumn is there twice"
        )
    return value.timestamp()


def intensity(value: Any, unit: Unit, kind: Kind, place: str) -> float:
    """g/kWh of a number or its text.

    Raises:
        ConfigError: no number, negative, absurd, or an average of 0.
    """
    try:
        number = float(value) * GRAMS_PER_KWH[unit]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise ConfigError(f"{place}: {_short(value)} is no number; an intensity in {unit} is expected")
    if not 0 <= number <= ABSURD:
        hint = "an intensity is not negative;" if number < 0 else "is the unit right?"
        raise ConfigError(
            f"{place}: {_short(value)} {unit} = {number:g} g/kWh: {hint} 0 to {ABSURD:,.0f} g/kWh are read"
        )
    if number == 0 and kind == "average":
        raise ConfigError(f"{place}: 0 {unit}: no grid's average is 0; a marginal intensity needs kind = 'marginal'")
    return number


Cells: TypeAlias = Iterator[tuple[str, Sequence[Any]]]


class _File:
    """One file on its way to rows."""

    def __init__(self, path: Path, settings: SeriesSettings, kind: Kind, zone: str) -> None:
        self._path, self._settings, self._kind, self._zone = path, settings, kind, zone

    def read(self) -> tuple[list[Row], str]:
        """All rows, and the zone."""
        try:
            header, cells = _parquet(self._path) if self._path.name.lower().endswith(".parquet") else _csv(self._path)
            rows = self._rows(header, cells)
        except OSError as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or error
            raise ConfigError(f"{self._path}: cannot be read: {reason}") from None
        except (UnicodeDecodeError, csv.Error, EOFError, zlib.error) as error:
            raise ConfigError(f"{self._path}: not a CSV file in UTF-8: {error}") from None
        if not rows:
            raise ConfigError(f"{self._path}: no rows")
        return rows, self._zone

    def _rows(self, header: list[str], cells: Cells) -> list[Row]:
        own = self._settings
        place = {name: header.index(name) for name in header}
        for setting in ("time", "value", "low", "high"):
            name = getattr(own, setting)
            if name is not None and name not in place:
                there = ", ".join(header[:12])
                raise ConfigError(f"{self._path}: column '{name}' (series.{setting}) is missing; there are: {there}")
        ahead = self._ahead(place)
        rows: list[Row] = []
        for where, cell in cells:
            at = f"{self._path}: {where}"
            if len(cell) != len(header):
                raise ConfigError(f"{at}: {len(cell)} cells, the header has {len(header)}")
            if own.zone_column in place:
                self._same_zone(cell[place[own.zone_column]], at)
            row = self._row(cell, place, ahead, at)
            if rows and row.time <= rows[-1].time:
                fault = "is there twice" if row.time == rows[-1].time else "comes after a later time"
                raise ConfigError(f"{at}: {moment(row.time)} {fault}; times must rise from row to row")
            rows.append(row)
        return rows

    def _row(self, cell: Sequence[Any], place: dict[str, int], ahead: list[int], at: str) -> Row:
        own = self._settings
        value = intensity(cell[place[own.value]], own.unit, self._kind, at)
        low = high = None
        if own.low is not None and own.high is not None:
            low, high = (intensity(cell[place[name]], own.unit, "marginal", at) for name in (own.low, own.high))
            if not low <= value <= high:
                raise ConfigError(f"{at}: {value:g} g/kWh lies outside its own range, {low:g} to {high:g}")
        forecast = array("d", _forecasts([cell[k] for k in ahead], own.unit, at))
        return Row(instant(cell[place[own.time]], at), value, low, high, forecast, at)

    def _ahead(self, place: dict[str, int]) -> list[int]:
        """Where the columns of forecasts stand, in the order of their steps."""
        prefix = self._settings.forecast
        if prefix is None:
            return []
        ahead: list[int] = []
        while (name := f"{prefix}{len(ahead) + 1}") in place:
            ahead.append(place[name])
        if not ahead:
            raise ConfigError(f"{self._path}: column '{prefix}1' is missing: series.forecast = '{prefix}' means it")
        return ahead

    def _same_zone(self, cell: Any, at: str) -> None:
        zone = "" if cell is None else str(cell).strip()
        self._zone = self._zone or zone
        if zone != self._zone:
            raise ConfigError(f"{at}: zone {_short(zone)}, where '{self._zone}' is expected; see series.zone")


def _csv(path: Path) -> tuple[list[str], Cells]:
    with path.open("rb") as raw:
        whole = gzip.GzipFile(fileobj=raw).read() if path.name.lower().endswith(".gz") else raw.read()
    text = io.StringIO(whole.decode("utf-8-sig"), newline="")
    reader = csv.reader(text, strict=True)
    header = [name.strip() for name in next(reader, [])]
    _named_once(path, header)
    return header, ((f"line {reader.line_num}", row) for row in reader if row)


def _parquet(path: Path) -> tuple[list[str], Cells]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ConfigError(f"{path}: Parquet needs pyarrow: pip install 'fedsus[parquet]'") from None
    try:
        table = parquet.ParquetFile(path).read()
        columns = [column.to_pylist() for column in table.columns]
    except (ArrowException, ValueError) as error:
        raise ConfigError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None
    header = [str(name) for name in table.column_names]
    _named_once(path, header)
    return header, ((f"row {number}", row) for number, row in enumerate(zip(*columns, strict=True), start=1))


def _named_once(path: Path, header: list[str]) -> None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: column '{twice}' is there twice")


def _forecasts(cells: list[Any], unit: Unit, at: str) -> list[float]:
    """g/kWh of each cell, NaN of a blank one."""
    try:
        numbers = [float(cell) * GRAMS_PER_KWH[unit] for cell in cells]
    except (TypeError, ValueError, OverflowError):
        numbers = [math.nan]
    if all(0 <= number <= ABSURD for number in numbers):  # the usual row, quickly: there are millions of cells
        return numbers
    return [math.nan if _blank(cell) else intensity(cell, unit, "marginal", at) for cell in cells]


def _blank(cell: Any) -> bool:
    if isinstance(cell, float):
        return math.isnan(cell)
    return cell is None or (isinstance(cell, str) and cell.strip().lower() in _BLANK)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
