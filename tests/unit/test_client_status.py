"""status.json tells the truth about the process behind it; the pause marker stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fedsus.errors import ConfigError, EnvironmentFault
from fedsus_client.status import (
    Status,
    pause,
    paused,
    process_start,
    read_status,
    resume,
    running,
    write_status,
)


def mine() -> Status:
    started = process_start(os.getpid())
    assert started is not None
    return Status(state="idle", server="localhost:9443", pid=os.getpid(), started=started, updated=1.0)


def test_written_and_read_back(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    status = replace(mine(), run="r1", round=2, rounds=5, refused=1, last_refusal="epsilon", memory=2**28)
    write_status(tmp_path / "state", status)
    write_status(tmp_path / "state", status)
    assert read_status(tmp_path / "state") == status
    assert [file.name for file in (tmp_path / "state").iterdir()] == ["status.json"]
    assert (tmp_path / "state" / "status.json").stat().st_mode & 0o077 == 0


def test_running_means_this_process_and_no_other() -> None:
    assert running(mine())
    assert not running(replace(mine(), started="another boot/1"))  # the number was given to a later process
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = process_start(child.pid)
    status = replace(mine(), pid=child.pid, started=started or "")
    assert running(status)
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not running(status)  # a zombie works no more
    child.communicate()
    assert not running(status)


@pytest.mark.parametrize("content", ["", "[]", '{"state": "idle"}', '{"novelty": 1}'])
def test_another_content_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "status.json").write_text(content)
    with pytest.raises(ConfigError, match="start the agent again"):
        read_status(tmp_path)


def test_pause_and_resume(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert not paused(folder)
    resume(folder)
    pause(folder)
    pause(folder)
    assert paused(folder)
    resume(folder)
    assert not paused(folder)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        pause(tmp_path / "file" / "state")
