"""What is started is stopped: also when a signal comes at the worst moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedsus_simulations.whole.federation import LocalFederation

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """SIGINT as in a terminal, whatever runs the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_signal_while_a_process_starts_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    real = subprocess.Popen

    def interrupted(*arguments: Any, **options: Any) -> Any:
        process = real(*arguments, **options)
        started.append(process.pid)
        signal.raise_signal(signal.SIGINT)
        return process

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt), LocalFederation(tmp_path) as federation:
        federation.start_process("sleeper", SLEEPER, tmp_path / "out")
    assert len(started) == 1
    assert not alive(started[0])


def test_a_second_signal_while_stopping_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = LocalFederation(tmp_path)
    pids = [federation.start_process(name, SLEEPER, tmp_path / name).pid for name in ("server", "a")]
    stop = LocalFederation.stop

    def impatient(self: LocalFederation, name: str, number: int = signal.SIGTERM) -> int:
        signal.raise_signal(signal.SIGINT)
        return stop(self, name, number)

    monkeypatch.setattr(LocalFederation, "stop", impatient)
    with pytest.raises(KeyboardInterrupt):
        federation.close()
    assert not any(map(alive, pids))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
