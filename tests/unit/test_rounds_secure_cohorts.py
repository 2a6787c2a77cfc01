"""The round loop with the default exchange: whom a run asks, and which runs are not opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pacts import NAMES, members
from secure_runs import FIRST, LAST, ROUND, START, Run, config, secure

from fedsus import plan as plans
from fedsus.errors import ConfigError, CorruptionError, RunFailed
from fedsus.journal import AttemptAbandoned, Entry, Journal, RoundReleased
from fedsus.reporting import read
from fedsus.rounds.planning.specification import Specification, open_run, specification_of
from fedsus.rounds.planning.withstood import numbers
from fedsus.rounds.server_half.server import RunLoop


def test_a_cohort_drawn_from_a_larger_roster_works(tmp_path: Path) -> None:
    run = Run(tmp_path, config(size=4, rounds=4, spares=6), clients=6)
    model = run.run()
    assert not np.array_equal(model, START)
    assert {session.choice for session in run.fleet.opened} == {"drawn"}
    assert {len(session.cohort) for session in run.fleet.opened} == {4}
    assert {session.colluders for session in run.fleet.opened} == {2}
    assert [entry.survivors for entry in run.of(RoundReleased)] == [4] * 4
    assert run.of(AttemptAbandoned) == []
    assert run.fleet.asked == [*FIRST, *ROUND, *ROUND, *ROUND, *LAST]


def test_a_cohort_is_drawn_again_where_it_would_hold_somebody_who_is_not_connected(tmp_path: Path) -> None:
    """One of six is away; a third of the draws are without it, and no attempt may hold it: none may drop out."""
    run = Run(tmp_path, config(size=4, rounds=4, spares=0), clients=6)
    run.fleet.aside = (NAMES[5],)
    run.run()
    assert {(session.choice, session.dropouts) for session in run.fleet.opened} == {("drawn", 0)}
    assert [entry.survivors for entry in run.of(RoundReleased)] == [4] * 4


def test_devices_whose_names_the_roster_lacks_are_not_asked(tmp_path: Path) -> None:
    run = Run(tmp_path, config(rounds=1))
    run.fleet.names = {"ben": "benjamin"}
    with pytest.raises(RunFailed, match="3 of 4 connected devices bear a name of the roster, 4 are needed"):
        run.run()
    assert run.fleet.asked == []


def test_devices_that_bear_each_others_names_are_left_out_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path, config(rounds=1, spares=0))
    run.fleet.names = {"ada": "ben", "ben": "ada"}
    with pytest.raises(RunFailed, match="all 1 attempts of the run are spent"):
        run.run()
    assert "joined: 2 of 4 clients" in run.of(AttemptAbandoned)[0].reason
    told = [line for line in caplog.messages if "a device's name here must be its name in the roster" in line]
    assert [line.partition(": it is")[0][-8:] for line in told] == ["client 0", "client 1"]


def test_a_stranger_who_is_connected_is_left_out(tmp_path: Path) -> None:
    run = Run(tmp_path, config(rounds=1))
    run.fleet.devices["zoe"] = run.fleet.devices["ada"]
    run.fleet.gone = lambda name, *_: pytest.fail("asked") if name == "zoe" else False
    run.run()
    assert [entry.survivors for entry in run.of(RoundReleased)] == [4]


def test_of_two_devices_of_one_name_one_is_asked(tmp_path: Path) -> None:
    run = Run(tmp_path, config(rounds=1))
    run.fleet.devices["zoe"] = run.fleet.devices["ada"]
    run.fleet.names = {"zoe": "ada"}
    assert [member.id for member in secure(run).known(run.fleet.members())] == [f"id-{name}" for name in NAMES[:4]]


@pytest.mark.parametrize(
    ("changes", "clients", "message"),
    [
        ({}, 3, r"plan\.cohort\.size = 4: roster 1 of 'simulated' has 3 members"),
        ({"secure_sum": {"colluders": 3}}, 4, "colluders: 3 of 4 clients; allowed are 1 to 2"),
        ({"secure_sum": {"dropouts": 2}}, 4, "dropouts: 2 planned, but 4 clients with 1 colluders tolerate 0 to 1"),
    ],
)
def test_a_run_that_cannot_work_is_not_opened(
    tmp_path: Path, changes: dict[str, Any], clients: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_run(tmp_path / "r", "r", config(**changes), START, lambda: 0.0, members(clients).roster)
    assert not (tmp_path / "r").exists()


def test_a_run_without_a_roster_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs the federation's signed roster: \[server\] roster; make one"):
        open_run(tmp_path / "r", "r", config(), START, lambda: 0.0)
    assert not (tmp_path / "r").exists()


def test_a_journal_whose_roster_is_gone_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "one", config())
    opened: Entry = read(run.folder)[0]
    opened.config.pop("roster")  # type: ignore[union-attr]
    with Journal.create(tmp_path / "two", lambda: 0.0) as journal:
        journal.append(opened)
    with pytest.raises(CorruptionError, match="a run with secure_sum, and no roster"):
        RunLoop(tmp_path / "two", run.fleet, clock=lambda: 0.0, sleep=lambda _: None)


@pytest.mark.parametrize(
    ("size", "clients", "expected"),
    [
        (3, 3, ("whole", 1, 0)),
        (4, 4, ("whole", 1, 1)),
        (5, 5, ("whole", 2, 1)),
        (6, 6, ("whole", 2, 1)),
        (4, 6, ("drawn", 2, 0)),
    ],
)
def test_a_runs_numbers_follow_from_its_cohort(size: int, clients: int, expected: tuple[str, int, int]) -> None:
    found = numbers(config(size=size).plan, members(clients).roster)
    assert (found.choice, found.colluders, found.dropouts) == expected


def test_the_journal_keeps_roster_and_server(tmp_path: Path) -> None:
    pact = members(4)
    opened = open_run(tmp_path, "run-1", config(), START, lambda: 0.0, pact.roster, "a" * 64)
    found = specification_of(read(tmp_path)[0])  # type: ignore[arg-type]
    assert (found, found.roster, found.server) == (opened, pact.roster, "a" * 64)


def test_a_specification_is_the_same_for_all_attempts_and_changes_with_the_plan() -> None:
    pact = members(4)
    one = Specification("r", config(), specification_privacy(), pact.roster)
    raised = one.plan(2, 5, START + 1, "c" * 64)
    assert plans.specification(raised) == one.hash(len(START))
    other = Specification("r", config(training={"local_epochs": 2}), specification_privacy(), pact.roster)
    assert other.hash(len(START)) != one.hash(len(START))


def specification_privacy() -> plans.Privacy:
    return plans.NoPrivacy()


def test_a_device_that_is_not_drawn_tells_its_owner_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level("WARNING", "fedsus.device"):
        drawn = Run(tmp_path, config(rounds=3), clients=6)
        drawn.run()
    assert [message for message in caplog.messages if "cohort" in message] == []
