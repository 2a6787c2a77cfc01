"""Changes to a scenario from the command line: ``plan.strategy.name=fedadam``, by dotted name and TOML value."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, Final

from fedsus.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WORD: Final = re.compile(r"[A-Za-z./~][\w.+/~-]*", re.ASCII)


def assignment(option: str, text: str) -> tuple[str, Any]:
    """Dotted name and value of ``NAME=VALUE``; the value as TOML writes it, a word without quotes also.

    Raises:
        ConfigError: it is not of that form.
    """
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or not name or not value.strip():
        raise ConfigError(f"{option} {text!r}: expected NAME=VALUE, as in plan.strategy.name=fedadam")
    return name, toml_value(option, value.strip())


def toml_value(option: str, text: str) -> Any:
    """A value as TOML writes it; a word without quotes is a text.

    Raises:
        ConfigError: it is neither.
    """
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        if _WORD.fullmatch(text):
            return text
    else:
        if len(found) == 1:  # a text of several lines would set other names, and they would be lost
            return found["value"]
    raise ConfigError(f"{option} {text!r}: not a TOML value: a number, true, false, a text in quotes, or [a, list]")


def toml_values(option: str, text: str) -> list[Any]:
    """Values of ``a, b, c`` or of a TOML list."""
    whole = text.strip()
    if whole.startswith("["):
        found = toml_value(option, whole)
        return found if isinstance(found, list) else [found]
    return [toml_value(option, part.strip()) for part in whole.split(",")]


def with_changes(data: Mapping[str, Any], changes: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A file's data with the changes applied; the original stays as it is. Whether a field exists is checked later.

    Raises:
        ConfigError: a name leads through something that is no table.
    """
    changed = dict(data)
    for name, value in changes:
        *path, last = name.split(".")
        table = changed
        for depth, part in enumerate(path, 1):
            below = table.get(part, {})
            if not isinstance(below, dict):
                raise ConfigError(f"'{name}': '{'.'.join(path[:depth])}' is no table")
            table[part] = dict(below)
            table = table[part]
        table[last] = value
    return changed
