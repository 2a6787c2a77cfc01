"""The demo as a user starts it: to its end, and stopped by Ctrl-C in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

NAMES = ["alone", "federated", "in-clear", "epsilon-8", "epsilon-3", "pooled"]
DEMO = [sys.executable, "-m", "fedsus", "demo", "--runs"]


def processes_of(folder: Path) -> list[str]:
    """Command lines that name a folder below ``folder``: everything a demo starts does."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in words:
                found.append(words)
    return found


def wait_until(ready: object, seconds: float, what: str) -> None:
    """Look often, give up late."""
    end = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        assert time.monotonic() < end, f"{what} within {seconds} s"
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("number", "moment", "least"),
    [(signal.SIGINT, "agents: all four connected", 6), (signal.SIGTERM, "server: TLS on", 2)],
)
def test_ctrl_c_stops_everything(tmp_path: Path, number: signal.Signals, moment: str, least: int) -> None:
    """In the middle, and while all is being started."""
    output = tmp_path / "out.txt"
    with output.open("wb") as file:
        demo = subprocess.Popen(
            [*DEMO, str(tmp_path)], stdout=file, stderr=subprocess.STDOUT, start_new_session=True, cwd=tmp_path
        )
        try:
            wait_until(lambda: moment in output.read_text(errors="replace"), 180, moment)
            assert len(processes_of(tmp_path)) >= least
            demo.send_signal(number)
            assert demo.wait(60) == 130
        finally:
            demo.kill()
            demo.wait()
    # Where the server took too long it was killed, and what it had started ends when it notices that.
    wait_until(lambda: not processes_of(tmp_path), 60, "the end of all processes")
    assert "Traceback" not in output.read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, str(tmp_path), "--rounds", "4"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert processes_of(tmp_path) == []
    (folder,) = tmp_path.glob("demo-*")
    found = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    assert [answer["name"] for answer in found["answers"]] == NAMES
    for answer in found["answers"]:
        assert len(answer["rows"]) == 4
        assert all(len(row["seeds"]) == 5 for row in answer["rows"])
    answers = {answer["name"]: answer for answer in found["answers"]}
    private, secure, clear = (answers[name] for name in ("epsilon-8", "federated", "in-clear"))
    assert all(0 < row["epsilon"] <= 8.0 for row in private["rows"]), "from each hospital's own ledger"
    assert (found["same_models"], found["seeds"]) == (5, 5), "equal seeds: the same bits in clear and masked"
    assert [row["seeds"] for row in secure["rows"]] == [row["seeds"] for row in clear["rows"]]
    exchanges = {name: answer["exchange"] for name, answer in answers.items() if answer["exchange"]}
    assert exchanges == {"in-clear": "clear_sum"} | dict.fromkeys(("federated", "epsilon-8", "epsilon-3"), "secure_sum")
    assert secure["round_bytes"] > clear["round_bytes"] > 0
    assert "Secure aggregation: the same training without it and with it" in done.stdout
    runs = [path for path in tmp_path.iterdir() if (path / "journal.jsonl").exists()]
    assert len(runs) == 4
    costs = done.stdout.partition("What each run cost, by its signed receipt")[2].splitlines()
    rows = {line.split("  ")[0]: line.split()[-5:] for line in costs if line.startswith("federated")}
    assert rows.keys() == {"federated", "federated, epsilon 8", "federated, epsilon 3", "federated, sums in clear"}
    for server, _, owned, milligrams, kilobytes in rows.values():
        assert min(map(float, (server, owned, milligrams, kilobytes))) > 0
    told = {title: row[1] for title, row in rows.items()}
    assert 0 < float(told.pop("federated")) <= 1.01 * float(rows["federated"][2]), "what was told is what owners noted"
    assert set(told.values()) == {"-"}
    for path in runs:
        verified = [sys.executable, "-m", "fedsus", "receipt", "verify", str(path)]
        checked = subprocess.run([*verified, "--operator", str(folder / "server" / "operator.key.pub")], check=False)
        assert checked.returncode == 0
        assert "<svg" in (path / "report.html").read_text(encoding="utf-8")
    for path in (folder, *runs):
        assert (path / "demo.png").exists()
        assert (path / "demo.svg").exists()
