"""``fedsus report``: what a run did and what it cost, as pages for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedsus.errors import EnvironmentFault

if TYPE_CHECKING:
    from fedsus.reporting.pages import Source

_folder = click.Path(path_type=Path)
_HTML, _MARKDOWN, _CARD = "report.html", "report.md", "model-card.md"


@click.command()
@click.argument("run", type=_folder)
@click.option("--html", is_flag=True, help="Write report.html: one file, for a browser or a printer.")
@click.option("--markdown", is_flag=True, help="Write report.md: the same as text and tables.")
@click.option("--card", is_flag=True, help="Write model-card.md, which the operator completes.")
@click.option("--into", type=_folder, help="Where to write.  [default: the run's folder]")
def report(run: Path, html: bool, markdown: bool, card: bool, into: Path | None) -> None:
    """Write what a run did and what it cost: for whom, with which range, found how.

    RUN is the run's folder; the run may be over or not. Without a choice, all three files are written. The pages need
    no network. A model card that somebody edited is kept.
    """
    from fedsus.reporting.pages import charts, load

    chosen = {_HTML: html, _MARKDOWN: markdown, _CARD: card}
    names = [name for name, one in chosen.items() if one] or list(chosen)
    if _HTML in names:
        charts.check()
    source = load(run)
    folder = into or run
    _make(folder)
    for name in names:
        click.echo(_write(folder / name, source))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentFault(f"{folder}: cannot be made: {error.strerror}") from None


def _write(path: Path, source: Source) -> str:
    from fedsus.reporting import pages, receipt

    if path.name == _CARD and _edited(path):
        return f"kept {path}, which was edited; move it away for a new one"
    made = {_HTML: pages.html, _MARKDOWN: pages.markdown, _CARD: pages.card}[path.name](source)
    receipt.write(path, made.encode(), replace=True)
    return f"wrote {path}"


def _edited(path: Path) -> bool:
    from fedsus.reporting.pages.card import edited

    try:
        return edited(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise EnvironmentFault(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        return True
