"""Sweeps: every combination in a folder of its own, resumed as a whole, told as mean and spread."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from simulate_calls import only, told

from fedsus.config import loads
from fedsus.errors import ConfigError
from fedsus.reporting import summary
from fedsus_simulations.running import evaluation, sweep_table, sweeping, watching
from fedsus_simulations.running.outcome import Outcome
from fedsus_simulations.running.sweep_table import Spread
from fedsus_simulations.running.sweeping import Ran
from fedsus_simulations.scenario.config import Scenario

TOML = """\
name = "small"
[task]
name = "heart"
[plan]
rounds = 2
cohort = { size = 4, minimum = 3 }
[population]
data = "heart"
[simulation]
masks = "none"
[sweep]
seeds = [1, 2]
[sweep.settings]
"plan.strategy.name" = ["fedavg", "fedadam"]
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(TOML, encoding="utf-8")
    return tmp_path


def test_cells_are_every_combination_seed_by_seed() -> None:
    scenario = loads(TOML + '"plan.training.proximal" = [0.0, 0.5]\n', Scenario)
    found = sweeping.cells(scenario)
    assert len(found) == len({cell.name for cell in found}) == 8
    assert [cell.scenario.seed for cell in found] == [1] * 4 + [2] * 4
    assert found[1].name == "002-fedavg-0.5-seed-1"
    assert found[1].words == "plan.strategy.name=fedavg, plan.training.proximal=0.5, seed 1"
    for cell in found:
        plan = cell.scenario.plan
        values = plan.strategy.name, plan.training.proximal
        assert tuple(cell.settings.values()) == values
        assert cell.scenario.sweep is None
        assert len(cell.run) <= 64


def test_a_combination_that_is_no_scenario_is_told_before_anything_runs() -> None:
    scenario = loads(TOML + '"plan.training.batch_size" = [16, 0]\n', Scenario)
    with pytest.raises(ConfigError, match=r"sweep plan\.strategy\.name=fedavg, plan\.training\.batch_size=0: "):
        sweeping.cells(scenario)


def test_a_sweep_leaves_a_folder_for_each_run_a_table_and_a_picture(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = told(capsys, ["small.toml", "--json"])
    assert code == 0
    found, folder = json.loads(out), only(home / "runs")
    assert json.loads((folder / "sweep.json").read_text(encoding="utf-8")) == found
    assert [row["settings"] for row in found["settings"]] == [
        {"plan.strategy.name": "fedavg"},
        {"plan.strategy.name": "fedadam"},
    ]
    for row, name in zip(found["settings"], ("fedavg", "fedadam"), strict=True):
        last = [evaluation.read(path)[2]["accuracy"] for path in sorted(folder.glob(f"*-{name}-seed-*"))]
        spread = row["metrics"]["accuracy"]
        assert (spread["n"], spread["min"], spread["max"]) == (2, min(last), max(last))
        assert spread["mean"] == pytest.approx(np.mean(last))
        assert spread["std"] == pytest.approx(np.std(last, ddof=1))
        assert row["bytes"]["n"] == 2 and row["failed"] == []
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "<!-- fedadam -->" in (folder / "sweep.svg").read_text(encoding="utf-8")
    assert "[4/4] plan.strategy.name=fedadam, seed 2" in err


def test_a_sweep_goes_on_where_it_was_interrupted(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_table, "draw", lambda folder, ran: None)
    rounds = []
    real = watching.Watching.round

    def interrupted(self: watching.Watching, *given: object) -> None:
        rounds.append(1)
        real(self, *given)  # type: ignore[arg-type]
        if len(rounds) == 3:  # the second run, after its first round
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.Watching, "round", interrupted)
    code, _, err = told(capsys, ["small.toml"])
    folder = only(home / "runs")
    assert code == 130
    assert err == f"interrupted; to go on: fedsus simulate --resume runs/{folder.name}\n"
    code, out, _ = told(capsys, ["--resume", str(folder)])
    assert code == 0
    assert len(rounds) == 4 * 2
    assert out.count("finished before") == 1
    assert all(summary(path).status == "completed" for path in folder.glob("*-seed-*"))


def test_a_run_that_fails_does_not_stop_the_others_and_is_told(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_table, "draw", lambda folder, ran: None)
    options = ["--seeds", "1", "--sweep", "plan.cohort.size=5,4", "--sweep", "plan.strategy.name=fedavg"]
    code, out, err = told(capsys, ["small.toml", *options])
    assert code == 1
    assert "0, 1 failed" in out
    assert "failed: plan.cohort.size = 5: the population has 4 clients" in out
    assert err.startswith("error: 1 of 2 runs failed; what failed, and why: ")
    rows = json.loads((only(home / "runs") / "sweep.json").read_text(encoding="utf-8"))["settings"]
    assert [len(row["failed"]) for row in rows] == [1, 0]


def test_a_run_whose_files_were_changed_does_not_stop_the_others(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_table, "draw", lambda folder, ran: None)
    assert told(capsys, ["small.toml", "--seeds", "1,2", "--sweep", "plan.strategy.name=fedavg"])[0] == 0
    folder = only(home / "runs")
    first, second = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    (first / "journal.jsonl").write_bytes(b"{}\n")
    code, out, err = told(capsys, ["--resume", str(folder)])
    assert code == 1 and err.startswith("error: 1 of 2 runs failed")
    assert f"failed: {first / 'journal.jsonl'}: line 1" in out and "finished before" in out
    assert summary(second).status == "completed"


def outcome(accuracy: float, **changes: object) -> Outcome:
    fields = {"run": "r", "folder": "f", "status": "completed", "seed": 1, "rounds": 2, "exchange": "clear_sum"}
    fields |= {
        "clients": None,
        "asked": 2,
        "attempts": 2,
        "metrics": {},
        "central": {"accuracy": accuracy},
        "best": None,
    }
    fields |= {"epsilon": None, "delta": None, "bytes_sent": 10, "bytes_received": 5, "seconds": 1.0, "virtual": 0.0}
    return Outcome(**fields | changes)  # type: ignore[arg-type]


def test_the_table_tells_mean_spread_and_number() -> None:
    cells = sweeping.cells(loads(TOML, Scenario))
    ran = [Ran(cell, outcome(value, epsilon=2.5)) for cell, value in zip(cells, (0.5, 0.7, 0.6, 0.9), strict=True)]
    found = sweep_table.rows(ran)
    assert found[0].metrics["accuracy"] == Spread(0.55, pytest.approx(0.0707, abs=1e-4), 0.5, 0.6, 2)  # type: ignore[arg-type]
    console = Console(width=100, force_terminal=False)
    with console.capture() as shown:
        console.print(sweep_table.table(found))
    for words in ("strategy.name", "fedadam", "0.55 ± 0.07", "0.5 to 0.6", "2.50", "15 B"):
        assert words in shown.get(), words


def test_one_value_has_no_spread() -> None:
    assert Spread.of([0.25]) == Spread(0.25, None, 0.25, 0.25, 1)
    assert str(Spread.of([0.25])) == "0.25"
