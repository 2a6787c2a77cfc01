"""Small files of a carbon intensity's time series, and the series that they make."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedsus.energy.grid.series import Series, load_series
from fedsus.settings.carbon import SeriesSettings

BEGIN = datetime(2021, 3, 1, tzinfo=UTC)
T0 = BEGIN.timestamp()


def at(minutes: float) -> str:
    return (BEGIN + timedelta(minutes=minutes)).isoformat(sep=" ")


def table(*rows: str, header: str = "time,moer") -> str:
    return "\n".join((header, *rows)) + "\n"


def steps(*values: float | str, start: int = 0) -> str:
    return table(*(f"{at(start + 5 * k)},{value}" for k, value in enumerate(values)))


def loaded(folder: Path, text: str | None = None, kind: Any = "marginal", **settings: Any) -> Series:
    if text is not None:
        (folder / "a.csv").write_text(text)
    chosen: dict[str, Any] = {"files": "a.csv", "value": "moer", "unit": "g/kWh"} | settings
    return load_series(SeriesSettings(**chosen), kind, 0.1, folder)
