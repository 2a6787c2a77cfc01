"""Where a scenario's data lie: a folder of the user's, a data set by name, or one that ships with fedsus."""

from __future__ import annotations

import difflib
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
    where = f'population.data = "{data}"'
    if "/" in data or data in (".", ".."):
        path = Path(data).expanduser()
        if not path.exists():
            raise DataError(f"{where}: no such file or folder: {path}")
        return path.resolve()
    own = root / data
    if own.exists():
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


def shipped(data: str) -> Path:
    """The folder of a data set that ships with fedsus."""
    import fedsus.tasks

    return Path(fedsus.tasks.__file__).parent / "data" / SHIPPED[data]


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
