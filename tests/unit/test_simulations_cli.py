"""`fedsus simulate`: what people and programs are told, and how a run goes on after whatever ended it."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from simulate_calls import only, told

from fedsus.privacy.stated import shown
from fedsus.reporting import released_model
from fedsus_simulations.clients import description
from fedsus_simulations.running import curves, evaluation, watching
from fedsus_simulations.running.simulation import Simulation

ROUNDS = 30
TOML = f"""\
name = "small"
seed = 3
[task]
name = "heart"
[plan]
rounds = {ROUNDS}
metrics = [{{ name = "loss", low = 0.0, high = 10.0 }}, {{ name = "accuracy", low = 0.0, high = 1.0 }}]
[plan.cohort]
size = 3
minimum = 2
[population]
data = "heart"
[simulation]
masks = "none"
"""
EACH_ROUND = (
    "from fedsus import cli; from fedsus_simulations.running import watching; watching.LINE_SECONDS = 0.0; cli.main()"
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of one's own with a scenario; no pictures, which take a second each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(curves, "draw", lambda folder: None)
    monkeypatch.setattr(description, "draw", lambda population, folder: None)
    (tmp_path / "small.toml").write_text(TOML, encoding="utf-8")
    return tmp_path


def test_json_alone_is_on_standard_output(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, ["small.toml", "--json", "--rounds", "4"])
    assert code == 0
    found = json.loads(out)
    assert (found["status"], found["rounds"], found["seed"], found["epsilon"]) == ("completed", 4, 3, None)
    assert Path(found["folder"]) == only(home / "runs")
    assert found["bytes_sent"] > found["bytes_received"] > 0
    assert found["central"] == evaluation.read(only(home / "runs"))[4]
    assert found["best"]["round"] in range(5)
    assert found["metrics"].keys() == {"loss", "accuracy"}
    assert "round 4/4" in err and "test part, after it: loss" in err


def test_a_run_toml_with_clients_of_ones_own(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fedsus.tasks.heart import HOSPITALS, shipped

    text = TOML.partition("[population]")[0].replace("seed = 3\n", "")
    (home / "run.toml").write_text(text, encoding="utf-8")
    clients = [word for name in HOSPITALS for word in ("--client", f"{name}={shipped(name)}")]
    task = ["--task", "fedsus.tasks.heart:HeartDisease"]
    given = ["run.toml", *clients, *task, "--rounds", "3", "--seed", "3", "--runs", "given", "--json"]
    code, out, _ = told(capsys, given)
    assert code == 0
    told(capsys, ["small.toml", "--rounds", "3", "--masks", "real", "--runs", "scenario"])
    run = only(home / "given")
    assert released_model(run).tobytes() == released_model(only(home / "scenario")).tobytes()
    assert json.loads(out)["exchange"] == "secure_sum"
    assert told(capsys, ["--resume", str(run), "--quiet"]) == (0, "", "")


def test_quiet_says_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, ["small.toml", "--quiet", "--rounds", "2"]) == (0, "", "")


def test_a_line_now_and_then_and_always_the_last(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LINE_SECONDS", 1e9)
    _, out, _ = told(capsys, ["small.toml"])
    assert [line.split()[1] for line in out.splitlines() if line.startswith("round ")] == ["1/30", "30/30"]


def test_a_private_run_tells_its_epsilon(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    privacy = '[plan.privacy]\nunit = "example"\nepsilon = 3.0\ndelta = 1e-5\ndenominator = 10.0\n'
    (home / "small.toml").write_text(TOML + privacy, encoding="utf-8")
    _, out, err = told(capsys, ["small.toml", "--json", "--rounds", "2"])
    found = json.loads(out)
    assert 0 < found["epsilon"] < 3.0 and found["delta"] == 1e-5
    assert found["metrics"] == {} and found["central"]["accuracy"] > 0
    assert f"epsilon {shown(found['epsilon'])} at delta 1e-05" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch.toml"], "nosuch.toml: no such file"),
        (["small.toml", "--set", "plan.strateggy.name=fedadam"], "unknown field 'plan.strateggy'; did you mean"),
        (["small.toml", "--set", "population.data=fashion-mnist", "--data", "away"], "fedsus data get fashion-mnist"),
        (["small.toml", "--set", "population.data=./nothing"], "no such file or folder"),
        (["small.toml", "--set", "plan.cohort.size=5"], "the population has 4 clients"),
        (["small.toml", "--set", "population.data=~nobody.is.called.so/x"], "no such file or folder"),
        (["small.toml", "--set", 'population.data="a\\u0000b/c"'], "no such file or folder"),
        (["small.toml", "--set", 'population.data="\\u001b[2J/c"'], "\\x1b[2J/c': no such file or folder"),
        (["small.toml", "--set", f"population.data={'x' * 300}", "--data", "."], "File name too long"),
        (["small.toml", "--set", f"population.data=./{'x' * 300}"], "File name too long"),
        (["--resume", "nowhere"], "is nowhere the folder of a simulation?"),
        (["small.toml", "--resume", "r", "--seed", "1"], "leave out --seed, SCENARIO"),
        ([], "Missing argument"),
        (["small.toml", "--ray", "auto", "--workers", "2"], "--ray: the cluster has workers of its own"),
        (["small.toml", "--sweep", "plan.rounds"], "expected NAME=VALUE,VALUE"),
        (["small.toml", "--sweep", "plan.rounds=1,0"], "sweep plan.rounds=0: 'plan.rounds' = 0"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = told(capsys, arguments)
    assert code == 2
    assert out == ""
    assert message in err and "\x1b" not in err
    assert len(err.splitlines()) == 1
    assert not (home / "runs").exists()


def test_an_interrupted_run_says_how_to_go_on(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told(capsys, ["small.toml", "--runs", "whole"])
    real = watching.Watching.round

    def interrupted(self: watching.Watching, released: object, central: object) -> None:
        real(self, released, central)  # type: ignore[arg-type]
        if len(self.progress.released) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(watching.Watching, "round", interrupted)
        code, _, err = told(capsys, ["small.toml"])
    run = only(home / "runs")
    assert code == 130
    assert err == f"interrupted; to go on: fedsus simulate --resume runs/{run.name}\n"
    (home / "small.toml").unlink()  # its copy is in the folder
    code, out, _ = told(capsys, ["--resume", f"runs/{run.name}"])
    assert code == 0 and f"round {ROUNDS}/{ROUNDS}" in out
    assert released_model(run).tobytes() == released_model(only(home / "whole")).tobytes()
    code, out, _ = told(capsys, ["--resume", f"runs/{run.name}"])
    assert code == 0 and "finished before" in out


def test_a_failed_run_says_why_now_and_when_resumed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = told(capsys, ["small.toml", "--set", "traces={dropout = 0.99}", "--rounds", "2"])
    assert code == 1
    assert "attempts of the run are spent; the last was abandoned: " in err.splitlines()[-1]
    code, _, err = told(capsys, ["--resume", str(only(home / "runs"))])
    assert code == 1 and "has failed, and does not go on" in err


def test_settings_of_the_machine_may_change_on_resume(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = Simulation.run

    def stopped(self: Simulation, *given: object) -> object:
        seen.append(self.scenario.simulation.threads)
        if len(seen) == 1:
            raise KeyboardInterrupt
        return real(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Simulation, "run", stopped)
    told(capsys, ["small.toml", "--rounds", "2"])
    assert told(capsys, ["--resume", str(only(home / "runs")), "--threads", "2"])[0] == 0
    assert seen == [1, 2]


def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, ["small.toml", "--runs", "whole"])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", EACH_ROUND, "simulate", "small.toml"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
    moment = random.SystemRandom().randrange(1, ROUNDS - 5)
    with process.stdout as lines:
        for line in lines:
            if line.startswith(f"round {moment}/"):
                break
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    run = only(home / "runs")
    assert told(capsys, ["--resume", str(run)])[0] == 0
    whole = only(home / "whole")
    assert released_model(run).tobytes() == released_model(whole).tobytes(), f"killed after round {moment}"
    assert (run / evaluation.NAME).read_bytes() == (whole / evaluation.NAME).read_bytes()


def test_a_disk_that_is_full_from_the_start_leaves_nothing(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        path.write_bytes(data[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fedsus_simulations.running.saved._synced", full)
    code, _, err = told(capsys, ["small.toml"])
    assert code == 2
    assert "the disk is full" in err
    assert list((home / "runs").iterdir()) == []


def test_the_list_of_scenarios(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from fedsus_simulations.scenario import catalogue

    (home / "one.toml").write_text("# The first\n", encoding="utf-8")
    monkeypatch.setattr(catalogue, "shipped", lambda: {"one": home / "one.toml"})
    for arguments in (["list"], ["--list"]):
        assert told(capsys, arguments) == (0, "one  The first\n", "")
