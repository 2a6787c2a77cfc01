"""Blocks on threads and processes: the same integers wherever they run, and whatever dies on the way."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from block_runs import BLOCKS, REFERENCE, released, request, scenario, stacked, summed, workers_of

from fedsus.errors import DataError, EnvironmentFault
from fedsus.rounds.messages import Request
from fedsus_simulations.workers.inline import Inline, Recipe
from fedsus_simulations.workers.processes import Processes

# Each process of a pool imports torch.
pytestmark = pytest.mark.timeout(400)

SCRIPT = """\
import signal
import sys
from pathlib import Path
from block_runs import request, scenario, summed, workers_of

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asked = scenario(Path("."), {"workers": 2})
    workers = workers_of(asked, Path("."))
    try:
        print(*(process.pid.result() for process in workers.processes), flush=True)
        while True:
            summed(workers, request(asked))
    except KeyboardInterrupt:
        sys.exit("interrupted")
    finally:
        workers.close()
"""


def alive(pid: int) -> bool:
    """Whether there is such a process; one that ended and that nobody waited for counts."""
    return Path(f"/proc/{pid}").exists()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Processes, Path]]:
    """Two processes with stacked trainers, and the file that tells them to die."""
    folder = tmp_path_factory.mktemp("two")
    asked = scenario(folder, {"trainer": "stacked", "workers": 2}, {"orders": str(folder / "orders")})
    workers = workers_of(asked, folder)
    assert isinstance(workers, Processes)
    yield workers, folder / "orders"
    workers.close()


def here(two: tuple[Processes, Path], threads: int = 1) -> tuple[Inline, Request]:
    """One worker in this process for the same scenario, and a request."""
    _, orders = two
    asked = scenario(orders.parent, {"trainer": "stacked", "threads": threads})
    inline = workers_of(asked, orders.parent)
    assert isinstance(inline, Inline)
    return inline, request(asked)


def test_two_processes_give_the_integers_of_one(two: tuple[Processes, Path]) -> None:
    inline, asked = here(two)
    (total, _), (rings, _) = summed(inline, asked), stacked(inline, asked)
    assert (summed(two[0], asked)[0] == total).all()
    assert (stacked(two[0], asked)[0] == rings).all()
    assert (rings.sum(axis=0, dtype=np.uint32) == total).all() and total.any()


def test_a_run_on_two_processes_releases_the_model_of_one_with_masks_and_without(
    two: tuple[Processes, Path], tmp_path: Path
) -> None:
    workers, orders = two
    secure = {"exchange": "secure_sum"}
    alone = released(scenario(orders.parent, {"trainer": "stacked"}, **secure), tmp_path, tmp_path / "alone")
    for masks in ("none", "real"):
        asked = scenario(orders.parent, {"trainer": "stacked", "masks": masks}, **secure)
        assert released(asked, tmp_path, tmp_path / masks, workers) == alone


def test_the_loop_trainer_gives_the_integers_of_one_on_two_processes_with_two_threads_each(tmp_path: Path) -> None:
    one, two = (workers_of(scenario(tmp_path, {"workers": n, "threads": n}), tmp_path) for n in (1, 2))
    asked = request(scenario(tmp_path, {}))
    try:
        assert (summed(two, asked)[0] == summed(one, asked)[0]).all()
        assert (stacked(two, asked)[0] == stacked(one, asked)[0]).all()
    finally:
        two.close()


def test_threads_give_the_integers_of_one(two: tuple[Processes, Path]) -> None:
    (inline, asked), (threads, _) = here(two), here(two, threads=3)
    assert (summed(threads, asked)[0] == summed(inline, asked)[0]).all()
    assert (stacked(threads, asked)[0] == stacked(inline, asked)[0]).all()
    left = threads.rings(asked, BLOCKS * 8)
    assert (next(left).rings == next(inline.rings(asked, BLOCKS)).rings).all()
    left.close()  # type: ignore[attr-defined]
    assert (summed(threads, asked)[0] == summed(inline, asked)[0]).all()
    threads.close()


def test_threads_do_not_draw_each_others_dropout(tmp_path: Path) -> None:
    asked = scenario(tmp_path, {"trainer": "auto"}, {"dropout": 0.5})
    one, four = (
        workers_of(scenario(tmp_path, {"trainer": "auto", "threads": n}, {"dropout": 0.5}), tmp_path) for n in (1, 4)
    )
    expected = stacked(one, request(asked))[0]
    for _ in range(3):
        assert (stacked(four, request(asked))[0] == expected).all()
    four.close()


def test_a_killed_process_costs_its_blocks_a_second_try(
    two: tuple[Processes, Path], caplog: pytest.LogCaptureFixture
) -> None:
    workers, orders = two
    inline, asked = here(two)
    before = [process.pid.result() for process in workers.processes]
    orders.write_text("once", encoding="utf-8")
    with caplog.at_level(logging.WARNING, "fedsus.simulation"):
        total, _ = summed(workers, asked)
    assert not orders.exists()
    assert (total == summed(inline, asked)[0]).all()
    (said,) = caplog.messages
    assert said.startswith("round 1: worker process ") and "another is started" in said
    after = [process.pid.result() for process in workers.processes]
    gone = set(before) - set(after)
    assert len(gone) == 1 and not any(map(alive, gone))
    assert (stacked(workers, asked)[0] == stacked(inline, asked)[0]).all()


def test_blocks_that_are_lost_again_stop_the_run_which_can_be_resumed(
    two: tuple[Processes, Path], tmp_path: Path
) -> None:
    workers, orders = two
    asked = scenario(orders.parent, {"trainer": "stacked"})
    alone = released(asked, tmp_path, tmp_path / "alone")
    orders.write_text("always", encoding="utf-8")
    said = r"^round 1: worker process \d ended .* resume the run with fewer"
    with pytest.raises(EnvironmentFault, match=said) as failed:
        released(asked, tmp_path, tmp_path / "run", workers)
    assert "\n" not in str(failed.value)
    orders.unlink()
    pids = [process.pid.result() for process in workers.processes]
    workers.close()
    assert not any(map(alive, pids))
    assert released(asked, tmp_path, tmp_path / "run") == alone


def test_a_process_that_finds_no_data_says_so(tmp_path: Path) -> None:
    asked = scenario(tmp_path / "gone", {"workers": 1})
    with pytest.raises(DataError, match=r"gone.*: no such file or folder"):
        Processes.start(Recipe(asked, tmp_path, REFERENCE))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_no_process_is_left_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C goes to all processes of a terminal; a parent that is killed tells nobody."""
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    paths = os.pathsep.join([str(Path(__file__).parents[1] / "support"), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    pids = list(map(int, parent.stdout.readline().split()))
    assert len(pids) == 2
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)
        _, said = parent.communicate()
        assert parent.returncode == 1 and said == "interrupted\n"
        assert not any(map(alive, pids))
    else:
        os.kill(parent.pid, number)
        parent.communicate()  # returns once nobody holds its pipes: the others ended too
