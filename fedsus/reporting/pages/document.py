"""What a page says, before it is HTML or Markdown: both are made of the same parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

Cell: TypeAlias = "str | Share"


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a whole, as words and as a bar.

    Attributes:
        fraction: 0 or more; above 1 is more than the whole.
    """

    fraction: float
    text: str


@dataclass(frozen=True, slots=True)
class Tile:
    """One number of the summary.

    Attributes:
        value: what is read first.
        detail: range, method and against whom, a line each.
    """

    label: str
    value: str
    detail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a head; the first column names the row.

    Attributes:
        note: of what is left out, or how to read it.
        dense: many short rows.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    dense: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture.

    Attributes:
        name: short and of letters, unique in a page.
        title: what is seen.
        alt: what it shows, for who cannot see it: the numbers that matter.
        draw: the picture as an SVG element, made when it is needed.
        note: below it.
    """

    name: str
    title: str
    alt: str
    draw: Callable[[], str]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page under a heading.

    Attributes:
        text: paragraphs.
        beside: a narrow table that fits beside a single picture.
        points: a list below all, led by ``before``.
    """

    name: str
    title: str
    text: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    beside: Table | None = None
    tables: tuple[Table, ...] = ()
    before: str = ""
    points: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A whole page.

    Attributes:
        lead: what happened, in a few plain sentences.
        notices: what must be seen first.
        made: by what it was made, of what.
    """

    title: str
    lead: tuple[str, ...]
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]
    notices: tuple[str, ...] = ()
    made: str = ""
    glossary: tuple[tuple[str, str], ...] = field(default=())
