"""The attacks' figures: kept as JSON, and shown as tables between markers of a page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from fedsus.errors import ConfigError
from fedsus_simulations.page_markers import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from fedsus_simulations.demo.attacks.study import Row

PAGE: Final = "what-an-update-gives-away.md"
KEPT: Final = "results/attacks.json"
Kept = dict[str, "list[Row]"]


def kept(file: Path) -> Kept:
    """What `publish` kept.

    Raises:
        ConfigError: no such file, or not one of its.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    if not isinstance(found, dict) or set(found) != set(TABLES):
        raise ConfigError(f"{file}: not the attacks' figures: expected {', '.join(TABLES)}")
    return found


def publish(figures: Kept, docs: Path) -> list[Path]:
    """Write the JSON, and the tables between the page's markers; the files.

    Raises:
        ConfigError: the page or its markers are not there; nothing was written.
    """
    page, file = docs / PAGE, docs / KEPT
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{page}: cannot be read: {error.strerror}") from None
    for name, table in TABLES.items():
        text = replaced(text, name, table(figures[name]), str(page))
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"{json.dumps(figures, indent=1)}\n", encoding="utf-8")
    page.write_text(text, encoding="utf-8")
    return [page, file]


def inverted(rows: list[Row]) -> str:
    """The table of the first layer's inversion."""
    return _table(
        (
            *("the server sees", "epsilon", "images"),
            *("fresh model: recovered", "PSNR, dB", "SSIM"),
            *("chosen model: recovered", "PSNR, dB", "SSIM"),
        ),
        [
            (
                *(row["seen"], _epsilon(row), str(row["fresh"]["images"])),
                *_recovery(row["fresh"]),
                *_recovery(row["chosen"]),
            )
            for row in rows
        ],
    )


def searched(rows: list[Row]) -> str:
    """The table of the search."""
    return _table(
        ("the server sees", "epsilon", "images", "recovered", "PSNR, dB", "SSIM"),
        [(row["seen"], _epsilon(row), str(row["images"]), *_recovery(row)) for row in rows],
    )


def members(rows: list[Row]) -> str:
    """The table of membership."""
    return _table(
        (
            *("the server sees", "epsilon", "area under the ROC curve", "members found at 1% false alarms"),
            *("at most, by epsilon at delta 1e-5", "at most, at the best delta"),
        ),
        [
            (
                *(row["seen"], _epsilon(row), _interval(row, "area", 2), _interval(row, "found", 3)),
                *("" if row[name] is None else f"{row[name]:.3f}" for name in ("bound_delta", "bound")),
            )
            for row in rows
        ],
    )


TABLES: Final[Mapping[str, Callable[[list[Row]], str]]] = {
    "inversion": inverted,
    "search": searched,
    "membership": members,
}
"""Marker of the page and key of the JSON -> how its rows are shown."""


def _epsilon(row: Row) -> str:
    return "none" if row["epsilon"] is None else f"{row['epsilon']:g}"


def _recovery(part: Row) -> tuple[str, str, str]:
    return str(part["recovered"]), f"{part['decibels']:.1f}", f"{part['similarity']:.2f}"


def _interval(row: Row, name: str, digits: int) -> str:
    middle, low, high = (f"{row[key]:.{digits}f}" for key in (name, f"{name}_low", f"{name}_high"))
    return f"{middle} ({low} to {high})"


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
