"""``fedsus client energy``: what this device used by day and by phase, and what is left of the day's budget."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedsus.errors import ConfigError, EnvironmentFault
from fedsus_client.options import agent_option, beside, policy_option

if TYPE_CHECKING:
    from fedsus_client.energy_views import Book


@click.command()
@agent_option
@policy_option
@click.option("--days", "many", type=click.IntRange(1, 3660), default=7, show_default=True, help="The last so many.")
@click.option("--json", "as_json", is_flag=True, help="For a program.")
@click.option(
    "--export", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write all into a new CSV FILE."
)
def energy(agent_file: Path, policy_file: Path | None, many: int, as_json: bool, file: Path | None) -> None:
    """What this device used, and what is left today.

    Joules are above what the machine draws when idle. Nobody but you sees these figures.
    """
    from fedsus.config import load
    from fedsus.owner.policy import Policy
    from fedsus_client import energy_views
    from fedsus_client.config import load_agent

    agent, policy = load_agent(agent_file), load(beside(agent_file, policy_file), Policy)
    book = energy_views.Book(agent.energy_record, policy.budget, time.time)
    if file is not None:
        _export(file, book)
    elif as_json:
        click.echo(json.dumps(energy_views.plain(book, many), indent=1, allow_nan=False))
    else:
        energy_views.show(book, many)


def _export(file: Path, book: Book) -> None:
    from fedsus_client.energy_views import rows

    try:
        with file.open("x", encoding="utf-8", newline="") as out:
            csv.writer(out).writerows(rows(book.intervals))
    except FileExistsError:
        raise ConfigError(f"{file}: exists already; name a new file") from None
    except OSError as error:
        raise EnvironmentFault(f"{file}: cannot be written: {error.strerror}") from None
    click.echo(f"{file}: {len(book.intervals)} lines")
