"""With masks and without: the same survivors, the same sums, the same model, whoever falls out or refuses."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from simulated import Places, run, scenario

from fedsus.errors import ConfigError
from fedsus.journal.entries import AttemptAbandoned, RoundReleased
from fedsus.reporting import read
from fedsus.rounds.messages import Request
from fedsus.secagg.keys import Identity
from fedsus_simulations.clients import attempts
from fedsus_simulations.clients.blocks import Block, Encoded
from fedsus_simulations.clients.identities import simulated_members
from fedsus_simulations.clients.traces import VirtualClock
from fedsus_simulations.whole.memory import Members

NAMES = ("whole", "stopped")
STRICT = {"privacy": {"without_dp": True}, "limits": {"rounds": 1}, "tasks": {"heart": {"data": "patients"}}}
WARY = {"privacy": {"without_dp": True}, "secure_sum": {"colluders": 5}, "tasks": {"heart": {"data": "patients"}}}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Owners' refusals are what is tested here, and their log is long."""
    logger = logging.getLogger("fedsus.device")
    before, logger.level = logger.level, logging.CRITICAL
    yield
    logger.level = before


def both(folder: Path, cohort: int, clients: int, workers: Places | None = None, **changes: Any) -> list[Any]:
    """Run without masks and with; the ends of the attempts, the same of both."""
    models, ends, noted = {}, {}, {}
    for masks in ("none", "real"):
        models[masks] = run(folder / masks, scenario(cohort, masks, **changes), clients, workers).tobytes()
        ends[masks] = [end for end in read(folder / masks) if isinstance(end, RoundReleased | AttemptAbandoned)]
        noted[masks] = attempts.read(folder / masks)
    told = {masks: [_released(end) for end in ends[masks]] for masks in ends}
    assert told["none"] == told["real"]
    assert models["none"] == models["real"]
    answered = {masks: {(one.round, one.attempt): one.answered for one in noted[masks]} for masks in noted}
    assert answered["none"].items() >= answered["real"].items()
    released = {(end.round, end.attempt): end.survivors for end in ends["none"] if isinstance(end, RoundReleased)}
    assert {key: len(answered["real"][key]) for key in released} == released
    return ends["none"]


def _released(end: RoundReleased | AttemptAbandoned) -> tuple[Any, ...]:
    """What both kinds of run say of an attempt; the checkpoint is the hash of the model."""
    if isinstance(end, AttemptAbandoned):
        return end.round, end.attempt, "abandoned"
    return end.round, end.attempt, end.survivors, end.weight, end.checkpoint


@pytest.mark.parametrize(("cohort", "clients"), [(6, 6), (8, 25)], ids=["whole", "chosen"])
def test_the_same_clients_fall_out_with_masks_and_without(tmp_path: Path, cohort: int, clients: int) -> None:
    plan = {"spare_attempts": 8, "secure_sum": {"colluders": 1}}
    ends = both(tmp_path, cohort, clients, traces={"dropout": 0.15, "spread": 0.4}, plan=plan)
    assert {end.round for end in ends} == {1, 2, 3, 4, 5}
    assert len({end.survivors for end in ends if isinstance(end, RoundReleased)}) > 1


def test_too_few_survivors_abandon_alike(tmp_path: Path) -> None:
    plan = {"spare_attempts": 30, "secure_sum": {"colluders": 1, "dropouts": 1}}
    ends = both(tmp_path, 6, 20, traces={"dropout": 0.3}, plan=plan)
    abandoned = [end for end in ends if isinstance(end, AttemptAbandoned)]
    assert len(abandoned) >= 3
    assert [end.round for end in ends if isinstance(end, RoundReleased)] == [1, 2, 3, 4, 5]


def test_the_same_owners_refuse_with_masks_and_without(tmp_path: Path) -> None:
    """One kind refuses the plan once it comes, the other the session before anyone trains."""
    plan = {"spare_attempts": 30, "secure_sum": {"colluders": 1, "dropouts": 3}}
    for name, policy in (("strict", STRICT), ("wary", WARY)):
        owners = [{"share": 0.2, "policy": policy}]
        ends = both(tmp_path / name, 10, 20, owners=owners, plan=plan, traces={"dropout": 0.05})
        released = [end for end in ends if isinstance(end, RoundReleased)]
        assert any(end.refused for end in released)
        assert all(end.survivors + end.refused + end.lost == 10 for end in released)
        real = [end for end in read(tmp_path / name / "real") if isinstance(end, RoundReleased)]
        assert [(end.refused, end.lost) for end in real] == [(end.refused, end.lost) for end in released]


def test_clients_whose_training_fails_refuse_alike(tmp_path: Path) -> None:
    ends = both(tmp_path, 8, 8, Places(frozenset({2, 5})), plan={"secure_sum": {"colluders": 1, "dropouts": 2}})
    assert all(isinstance(end, RoundReleased) and (end.survivors, end.refused) == (6, 2) for end in ends)


class Slow(Places):
    """Each block takes longer to train here than a session lives."""

    def rings(self, request: Request, blocks: Sequence[Block]) -> Iterator[Encoded]:
        for encoded in super().rings(request, blocks):
            HERE.advance(5000.0)
            yield encoded


HERE = VirtualClock(1e9)


def test_training_may_take_longer_than_a_session_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline is in virtual time; a slow machine must not change who survives."""
    monkeypatch.setattr(time, "time", HERE)
    run(tmp_path / "slow", scenario(5, "real"), 5, Slow())
    monkeypatch.undo()
    ends = [entry for entry in read(tmp_path / "slow") if isinstance(entry, RoundReleased)]
    assert [(end.round, end.attempt, end.survivors) for end in ends] == [(n, n, 5) for n in range(1, 6)]
    assert ends[0].seconds > 5000


def test_who_is_away_is_asked_by_neither(tmp_path: Path) -> None:
    traces = {"dropout": 0.1, "availability": [0.5] * 24, "hour": 3.5}
    ends = both(tmp_path, 6, 30, traces=traces, plan={"spare_attempts": 10, "secure_sum": {"colluders": 1}})
    assert len(ends) >= 5
    (one, *_) = attempts.read(tmp_path / "none")
    assert 5 < one.unavailable < 25


@pytest.mark.parametrize("masks", ["none", "real"])
def test_a_run_that_is_stopped_and_resumed_is_as_one_that_was_not(tmp_path: Path, masks: str) -> None:
    asked = scenario(
        8, masks, traces={"dropout": 0.1, "spread": 0.3}, plan={"spare_attempts": 8, "secure_sum": {"colluders": 1}}
    )
    whole = run(tmp_path / "whole", asked, 25)

    def stop(released: RoundReleased, model: Any) -> None:
        del model
        if released.round in (2, 3):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", asked, 25, watch=stop)
    assert run(tmp_path / "stopped", asked, 25).tobytes() == whole.tobytes()
    facts = [[_released(end) for end in read(tmp_path / name) if isinstance(end, RoundReleased)] for name in NAMES]
    assert facts[0] == facts[1]
    first, second = (attempts.read(tmp_path / name) for name in NAMES)
    assert [(one.attempt, one.answered) for one in first] == [(one.attempt, one.answered) for one in second]


def test_identities_follow_from_the_seed_and_are_no_others() -> None:
    names = ["client-1", "client-0", "client-2"]
    first, again, other = (simulated_members(names, seed) for seed in (1, 1, 2))
    assert first.roster == again.roster
    assert [member.name for member in first.roster.members] == sorted(names)
    assert {name: key.public for name, key in first.identities.items()} == {
        name: key.public for name, key in again.identities.items()
    }
    keys = {member.key for found in (first, other) for member in found.roster.members}
    assert len(keys) == 6 and first.roster.seed != other.roster.seed
    fewer = simulated_members(names[:2], 1)
    assert fewer.roster.members == first.roster.members[:2]


def test_only_simulations_make_identities_of_a_seed() -> None:
    """What a device and an unseeded simulation make is the operating system's."""
    assert Members.of(["a"]).roster.members != Members.of(["a"]).roster.members
    assert Identity.generate().public != Identity.generate().public
    root = Path(attempts.__file__).parents[3]
    parts = [root / part for part in ("fedsus", "client", "server", "simulations")]
    files = [file for part in parts for file in part.rglob("*.py")]
    users = {file.name for file in files if "simulated_members" in file.read_text(encoding="utf-8")}
    assert users == {"identities.py", "fleet.py"}


def test_more_clients_than_a_roster_lists_are_one_line() -> None:
    with pytest.raises(ConfigError, match='masks = "real": 50001 clients, and a roster lists at most 50000'):
        simulated_members([str(number) for number in range(50_001)], 1)
