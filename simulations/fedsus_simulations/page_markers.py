"""Text between the markers of a page of the documentation."""

from __future__ import annotations

from fedsus.errors import ConfigError


def replaced(text: str, name: str, table: str, where: str) -> str:
    """The text with ``table`` between the markers of ``name``.

    Raises:
        ConfigError: they are not there, once each and in order.
    """
    first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    start, end = text.find(first), text.find(last)
    if text.count(first) != 1 or text.count(last) != 1 or start > end:
        raise ConfigError(f"{where}: needs one line '{first.strip()}' and after it one line '{last.strip()}'")
    return f"{text[: start + len(first)]}\n{table}\n{text[end:]}"
