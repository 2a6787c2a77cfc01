"""`fedsus energy show`; and that looking and measuring open no socket, write no file and start no process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from fedsus.cli import run
from fedsus.energy.meters import rapl

QUIET: Final = """
import sys
bad = []
def watch(event, args):
    if event.startswith(("socket.", "subprocess.", "os.posix_spawn", "os.fork", "os.exec", "os.system")):
        bad.append((event, str(args)[:80]))
    if event == "open" and isinstance(args[2], int) and args[2] & (O_WRONLY | O_RDWR | O_CREAT):
        bad.append((event, str(args)[:80]))
from os import O_CREAT, O_RDWR, O_WRONLY
sys.dont_write_bytecode = True
from fedsus.energy.meters.meter import make_meter
from fedsus.energy.meters.processors import tdp
from fedsus.settings.energy import EnergySettings
sys.addaudithook(watch)
meter = make_meter(EnergySettings())
with meter.phase("train"):
    sum(range(100000))
print(meter.take().total > 0, tdp("AMD EPYC 7763 64-Core Processor"), "codecarbon" in sys.modules)
print(len(bad), bad)
if "probe" in sys.argv:
    import socket
    socket.socket().close()
    open(sys.argv[2], "w").close()
    print(sorted({event for event, _ in bad}))
"""


def test_meters_open_no_socket_write_no_file_start_no_process(tmp_path: Path) -> None:
    command = (sys.executable, "-c", QUIET, "probe", str(tmp_path / "file"))
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[:2] == ["True 280.0 False", "0 []"]
    # The watch sees both, so that its silence above means something.
    assert said[2] == "['open', 'socket.__new__']"


def test_show_says_methods_and_why_not_better(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["energy", "show", "--watts", "60", "--seconds", "0.1", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {line["part"] for line in said["parts"]} >= {"processor"}
    usage = said["usage"]
    assert 0 <= usage["low"] <= usage["total"] <= usage["high"] and usage["total"] > 0
    assert usage["joules"]["train"] > 0 and usage["seconds"] >= 0.1
    assert run(["energy", "show"]) == 0
    assert capsys.readouterr().out.startswith("processor ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--meter", "counter"], 'error: [energy] meter = "counter": no RAPL in '),
        (["--watts", "-3"], "error: Invalid value for '--watts': -3.0 is not in the range"),
        (["--watts", "nan"], "error: Invalid value for '--watts': nan is no number"),
        (["--seconds", "0"], "error: Invalid value for '--seconds'"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(rapl.find, "__defaults__", (tmp_path / "none",))
    assert run(["energy", "show", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(said) and error.count("\n") == 1
