"""docs/tasks.md has each setting and each option of the built-in tasks, with its default."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from small_data import write_adult, write_plays, write_watch

from fedsus.errors import DataError
from fedsus.tasks.fashion import FILES
from fedsus.tasks.heart import shipped
from fedsus.tasks.registry import BUILT_IN, build, resolve
from fedsus.tasks.task import DataSource

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
HEADINGS = {
    "heart": "Heart disease",
    "fashion-mnist": "Fashion-MNIST",
    "watch": "Smartwatch activity",
    "shakespeare": "Shakespeare",
    "adult": "Adult",
}


def _heart(folder: Path) -> Path:
    (folder / "va.csv").write_bytes(shipped("va").read_bytes())
    return folder


def _fashion(folder: Path) -> Path:
    for name in FILES:
        (folder / name).touch()
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "heart": _heart,
    "fashion-mnist": _fashion,
    "watch": write_watch,
    "shakespeare": write_plays,
    "adult": write_adult,
}


def _section(task: str) -> str:
    return re.split(r"^## ", PAGE.partition(f"\n## {HEADINGS[task]}\n")[2], flags=re.MULTILINE)[0]


def test_every_task_has_a_row_and_a_section() -> None:
    assert set(HEADINGS) == set(BUILT_IN)
    assert re.findall(r"^\| `([a-z-]+)` \| .*\?", PAGE, re.MULTILINE) == list(BUILT_IN)
    assert all(_section(task) for task in BUILT_IN)


@pytest.mark.parametrize("task", BUILT_IN)
def test_the_settings_are_those_of_the_task(task: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| `?(\w+)`? \| .+ \|$", _section(task), re.MULTILINE)
    fields = resolve(task).Settings.model_fields
    assert rows == [(name, str(field.default).replace("False", "false")) for name, field in fields.items()]


@pytest.mark.parametrize("task", BUILT_IN)
def test_the_options_are_those_of_the_task(task: str, tmp_path: Path) -> None:
    source = DataSource(FOLDERS[task](tmp_path), {"nonsense": 1})
    with pytest.raises(DataError, match="known here: ") as caught:
        build(resolve(task), {}).load(source)
    known = str(caught.value).partition("known here: ")[2].split(", ")
    told = re.search(r"^(Options?): (.*?)(?:\n\n|\Z)", _section(task), re.MULTILINE | re.DOTALL)
    assert told is not None
    assert sorted(re.findall(r"`(\w+)", told[2])) == sorted(known)
