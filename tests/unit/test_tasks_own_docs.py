"""docs/own-task.md says what is so: its code is the example's, its commands run, its configuration is accepted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedsus.commands.model import model
from fedsus.config import RunConfig, loads
from fedsus.tasks.registry import build, resolve
from fedsus.tasks.task import DataSource
from fedsus_simulations.commands import simulate

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "own_task"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "docs" / "own-task.md").read_text(), re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[str]:
    return [text for language, text in BLOCKS if language == kind]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {language for language, _ in BLOCKS} == {"bash", "python", "toml"}


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.strip().splitlines()[0][:40])
def test_the_code_shown_is_the_examples_code(block: str) -> None:
    assert block in (EXAMPLE / "src" / "machine_failure" / "task.py").read_text()


@pytest.mark.timeout(300)
def test_the_commands_and_files_work_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLE / "src"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    agent, run, plants = blocks("toml")
    (tmp_path / "run.toml").write_text(run)
    assert "\nrounds = 20\n" in plants
    (tmp_path / "plants.toml").write_text(plants.replace("\nrounds = 20\n", "\nrounds = 2\n"))  # only for the time
    for line in "".join(blocks("bash")).splitlines():
        _run(shlex.split(line))
    lines = (tmp_path / "scored.csv").read_text().splitlines()
    assert lines[0] == "machine,kind,age,failed,score"
    assert len(lines) == 201
    (journal,) = tmp_path.glob("simulated/plants-*/journal.jsonl")
    assert '"reason":"completed"' in journal.read_text()

    tables = tomllib.loads(agent)
    config = loads(run, RunConfig)
    task = build(resolve(tables["tasks"][config.task.name]), config.task.settings)
    options = dict(tables["data"]["plant-north"])
    assert task.load(DataSource(tmp_path / options.pop("path"), options)).size > 100


def _run(command: list[str]) -> None:
    """One line of a bash block. What pip would install is on the path already; its folders must be there."""
    match command:
        case ["pip", "install", *rest]:
            assert [part for part in rest if not part.startswith("-")] == [".[parquet]", "examples/own_task"]
        case ["python", *rest]:
            paths = [str(EXAMPLE / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
            done = subprocess.run(
                [sys.executable, *rest], env=environment, capture_output=True, text=True, timeout=200, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        case ["fedsus", "model", *rest]:
            CliRunner().invoke(model, rest, catch_exceptions=False)
        case ["fedsus", "simulate", *rest]:
            CliRunner().invoke(simulate, rest, catch_exceptions=False)
        case _:
            pytest.fail(f"a command that no test runs: {shlex.join(command)}")
