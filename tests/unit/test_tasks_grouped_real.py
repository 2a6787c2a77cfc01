"""The real data sets have the clients and the sizes that docs/tasks.md says.

Runs where `fedsus data get NAME` has fetched them into the folder ``data`` of the repository.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from fedsus.tasks.heart import shipped
from fedsus.tasks.registry import build, resolve
from fedsus.tasks.task import DataSource, Grouped

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "task", "options"),
    [
        ("| `heart` | 4 hospitals |", "heart", {}),
        ("| `watch` | 10 persons |", "watch", {}),
        ("| `shakespeare` | 656 roles |", "shakespeare", {}),
        ("| `adult` | 14 occupations |", "adult", {}),
        ('| `adult`, `by = "country"` | 40 countries |', "adult", {"by": "country"}),
    ],
)
def test_the_clients_have_the_documented_sizes(row: str, task: str, options: dict[str, Any]) -> None:
    folder = shipped("va").parent if task == "heart" else ROOT / "data" / task
    if not folder.is_dir():
        pytest.skip(f"{folder.relative_to(ROOT)} is not there: fedsus data get {task}")
    made = build(resolve(task), {})
    assert isinstance(made, Grouped)
    groups = made.groups(DataSource(folder, options)).values()
    sizes, out = [shard.size for shard in groups], sum(len(shard.held_out[0]) for shard in groups)
    numbers = (min(sizes), statistics.median(sizes), max(sizes), sum(sizes), out)
    assert int(row.split("|")[2].split()[0]) == len(sizes)
    told = " | ".join(f"{number:,}".removesuffix(".0") for number in numbers)
    assert f"{row} {told} |" in (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
