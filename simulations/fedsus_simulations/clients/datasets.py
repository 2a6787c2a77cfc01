"""Where a scenario's data lie: a folder of the user's, a data set by name, or one that ships with fedsus."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Final

from fedsus.errors import DataError

SHIPPED: Final = {"heart": Path("heart")}
"""Data sets that ship with fedsus -> their folder in ``fedsus/tasks/data``."""


def find(data: str, root: Path) -> Path:
    """The file or folder of ``population.data``, absolute.

    Args:
        data: a name is looked for in ``root``, then among those that ship; what has a slash is a path, absolute or
            from the working directory.
        root: folder in which data sets lie by name.

    Raises:
        DataError: nothing is there: the closest name, or how to get it.
    """
    where = f'population.data = "{data}"' if data.isprintable() else f"population.data = {data!r}"
    if _is_path(data):
        path = Path(absolute(data))
        if not _there(path, where):
            raise DataError(f"{where}: no such file or folder")
        return path
    own = root / data
    if _there(own, where):
        return own.resolve()
    if data in SHIPPED:
        return shipped(data)
    from fedsus.commands.data_sets import DATA_SETS

    if data in DATA_SETS:
        to = "" if root == Path("data") else f" --to {own}"
        raise DataError(f"{where}: no folder {own}; get it with: fedsus data get {data}{to}")
    known = [*DATA_SETS, *(entry.name for entry in _folders(root) if entry.name not in DATA_SETS)]
    close = difflib.get_close_matches(data, known, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(known)}; or give a path"
    raise DataError(f"{where}: no such data set in {root}; {hint}")


def absolute(data: str) -> str:
    """``population.data``, made absolute where it is a path.

    Raises:
        DataError: no file can have that name.
    """
    if not _is_path(data):
        return data
    path = os.path.expanduser(data)  # noqa: PTH111 - leaves the name of a user who is not there
    try:
        return os.path.realpath(path)
    except (OSError, ValueError) as error:
        raise DataError(f"population.data = {data!r}: no such file or folder: {error}") from None


def _is_path(data: str) -> bool:
    return "/" in data or data in (".", "..")


def shipped(data: str) -> Path:
    """The folder of a data set that ships with fedsus."""
    import fedsus.tasks

    return Path(fedsus.tasks.__file__).parent / "data" / SHIPPED[data]


def _there(path: Path, where: str) -> bool:
    """Whether a file or folder is there; one that may not be looked at, or has no possible name, is told."""
    try:
        return path.exists()
    except OSError as error:
        raise DataError(f"{where}: {error.strerror}: {_short(path)}") from None


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
