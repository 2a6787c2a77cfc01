"""Pages about a run, for people: a report as HTML and Markdown, and a model card. Made of its journal alone."""

from fedsus.reporting.pages.card import card
from fedsus.reporting.pages.render import html, markdown
from fedsus.reporting.pages.source import Source, load

__all__ = ["Source", "card", "html", "load", "markdown"]
