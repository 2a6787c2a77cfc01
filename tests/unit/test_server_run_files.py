"""Settings of run.toml that do not fit together: one line, with the file's name, before a run is opened or planned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedsus.cli import run as command
from fedsus.config import naming
from fedsus.errors import ConfigError
from fedsus.model_file import metadata, write_model
from fedsus.plan import TaskPart
from fedsus_server import runs

GOOD = """
name = "trial"
task = { name = "heart" }
plan = { rounds = 4, exchange = "clear_sum", cohort = { size = 2, minimum = 2 } }
"""
COSTS = GOOD.replace("rounds", "costs = { joules = 1.0, grams = 1.0 }, rounds")
WIDE = GOOD.replace("size = 2", "size = 1000000").replace("rounds", "encoding = { bits = 16 }, rounds")
NOISE = 'unit = "client", placement = "distributed", epsilon = 3.0, delta = 1e-5, clip = 1.0'
SHARES = GOOD.replace("rounds", f"privacy = {{ {NOISE} }}, rounds")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (COSTS, "plan.costs: in exchange = 'clear_sum' the server would see each device's figure"),
        (SHARES, "plan.exchange = 'clear_sum': placement 'distributed' hides each update"),
        (WIDE, "encoding.bits = 16 cannot carry 1000000 clients"),
    ],
)
def test_a_run_that_is_refused_names_its_file(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    write_model(tmp_path / "model.safetensors", np.zeros(4, np.float32), metadata(TaskPart(name="heart", settings={})))
    with pytest.raises(ConfigError) as refused:
        runs.open_new(path, tmp_path / "runs", lambda: 0.0)
    said = str(refused.value)
    assert said.startswith(f"{path}: {reason}")
    assert said.count(str(path)) == 1 and "\n" not in said
    assert not (tmp_path / "runs").exists()


def test_so_does_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(WIDE, encoding="utf-8")
    assert command(["privacy", "plan", "run.toml", "--dimension", "34"]) == 2
    assert capsys.readouterr().err.startswith("error: run.toml: encoding.bits = 16 cannot carry")


def test_a_file_that_is_named_already_is_not_named_again() -> None:
    with pytest.raises(ConfigError, match=r"^run\.toml: 'plan\.x': wrong$"), naming(Path("run.toml")):
        raise ConfigError("run.toml: 'plan.x': wrong")
