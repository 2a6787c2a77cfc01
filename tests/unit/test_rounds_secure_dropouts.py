"""The round loop with the default exchange: devices that fall out or are slow, and attempts that are abandoned."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pacts import NAMES
from secure_runs import FIRST, LAST, ROUND, SEED, START, Fleet, Run, config, sources

from fedsus.config import ServerConfig
from fedsus.errors import RunFailed
from fedsus.journal import AttemptAbandoned, RoundReleased, RunClosed
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.server import RunLoop
from fedsus.secagg.wire import Kind
from fedsus.types import Answered, Ask, Lost, Reply, Vector
from fedsus_simulations.whole.memory import devices


@pytest.mark.parametrize(
    ("phase", "survivors"),
    [(Kind.ADVERTISE, 3), (Kind.SHARE, 3), (Kind.CONTRIBUTE, 3), (Kind.CONFIRM, 4), (Kind.UNMASK, 4)],
)
def test_a_device_that_falls_out_costs_its_own_update_only(tmp_path: Path, phase: Kind, survivors: int) -> None:
    """From the first session's phase on, for the rest of it: whose vector had come by then is in the sum."""
    run = Run(tmp_path / "lost", config(rounds=1, exchange="secure_sum"))
    run.fleet.gone = lambda name, kinds, _: name == "ben" and kinds[0] >= phase
    model = run.run()
    assert run.attempts == [(1, 1)]
    (released,) = run.of(RoundReleased)
    assert (released.survivors, released.lost) == (survivors, 4 - survivors)
    inside = [name for name in NAMES[:4] if survivors == 4 or name != "ben"]
    assert model.tobytes() == clear_model(tmp_path / "clear", inside).tobytes()


def clear_model(folder: Path, names: Sequence[str]) -> Vector:
    """The model after one round of the same devices in the clear, some of them lost."""
    asked = config(rounds=1, exchange="clear_sum")
    there = devices(asked, sources(NAMES[:4]), "heart", SEED, lambda: 1.7e9)
    open_run(folder, "run-1", asked, START, lambda: 1.7e9)

    class Clear(Fleet):
        def ask(self, ask: Ask) -> Iterator[Reply]:
            for client in ask.requests:
                name = client.removeprefix("id-")
                body = there[name].answer(ask.request(client), lambda: False).body if name in names else None
                yield Lost(client) if body is None else Answered(client, body)

    ticks = itertools.count(1_700_000_000.0)
    return RunLoop(folder, Clear(there), clock=lambda: float(next(ticks)), sleep=lambda _: None).run()


PHASES = (Kind.ADVERTISE, Kind.SHARE, Kind.CONTRIBUTE, Kind.CONFIRM, Kind.UNMASK)


@pytest.mark.parametrize("phase", PHASES)
def test_below_the_floor_the_attempt_is_abandoned_and_the_next_has_fresh_keys(tmp_path: Path, phase: Kind) -> None:
    run = Run(tmp_path, config(rounds=1))
    over = []

    def gone(name: str, kinds: list[Kind], number: int) -> bool:
        if len(over) < 2 and kinds[0] == phase and name in ("ada", "ben"):
            over.append(name)
            return True
        return False

    run.fleet.gone = gone
    model = run.run()
    (abandoned,) = run.of(AttemptAbandoned)
    assert (abandoned.round, abandoned.attempt) == (1, 1)
    assert "\n" not in abandoned.reason
    assert run.attempts == [(1, 1), (1, 2)]
    (released,) = run.of(RoundReleased)
    assert (released.attempt, released.survivors) == (2, 4)
    one, two = run.fleet.opened
    assert one.nonce != two.nonce
    assert two.previous is None
    keys = [part for advert in run.fleet.adverts for part in (advert[4:36], advert[36:68])]
    assert len(keys) == len(set(keys)) == 2 * (2 + 4 if phase == Kind.ADVERTISE else 8)
    assert not np.array_equal(model, START)


def test_the_reason_of_an_abandoned_attempt_says_what_was_missing(tmp_path: Path) -> None:
    run = Run(tmp_path, config(rounds=1, spares=0))
    run.fleet.gone = lambda name, kinds, _: name in ("ada", "ben") and kinds[0] == Kind.CONTRIBUTE
    with pytest.raises(RunFailed, match="all 1 attempts of the run are spent"):
        run.run()
    (abandoned,) = run.of(AttemptAbandoned)
    assert abandoned.reason == "survivors: 2 of 4 clients; secure aggregation needs 3 (1 may fall out)"
    assert run.of(RoundReleased) == []
    assert run.of(RunClosed)[0].model is None


def test_a_session_that_too_few_joined_on_the_way_is_opened_again_on_its_own(tmp_path: Path) -> None:
    """A device is lost while the next session is prepared: the next round begins anew if it must."""
    run = Run(tmp_path, config(rounds=2))

    def gone(name: str, kinds: list[Kind], number: int) -> bool:
        return number == 5 and name == "ben"  # UNMASK + SHARE of the first round

    run.fleet.gone = gone
    run.run()
    assert [entry.survivors for entry in run.of(RoundReleased)] == [4, 3]
    assert run.fleet.asked == [*FIRST, *ROUND, *LAST], "three of four are enough for a session"
    again = Run(tmp_path / "again", config(rounds=2, secure_sum={"dropouts": 0}))
    again.fleet.gone = gone
    again.run()
    assert [entry.survivors for entry in again.of(RoundReleased)] == [4, 4]
    assert again.fleet.asked == [*FIRST, *ROUND, *FIRST, *LAST]
    assert [(s.round, s.attempt) for s in again.fleet.opened] == [(1, 1), (2, 2), (2, 2)]


def test_later_attempts_need_the_floor_alone(tmp_path: Path) -> None:
    """A device that leaves between two rounds costs its update, and no wait."""
    run = Run(tmp_path, config(rounds=2))

    def leave(name: str, kinds: list[Kind], number: int) -> bool:
        if number >= 5:
            run.fleet.aside = ("dov",)
        return name in run.fleet.aside

    run.fleet.gone = leave
    run.run()
    assert [entry.survivors for entry in run.of(RoundReleased)] == [4, 3]


def test_a_slow_client_is_waited_for_again_now_and_then(tmp_path: Path) -> None:
    """A client too slow for phases that do not wait for it is back after three rounds, not left out for good."""
    run = Run(tmp_path, config(rounds=8))
    run.fleet.gone = lambda name, kinds, number: name == "ben" and len(kinds) > 1
    run.run()
    assert [entry.survivors for entry in run.of(RoundReleased)] == [4, 3, 3, 4, 3, 3, 4, 3]
    assert len(run.fleet.opened) == 8 + 2, "two sessions that were prepared are not used"


def test_a_refusal_in_any_phase_is_counted_as_one(tmp_path: Path) -> None:
    run = Run(tmp_path, config(rounds=1))
    run.fleet.devices["ben"]._sessions = None
    run.run()
    (released,) = run.of(RoundReleased)
    assert (released.survivors, released.refused, released.lost) == (3, 1, 0)


def test_the_log_says_whom_the_run_waits_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path, config(rounds=1).model_copy(update={"server": ServerConfig(wait_for_devices=5.0)}))
    run.fleet.names = {"ben": "bern"}
    with caplog.at_level("INFO", "fedsus.server"), pytest.raises(RunFailed):
        run.run()
    lines = [line for line in caplog.messages if line.startswith("waiting")]
    assert lines == ["waiting: 3 of 4 members; missing: ben; connected under no name of the roster: bern"]
