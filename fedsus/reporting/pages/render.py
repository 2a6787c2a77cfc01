"""The document of a run, as HTML, Markdown and a model card."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from fedsus import __version__
from fedsus.reporting.pages import charts
from fedsus.reporting.pages.document import Document, Share
from fedsus.reporting.pages.parts import (
    assumptions,
    budgets,
    carbon,
    energy,
    evidence,
    glossary,
    learned,
    people,
    privacy,
    summary,
    traffic,
)
from fedsus.reporting.pages.words import cleaned

if TYPE_CHECKING:
    from jinja2 import Environment

    from fedsus.reporting.pages.source import Source

_SECTIONS: Final = (
    learned.section,
    people.section,
    privacy.section,
    energy.section,
    carbon.section,
    traffic.section,
    budgets.section,
    assumptions.section,
    evidence.section,
)
_MARKS: Final = re.compile(r"([\\`*_\[\]|$~#])")
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content security policy of the page: its own styles, and nothing else: no script, no network."""


def document(source: Source) -> Document:
    """All that a report says."""
    said = source.said
    return Document(
        title=f"Report of run {cleaned(said.run.name)}",
        lead=summary.lead(source),
        tiles=summary.tiles(source),
        sections=tuple(section(source) for section in _SECTIONS),
        notices=tuple(summary.notices(source)),
        made=f"Made by fedsus {__version__} of {said.journal.entries:,} entries, head {said.journal.head[:16]}.",
        glossary=glossary.TERMS,
    )


def html(source: Source) -> str:
    """One file that needs nothing else: no network, no scripts.

    Raises:
        EnvironmentFault: matplotlib is not installed.
    """
    from markupsafe import Markup

    charts.check()
    page = _environment("html").get_template("report.html.j2")
    return page.render(page=document(source), policy=POLICY, drawn=lambda chart: Markup(chart.draw()))  # noqa: S704


def markdown(source: Source) -> str:
    """The same content as text and tables."""
    return _tidy(_environment("markdown").get_template("report.md.j2").render(page=document(source)))


def _tidy(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@cache
def _environment(kind: str) -> Environment:
    """Whatever is put into a template is escaped, for HTML or for Markdown."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("fedsus.reporting.pages"),
        autoescape=kind == "html",  # noqa: S701  # Markdown is escaped by `escaped`
        finalize=None if kind == "html" else escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.tests["share"] = lambda cell: isinstance(cell, Share)
    return found


def escaped(text: Any) -> str:
    """Markdown that shows ``text`` as it is, on one line, also in a table."""
    shown = text.text if isinstance(text, Share) else str(text)
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(r"\\\1", " ".join(shown.split()))
