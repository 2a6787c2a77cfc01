"""No files of the product import each other in a circle, not even inside functions or for types alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("fedsus", "client/fedsus_client", "server/fedsus_server", "simulations/fedsus_simulations")
IMPORT = re.compile(r"^[ \t]*(?:from ([\w.]+) import (\([^)]*\)|.*)|import ([\w.]+))", re.MULTILINE)
"""Lines of text are read and not parsed: that takes a twentieth of the time."""
COMMENT = re.compile(r"#.*| as \w+")
WORD = re.compile(r"\w+")


def sources() -> dict[str, str]:
    """Dotted name -> text of each file; a package bears the name of its folder."""
    found = {}
    for folder in map(ROOT.joinpath, FOLDERS):
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file.read_text(encoding="utf-8")
    return found


def imported(text: str, names: Mapping[str, str]) -> Iterator[str]:
    """Those of ``names`` that a file imports, wherever in it."""
    for module, taken, whole in IMPORT.findall(text):
        if whole in names:
            yield whole
        for word in WORD.findall(COMMENT.sub("", taken)):
            yield from [name for name in (f"{module}.{word}", module) if name in names][:1]


def circle(files: Mapping[str, str]) -> list[str]:
    """A circle of files, each imported by the next; empty where there is none."""
    try:
        TopologicalSorter({name: set(imported(text, files)) for name, text in files.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_files_import_each_other() -> None:
    files = sources()
    assert len(files) > 400
    assert circle(files) == []


@pytest.mark.parametrize(
    "line",
    ["import a.low", "from a import low", "from a.low import word", "def f():\n    from a.low import word"],
)
def test_a_circle_is_found(line: str) -> None:
    files = {"a": "", "a.low": "", "a.middle": "from a import low", "a.high": "import a.middle\nfrom a.low import word"}
    assert circle(files) == []
    assert set(circle(files | {"a.low": line.replace("a.low", "a.high").replace("import low", "import high")})) >= {
        "a.low",
        "a.high",
    }
