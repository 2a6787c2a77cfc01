"""Runs of a real federation: the same model as in memory, whatever is killed, and nothing asked but what is allowed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from seeded_agent import SEED
from sites import DATA, HOSPITALS, PATIENCE, Sites, released, until

from fedsus.config import RunConfig, load
from fedsus.journal import AttemptAbandoned, AttemptOpened
from fedsus.reporting import read, released_model, summary
from fedsus.tasks.task import DataSource
from fedsus_server import looping
from fedsus_server.flower.holding import FLEET_SECONDS
from fedsus_server.gateway import PATHS
from fedsus_simulations.whole.memory import simulate

if TYPE_CHECKING:
    from fedsus.journal.entries import Entry
    from fedsus.types import Vector

pytestmark = pytest.mark.timeout(400)

PLAN = """
rounds = 5
deadline = 30.0
metrics = [{ name = "loss", low = 0.0, high = 10.0 }, { name = "accuracy", low = 0.0, high = 1.0 }]
secure_sum = { light_deadline = 30.0, grace = 30.0 }  # the fast ones leave out no slow one
[plan.cohort]
size = 3
minimum = 3
[plan.training]
local_epochs = 2
[plan.training.optimizer]
name = "sgd"
learning_rate = 0.1
momentum = 0.5
"""


def simulated(sites: Sites, name: str, folder: Path) -> Vector:
    """The model of the same run in memory."""
    config = load(sites.folder / f"{name}.toml", RunConfig)
    sources = {hospital: DataSource(DATA / f"{hospital}.csv") for hospital in HOSPITALS}
    return simulate(config, folder, "simulated", sites.model(name), sources, seed=SEED)


def test_deployed_and_simulated_give_the_same_model_bit_for_bit(sites: Sites, tmp_path: Path) -> None:
    folder = sites.open("heart", PLAN, name="undisturbed")
    expected = simulated(sites, "undisturbed", tmp_path / "memory")
    sites.wait_for_run(folder, PATIENCE)
    found = released_model(folder)
    assert not np.array_equal(found, sites.model("undisturbed"))
    assert found.tobytes() == expected.tobytes()
    assert [entry.survivors for entry in released(folder)] == [3] * 6
    deployed, memory = released(folder), released(tmp_path / "memory")
    assert [entry.metrics for entry in deployed] == [entry.metrics for entry in memory]
    assert [(entry.held_out, entry.weight) for entry in deployed] == [(e.held_out, e.weight) for e in memory]


def test_a_killed_round_loop_spends_its_attempt_and_changes_nothing_else(sites: Sites, tmp_path: Path) -> None:
    name, folder, killed, seen = stopped_within_a_round(sites)
    os.kill(killed, signal.SIGKILL)
    sites.wait_for_run(folder, PATIENCE)
    assert loop_of(folder) != killed
    entries, spent = read(folder), seen[-1]
    assert isinstance(spent, AttemptOpened)
    assert summary(folder).status == "completed"
    assert entries[: len(seen)] == seen
    attempts = [(entry.round, entry.attempt) for entry in entries if isinstance(entry, AttemptOpened)]
    abandoned = [entry for entry in entries if isinstance(entry, AttemptAbandoned)]
    # Five rounds and the evaluation, the killed one twice; on a slow machine what the journal says was abandoned.
    assert [attempt for _, attempt in attempts] == list(range(1, 1 + 6 + 1 + len(abandoned)))
    assert (spent.round, spent.attempt + 1) in attempts
    assert spent.attempt not in {entry.attempt for entry in released(folder)}
    assert released_model(folder).tobytes() == simulated(sites, name, tmp_path / "memory").tobytes()


def stopped_within_a_round(sites: Sites) -> tuple[str, Path, int, list[Entry]]:
    """Hold a run's loop with SIGSTOP between an attempt's two entries: the run, its folder, process and journal.

    A run that was over before this process looked, which the system may have left aside, is followed by another.
    """
    for attempt in range(5):
        name = f"disturbed-{attempt}"
        folder = sites.open("heart", PLAN, name=name)
        until(lambda folder=folder: released(folder), "a round")  # type: ignore[misc]
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            pid = loop_of(folder)
            while summary(folder).closed is None:
                os.kill(pid, signal.SIGSTOP)
                until(lambda pid=pid: held(pid), "the loop to stand still")  # type: ignore[misc]
                entries = read(folder)
                if isinstance(entries[-1], AttemptOpened):
                    return name, folder, pid, entries
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.02)
    raise AssertionError("the loop was never found within a round")


def held(pid: int) -> bool:
    """Whether a process stands still; a signal reaches one that runs on another processor a moment later."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return stat.rpartition(")")[2].split()[0] in ("T", "Z", "X")


def loop_of(folder: Path) -> int:
    loop = looping.of(folder)
    assert loop is not None
    return loop.pid


def test_an_agent_asks_for_the_gateways_paths_alone_and_never_for_a_bundle(sites: Sites) -> None:
    before = Counter(sites.recorder.asked)
    folder = sites.open("heart", PLAN, name="recorded")
    sites.wait_for_run(folder, PATIENCE)
    answered = 2 + 3 * (5 + 1)  # rounds, and the evaluation: three exchanges each, and two before the first
    confirm = "POST /v1/fleet/confirm-message-received"
    until(lambda: (sites.recorder.asked - before)[confirm] >= answered, "the last confirmation")
    asked = sites.recorder.asked - before
    paths = {request.removeprefix("POST ") for request in sites.recorder.asked}
    assert paths <= PATHS
    assert not any("get-" in path for path in paths)
    for name in ("pull-object", "push-messages", "push-object", "confirm-message-received"):
        assert asked[f"POST /v1/fleet/{name}"] == answered, asked
    # The first message came by a question that was held from before, and the next question may not be there yet.
    assert answered - 1 <= asked["POST /v1/fleet/pull-messages"] <= 3 * answered + 2


def test_sigterm_while_idle_ends_an_agent_before_its_question_is_answered(sites: Sites) -> None:
    code, seconds = sites.terminate("va")
    assert (code, seconds < FLEET_SECONDS) == (0, True), seconds
    assert sites.state("va") == "stopped"
    assert sites.log("va").rstrip().endswith("INFO stopped")
