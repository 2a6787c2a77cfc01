"""A server killed with SIGKILL at every point where it writes goes on to the same model, bit for bit.

Run as a script, this file is that server: it forks one child for each point, which kills itself there.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedsus.journal import (
    NAME,
    AttemptOpened,
    Disk,
    Journal,
    RoundReleased,
    RunClosed,
    RunOpened,
    get,
    prune,
    put,
)
from fedsus.strategies import FedAvgM

ROUNDS = 3
HASH = "a" * 64
STRATEGY = FedAvgM(0.5, 0.9)


class KillingDisk(Disk):
    """Dies at the n-th of these points: before, in the middle of and after each operation."""

    def __init__(self, fatal):
        self.fatal = fatal
        self.points = 0

    def point(self):
        self.points += 1
        if self.points == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, file, data):
        self.point()
        half = len(data) // 2
        super().write(file, data[:half])
        self.point()
        super().write(file, data[half:-1])  # a whole entry that lacks its line break
        self.point()
        super().write(file, data[-1:])
        self.point()

    def sync(self, file):
        self.point()  # a killed process, unlike a machine without power, loses no page: no need to wait for the disk

    def save(self, path, arrays):
        path.write_bytes(b"half a checkpoint")
        self.point()
        super().save(path, arrays)
        self.point()

    def rename(self, old, new):
        super().rename(old, new)
        self.point()


def mean(round):
    return np.random.default_rng(round).normal(size=50).astype(np.float32)


def released(round, attempt, checkpoint):
    return RoundReleased(
        round=round,
        attempt=attempt,
        survivors=2,
        refused=0,
        lost=0,
        weight=2.0,
        metrics=None,
        held_out=0,
        saturated=None,
        checkpoint=checkpoint,
        bytes_sent=1,
        bytes_received=1,
        seconds=0.1,
    )


def serve(folder, disk):
    """What a server does with journal and checkpoints: starts or goes on, until the run is closed."""
    start = Journal.open if (folder / NAME).exists() else Journal.create
    with start(folder, lambda: 1.0, disk) as journal:
        if journal.state.opened is None:
            first = put(folder, STRATEGY.init(np.zeros(50, np.float32)), disk)
            journal.append(RunOpened(run="r", config={}, model_hash=HASH, checkpoint=first, fedsus_version="0"))
        while journal.state.closed is None and journal.state.next_round <= ROUNDS:
            round, attempt = journal.state.next_round, journal.state.attempts + 1
            journal.append(AttemptOpened(round=round, attempt=attempt, plan_digest=HASH, cohort=2))
            state = STRATEGY.step(get(folder, journal.state.checkpoint), mean(round))
            journal.append(released(round, attempt, put(folder, state, disk)))
            prune(folder, journal.entries)
        prune(folder, journal.entries)
        if journal.state.closed is None:
            journal.append(RunClosed(reason="completed", model=journal.state.checkpoint))


def main(base):
    """Fork a server for each point until one gets through."""
    fatal = 0
    while True:
        fatal += 1
        child = os.fork()
        if child == 0:
            code = 1
            try:
                serve(base / f"{fatal:03}", KillingDisk(fatal))
                code = 0
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            sys.exit(os.WEXITSTATUS(status))


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder for each point; the last one is the undisturbed run."""
    base = tmp_path_factory.mktemp("killed")
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run(
        [sys.executable, "-W", "error", __file__, str(base)], check=True, env={**os.environ, "PYTHONPATH": path}
    )
    return sorted(base.iterdir())


def test_there_is_a_folder_for_every_point(killed):
    entries = 2 + 2 * ROUNDS
    # four points a line and one for its fsync; two, an fsync, a rename and a folder's fsync a checkpoint;
    # folders' fsyncs when the run (two) and its first checkpoint (one) are made; one run that gets through
    assert len(killed) == 5 * entries + 5 * (1 + ROUNDS) + 3 + 1


def test_every_killed_run_goes_on_to_the_same_model(killed, tmp_path):
    *cut, whole = killed
    with Journal.open(whole, lambda: 1.0) as journal:
        expected = journal.state
    assert expected.closed.reason == "completed"
    dropped, spent = 0, set()
    for number, folder in enumerate(cut):
        copy = shutil.copytree(folder, tmp_path / str(number))
        if (copy / NAME).exists():
            with Journal.open(copy, lambda: 1.0) as journal:
                dropped += journal.dropped > 0
                state = journal.state
                if state.checkpoint:
                    assert get(copy, state.checkpoint)["steps"] == state.next_round - 1
        serve(copy, KillingDisk(None))
        with Journal.open(copy, lambda: 1.0) as journal:
            assert journal.dropped == 0
            assert journal.state.closed.model == expected.closed.model
            spent.add(journal.state.attempts)
        assert not list((copy / "blobs").glob(".*"))
        assert len(list((copy / "blobs").iterdir())) == 3
    assert dropped == 2 * (2 + 2 * ROUNDS)  # each line was cut in the middle and just before its line break
    assert spent == {ROUNDS, ROUNDS + 1}  # a crash between asking and release counts as an attempt


if __name__ == "__main__":
    main(Path(sys.argv[1]))
