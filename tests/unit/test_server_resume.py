"""Runs that must go on: what is submitted when, and when it is given up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fedsus.config import RunConfig
from fedsus.errors import EnvironmentFault
from fedsus.journal import AttemptOpened, Journal, RoundReleased, RunClosed
from fedsus.reporting import summary
from fedsus.rounds.planning.specification import open_run
from fedsus_server import looping, processes, runs
from fedsus_server.flower.control import FlowerRun
from fedsus_server.home import ActiveRun, Home, write
from fedsus_server.resume import TRIES, Resumer

CONFIG = RunConfig.model_validate(
    {"task": {"name": "heart"}, "plan": {"rounds": 9, "exchange": "clear_sum", "cohort": {"size": 2, "minimum": 2}}}
)


class Scene:
    """A home with one active run, a control API that notes what it is asked, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.home, self.folder = Home(folder / "home"), folder / "runs" / "one"
        self.home.make()
        open_run(self.folder, "one", CONFIG, np.zeros(4, np.float32), lambda: 1.0)
        self.home.activate(ActiveRun("one", str(self.folder)))
        self.now, self.up_since, self.reachable = 100.0, 50.0, True
        self.submitted: list[Path] = []
        self.stopped: list[int] = []
        self.status = "running"
        self.pids = 0
        self.resumer = Resumer(self.home, self.connect, lambda: self.up_since, lambda: self.now)

    @contextmanager
    def connect(self) -> Iterator[Scene]:
        if not self.reachable:
            raise EnvironmentFault("down")
        yield self

    def submit(self, folder: Path) -> int:
        self.submitted.append(folder)
        return len(self.submitted)

    def stop(self, run_id: int) -> None:
        self.stopped.append(run_id)

    def runs(self) -> list[FlowerRun]:
        return [FlowerRun(n + 1, self.status, "", "it broke", str(f)) for n, f in enumerate(self.submitted)]

    def step(self) -> int:
        """Submissions so far, after one more look a while later."""
        self.now += 10
        self.resumer.step()
        return len(self.submitted)

    def loop(self, *, alive: bool, ended: str | None = None) -> None:
        """A round loop came; it lives, or it is dead already."""
        self.pids += 1
        pid, start = (os.getpid(), processes.started(os.getpid())) if alive else (2**22 + self.pids, "then")
        write(self.folder / looping.NAME, {"pid": pid, "start": start, "ended": ended})

    def release(self) -> None:
        with Journal.open(self.folder, lambda: 1.0) as journal:
            n = journal.state.next_round
            journal.append(AttemptOpened(round=n, attempt=n, plan_digest="0" * 64, cohort=2))
            numbers = {"survivors": 2, "refused": 0, "lost": 0, "held_out": 0, "bytes_sent": 1, "bytes_received": 1}
            checkpoint = journal.state.checkpoint
            assert checkpoint is not None
            journal.append(
                RoundReleased(
                    round=n,
                    attempt=n,
                    weight=1.0,
                    metrics=None,
                    saturated=None,
                    checkpoint=checkpoint,
                    seconds=1.0,
                    **numbers,  # type: ignore[arg-type]
                )
            )

    @property
    def given_up(self) -> str | None:
        return self.home.active()[0].given_up


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_new_run_is_submitted_once_and_left_alone_while_its_loop_lives(scene: Scene) -> None:
    assert [scene.step(), scene.step()] == [1, 1]
    scene.loop(alive=True)
    assert scene.step() == 1


def test_a_dead_loop_is_resubmitted_at_once_and_the_old_submission_is_ended(scene: Scene) -> None:
    scene.step()
    scene.loop(alive=False)
    assert scene.step() == 2
    assert scene.stopped == [1]
    assert scene.submitted == [scene.folder, scene.folder]
    assert scene.step() == 2, "the dead loop of before must not be taken for the new one's"


def test_given_up_after_three_tries_without_a_round(scene: Scene) -> None:
    for n in range(TRIES):
        assert scene.step() == n + 1
        scene.loop(alive=False)
    assert [scene.step(), scene.step()] == [TRIES, TRIES]
    assert scene.given_up == "its round loop ended; 3 tries released no further round"


def test_each_released_round_renews_the_tries(scene: Scene) -> None:
    for n in range(3 * TRIES):
        assert scene.step() == n + 1
        scene.loop(alive=False)
        scene.release()
    assert scene.given_up is None


def test_a_named_error_of_the_loop_is_not_tried_again(scene: Scene) -> None:
    scene.step()
    scene.loop(alive=False, ended="blob broken")
    assert scene.step() == 1
    assert scene.given_up == "blob broken"


def test_a_loop_that_never_started_is_noticed_through_flower_and_after_a_restart(scene: Scene) -> None:
    scene.step()
    assert scene.step() == 1
    scene.up_since = scene.now + 1
    assert scene.step() == 2
    scene.status = "finished"
    assert scene.step() == 3


def test_a_loop_that_outlived_its_superlink_is_ended_and_the_run_resubmitted(scene: Scene) -> None:
    """Else it asks a closed port for ever, and holds the run's folder."""
    scene.step()
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as orphan:
        try:
            loop = {"pid": orphan.pid, "start": processes.started(orphan.pid), "ended": None}
            write(scene.folder / looping.NAME, loop)
            assert scene.step() == 1, "its SuperLink still runs"
            assert orphan.poll() is None
            scene.up_since = scene.now + 1
            assert scene.step() == 2
            assert orphan.wait(60) == -signal.SIGTERM
        finally:
            orphan.kill()


def test_a_closed_run_is_forgotten(scene: Scene) -> None:
    with Journal.open(scene.folder, lambda: 1.0) as journal:
        journal.append(RunClosed(reason="completed", model=None))
    assert scene.step() == 0
    assert scene.home.active() == []


def test_a_broken_journal_is_given_up_and_a_server_that_is_down_is_not(scene: Scene) -> None:
    scene.reachable = False
    assert scene.step() == 0
    assert scene.given_up is None
    path = scene.folder / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"one"', b'"two"'))
    path.write_bytes(path.read_bytes() + b"{}\n")
    assert scene.step() == 0
    assert "journal.jsonl" in (scene.given_up or "")


def test_stop_works_without_a_server(scene: Scene) -> None:
    scene.release()
    assert runs.stop(scene.home, scene.folder, lambda: 2.0)
    assert scene.home.active() == []
    found = summary(scene.folder)
    assert (found.status, found.model is not None) == ("stopped", True)
    assert not runs.stop(scene.home, scene.folder, lambda: 2.0)
