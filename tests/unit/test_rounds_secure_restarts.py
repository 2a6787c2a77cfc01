"""The round loop with the default exchange: a server that is killed, or waits for long, goes on with new sessions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hours import HOUR, Hours, Time, scheduled
from secure_runs import FIRST, LAST, ROUND, START, Run, config, secure

from fedsus.journal import Disk, RoundReleased
from fedsus.rounds.server_half.server import RunLoop
from fedsus.secagg.wire import Kind


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The model of a run of two rounds that nothing disturbs."""
    return Run(tmp_path_factory.mktemp("whole"), config(rounds=2)).run().tobytes()


@pytest.mark.parametrize("number", range(1, 9))
def test_a_server_that_is_killed_in_any_exchange_goes_on_with_new_sessions(
    tmp_path: Path, number: int, undisturbed: bytes
) -> None:
    """The attempts go on counting, each at most once; the model is that of an undisturbed run."""
    run = Run(tmp_path / "killed", config(rounds=2))

    def kill(name: str, kinds: list[Kind], asked: int) -> bool:
        if asked == number and name == "cid":
            raise Killed
        return False

    run.fleet.gone = kill
    with pytest.raises(Killed):
        run.run()
    before = run.attempts
    model = run.run()
    assert run.attempts == [(1, n) for n in (1, 2)] + [(2, 3)] if number <= 5 else [(1, 1), (2, 2), (2, 3)]
    assert run.attempts[: len(before)] == before
    assert model.tobytes() == undisturbed
    first_after = run.fleet.asked.index([Kind.ADVERTISE], 1)
    assert run.fleet.asked[first_after : first_after + 2] == FIRST, "no session outlives its server"
    assert len({session.nonce for session in run.fleet.opened}) == len(run.fleet.opened)


def test_a_server_that_stops_at_any_write_goes_on_to_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: bytes
) -> None:
    real, killed = Disk.sync, 0
    for point in range(1, 9):
        run, seen = Run(tmp_path / str(point), config(rounds=2, spares=6)), itertools.count(1)

        def die(disk: Disk, file: int, point: int = point, seen: Iterator[int] = seen) -> None:
            if next(seen) == point:
                raise Killed
            real(disk, file)

        monkeypatch.setattr(Disk, "sync", die)
        try:
            run.run()
        except Killed:
            monkeypatch.setattr(Disk, "sync", real)
            killed += 1
            assert run.run().tobytes() == undisturbed, f"killed at write {point}"
            attempts = [attempt for _, attempt in run.attempts]
            assert attempts == list(range(1, len(attempts) + 1))
        monkeypatch.setattr(Disk, "sync", real)
    assert killed >= 5


def test_a_session_that_a_device_could_find_expired_is_not_used(tmp_path: Path) -> None:
    """Waiting for devices between two rounds uses a session's life up; a device's clock may be 5 minutes ahead."""
    run = Run(tmp_path, config(rounds=1))
    rounds, now = secure(run), 1.7e9
    rounds._clock = lambda: now
    cohort = run.fleet.members()
    rounds.session(1, 1, cohort, len(START))
    opening = rounds._opening
    assert opening is not None
    party = opening.party
    ready: Any = SimpleNamespace(party=party, shared=dict.fromkeys(party.clients))
    assert rounds._fits(ready, 1, 1, cohort)
    now = party.session.expires - rounds._seconds - 301
    assert rounds._fits(ready, 1, 1, cohort)
    now = party.session.expires - rounds._seconds - 300
    assert not rounds._fits(ready, 1, 1, cohort)


@pytest.mark.parametrize("pause", [0, 6])
def test_after_a_long_wait_a_secure_sum_opens_a_new_session_by_itself(tmp_path: Path, pause: int) -> None:
    """What rides on one round is for the next; after hours it has expired, and a session on its own takes its place."""
    run = Run(tmp_path, scheduled(config(rounds=2), slack_hours=9.0, duration=1.0))
    clock = Time()

    def revised(now: float) -> Sequence[float]:
        # No hour is cleaner than the first; once a round is released, another one is forecast.
        later = [9.0] * 30
        if run.of(RoundReleased):
            later[pause] = 1.0
        else:
            later[0] = 1.0
        return later

    RunLoop(tmp_path, run.fleet, clock=clock, sleep=clock.sleep, intensity=Hours(revised=revised)).run()
    assert run.fleet.asked == [*FIRST, *ROUND, *(FIRST if pause else []), *LAST]
    first, second = run.of(RoundReleased)
    assert (first.waited, second.waited) == (0.0, pause * HOUR)
    assert (first.survivors, second.survivors) == (4, 4)
    fresh = run.fleet.opened[-1]
    assert (fresh.previous is None) == bool(pause)
    assert fresh.expires > clock.now
