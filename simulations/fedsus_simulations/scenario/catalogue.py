"""The scenarios that fedsus ships, by name."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Final

from fedsus.errors import ConfigError

_HERE: Final = Path(__file__).resolve().parents[1]


def shipped(package: Path = _HERE) -> dict[str, Path]:
    """Name -> file, sorted: of an installed package, or of the repository that it lies in."""
    inside, beside = package / "scenarios", package.parent / "scenarios"
    folder = beside if not inside.is_dir() and (package.parent / "pyproject.toml").is_file() else inside
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def find(asked: str) -> Path:
    """The file of a path, or of a shipped scenario's name.

    Raises:
        ConfigError: neither; with the closest names.
    """
    path = Path(asked)
    if path.is_file():
        return path
    known = shipped()
    if asked in known:
        return known[asked]
    if path.is_dir():
        raise ConfigError(f"{asked}: a folder; to go on with its run: fedsus simulate --resume {asked}")
    if path.suffix == ".toml" or path.parent != Path():
        raise ConfigError(f"{asked}: no such file")
    close = difflib.get_close_matches(asked, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "fedsus simulate list shows the scenarios"
    raise ConfigError(f"{asked}: no such file, and no scenario of that name; {hint}")


def described(file: Path) -> str:
    """A scenario in a few words: its first comment."""
    first = file.read_text(encoding="utf-8").partition("\n")[0]
    if first.startswith("#"):
        return first.lstrip("# ").strip()
    return str(tomllib.loads(file.read_text(encoding="utf-8")).get("name", ""))
