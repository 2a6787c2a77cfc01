"""The round loop with the clear exchange: sums, abandoned attempts, and a server that is killed anywhere."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from clear_runs import DIMENSION, METRICS, FakeFleet, config
from hours import HOUR, Hours, Time, scheduled

from fedsus.config import RunConfig
from fedsus.encoding.mechanism import FixedPoint
from fedsus.errors import ConfigError, CorruptionError, RunFailed
from fedsus.journal import AttemptAbandoned, AttemptOpened, Disk, RoundReleased, RunClosed, RunOpened
from fedsus.journal import journal as journal_module
from fedsus.journal.software import installed
from fedsus.reporting import read, released_model
from fedsus.rounds.messages import model_hash
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.server import RunLoop


def clock() -> Iterator[float]:
    return itertools.count(1_700_000_000.0)


def loop(folder: Path, fleet: FakeFleet) -> RunLoop:
    ticks = clock()
    return RunLoop(folder, fleet, clock=lambda: next(ticks), sleep=lambda _: None)


def start(folder: Path, **options: object) -> None:
    open_run(folder, "run-1", config(**options), np.zeros(DIMENSION, np.float32), lambda: 1.7e9)  # type: ignore[arg-type]


def test_a_run_is_released_round_by_round(tmp_path: Path) -> None:
    start(tmp_path, strategy="fedavg", rounds=1)
    model = loop(tmp_path, FakeFleet()).run()
    # weights 1, 2, 3 and targets 0, 1, 2; strategy learning rate 0.1
    assert model == pytest.approx(np.full(DIMENSION, 0.1 * (0 * 1 + 1 * 2 + 2 * 3) / 6), abs=1e-6)
    released = [entry for entry in read(tmp_path) if isinstance(entry, RoundReleased)]
    assert [entry.round for entry in released] == [1, 2]  # the round, and the evaluation of its model
    assert released[0].survivors == 3
    assert released[0].weight == 6.0
    assert released[0].metrics == {"loss": pytest.approx((0 + 2 + 4) / 6, abs=1e-3)}
    assert released[1].checkpoint == released[0].checkpoint
    assert isinstance(read(tmp_path)[-1], RunClosed)


def test_bytes_are_counted_by_phase_of_abandoned_attempts_too(tmp_path: Path) -> None:
    start(tmp_path, rounds=1)
    loop(tmp_path, FakeFleet({1: {"0": "lost", "1": "lost", "2": "garbage"}})).run()
    entries = read(tmp_path)
    (abandoned,) = [entry for entry in entries if isinstance(entry, AttemptAbandoned)]
    released = [entry for entry in entries if isinstance(entry, RoundReleased)]
    assert abandoned.traffic is not None and set(abandoned.traffic) == {"contribute"}
    sent, received = abandoned.traffic["contribute"]
    assert sent > 3 * 4 * DIMENSION and received == len(b"garbage")
    for entry in released:
        assert entry.traffic == {"contribute": (entry.bytes_sent, entry.bytes_received)}


def test_the_last_entry_names_the_model_and_what_ended_the_run(tmp_path: Path) -> None:
    start(tmp_path / "whole", rounds=1)
    model = loop(tmp_path / "whole", FakeFleet()).run()
    closed = read(tmp_path / "whole")[-1]
    assert isinstance(closed, RunClosed)
    assert (closed.reason, closed.model_hash, closed.because) == ("completed", model_hash(model), None)
    start(tmp_path / "lost", rounds=2, spare=0)
    with pytest.raises(RunFailed) as failed:
        loop(tmp_path / "lost", FakeFleet({2: dict.fromkeys("012", "lost")})).run()
    closed = read(tmp_path / "lost")[-1]
    assert isinstance(closed, RunClosed)
    newest = released_model(tmp_path / "lost")
    assert (closed.reason, closed.model_hash, closed.because) == ("failed", model_hash(newest), str(failed.value))
    start(tmp_path / "nothing", rounds=1, spare=0)
    with pytest.raises(RunFailed):
        loop(tmp_path / "nothing", FakeFleet({1: dict.fromkeys("012", "lost")})).run()
    closed = read(tmp_path / "nothing")[-1]
    assert isinstance(closed, RunClosed)
    assert closed.model is None and closed.model_hash is None


def test_the_first_entry_names_the_software(tmp_path: Path) -> None:
    start(tmp_path / "one")
    (opened,) = read(tmp_path / "one")
    assert isinstance(opened, RunOpened)
    assert opened.software == installed()
    given = {"fedsus": "9", "code": "c"}
    open_run(tmp_path / "two", "r", config(), np.zeros(DIMENSION, np.float32), lambda: 1.7e9, software=given)
    (opened,) = read(tmp_path / "two")
    assert isinstance(opened, RunOpened)
    assert opened.software == given


def test_the_order_of_arrival_does_not_change_a_bit(tmp_path: Path) -> None:
    models = []
    for seed in range(4):
        start(tmp_path / str(seed))
        models.append(loop(tmp_path / str(seed), FakeFleet(seed=seed)).run().tobytes())
    assert len(set(models)) == 1


@pytest.mark.parametrize("failure", ["lost", "refused", "refusal", "garbage", "forged update", "forged count"])
def test_a_client_that_fails_costs_its_own_update_only(tmp_path: Path, failure: str) -> None:
    start(tmp_path, rounds=1, strategy="fedavg")
    model = loop(tmp_path, FakeFleet({1: {"2": failure}})).run()
    assert model == pytest.approx(np.full(DIMENSION, 0.1 * 2 / 3), abs=1e-6)
    released = next(entry for entry in read(tmp_path) if isinstance(entry, RoundReleased))
    assert released.survivors == 2
    assert released.refused + released.lost == 1
    assert released.refused == (failure in ("refused", "refusal"))


def test_a_client_counts_once(tmp_path: Path) -> None:
    start(tmp_path, rounds=1)
    loop(tmp_path, FakeFleet({1: {"1": "twice"}})).run()
    released = next(entry for entry in read(tmp_path) if isinstance(entry, RoundReleased))
    assert released.survivors == 3
    assert released.weight == 6.0


def test_too_few_survivors_release_nothing_and_cost_an_attempt(tmp_path: Path) -> None:
    start(tmp_path, rounds=2, spare=1)
    fleet = FakeFleet({1: {"0": "lost", "1": "refused"}})
    loop(tmp_path, fleet).run()
    entries = read(tmp_path)
    abandoned = [entry for entry in entries if isinstance(entry, AttemptAbandoned)]
    assert [(entry.round, entry.attempt) for entry in abandoned] == [(1, 1)]
    assert "minimum is 2" in abandoned[0].reason
    assert [(plan.round, plan.attempt) for plan in fleet.asked] == [(1, 1), (1, 2), (2, 3), (3, 4)]
    assert fleet.asked[-1].purpose == "evaluate"


def test_a_sum_that_makes_no_sense_is_an_abandoned_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server sees no single answer, a hostile one shows in the sum alone: it must not end the run."""
    monkeypatch.setattr(FixedPoint, "check", lambda *_: None)
    start(tmp_path, rounds=1, spare=1)
    loop(tmp_path, FakeFleet({1: {"1": "forged count"}})).run()
    entries = read(tmp_path)
    assert [e.reason for e in entries if isinstance(e, AttemptAbandoned)] == [
        "sum: held_out is beyond what its survivors can reach"
    ]
    assert isinstance(entries[-1], RunClosed)
    assert entries[-1].reason == "completed"


def test_a_run_whose_devices_leave_before_the_last_evaluation_is_complete(tmp_path: Path) -> None:
    start(tmp_path, rounds=1)
    fleet = FakeFleet()
    running = loop(tmp_path, fleet)
    fleet.members = lambda: [] if fleet.asked else FakeFleet().members()  # type: ignore[method-assign]
    running.run()
    closed = read(tmp_path)[-1]
    assert isinstance(closed, RunClosed)
    assert closed.reason == "completed"
    assert closed.model is not None


def test_a_run_whose_attempts_are_spent_ends(tmp_path: Path) -> None:
    start(tmp_path, rounds=2, spare=1)
    everyone = {"0": "lost", "1": "lost", "2": "lost"}
    with pytest.raises(RunFailed, match="all 3 attempts of the run are spent"):
        loop(tmp_path, FakeFleet({2: everyone, 3: everyone})).run()
    entries = read(tmp_path)
    assert isinstance(entries[-1], RunClosed)
    assert entries[-1].reason == "failed"
    assert sum(isinstance(entry, AttemptOpened) for entry in entries) == 3


def test_a_fleet_that_refuses_is_asked_ever_more_slowly(tmp_path: Path) -> None:
    start(tmp_path, rounds=2, spare=3)
    everyone, pauses, ticks = dict.fromkeys("012", "refused"), [], clock()
    fleet = FakeFleet({1: everyone, 2: everyone, 4: everyone})
    RunLoop(tmp_path, fleet, clock=lambda: next(ticks), sleep=pauses.append).run()
    assert pauses == [1.0, 2.0, 1.0], "doubling in a row, and anew after a round was released"


def test_too_few_devices_end_a_run_that_waits_no_longer(tmp_path: Path) -> None:
    start(tmp_path)
    with pytest.raises(RunFailed, match="2 devices are connected, 3 are needed"):
        loop(tmp_path, FakeFleet(size=2)).run()


def test_an_encoding_that_cannot_carry_the_cohort_is_refused_before_anyone_is_asked(tmp_path: Path) -> None:
    text = config().model_dump()
    text["plan"]["cohort"] = {"size": 1_000_000, "minimum": 2}
    text["plan"]["encoding"] = {"bits": 16}
    text["plan"]["metrics"] = METRICS
    with pytest.raises(ConfigError, match="bits = 16"):
        open_run(tmp_path, "r", RunConfig.model_validate(text), np.zeros(3, np.float32), lambda: 0.0)


def test_a_checkpoint_that_was_changed_is_refused(tmp_path: Path) -> None:
    start(tmp_path)
    blob = next((tmp_path / "blobs").iterdir())
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CorruptionError):
        loop(tmp_path, FakeFleet()).run()


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


def test_a_server_that_stops_at_any_write_goes_on_to_the_same_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(tmp_path / "whole", rounds=3, spare=10)
    expected = loop(tmp_path / "whole", FakeFleet()).run()
    points = 0
    real = Disk.sync

    def count(disk: Disk, file: int) -> None:
        nonlocal points
        points += 1
        real(disk, file)

    monkeypatch.setattr(Disk, "sync", count)
    start(tmp_path / "count", rounds=3, spare=10)
    loop(tmp_path / "count", FakeFleet()).run()
    assert points >= 9
    for point in range(3, points + 1):
        folder, seen = tmp_path / f"killed-{point}", 0

        def die(disk: Disk, file: int, point: int = point) -> None:
            nonlocal seen
            seen += 1
            if seen == point:
                raise Killed
            real(disk, file)

        monkeypatch.setattr(Disk, "sync", die)
        with pytest.raises(Killed):
            start(folder, rounds=3, spare=10)
            loop(folder, FakeFleet()).run()
        monkeypatch.setattr(Disk, "sync", real)
        if not (folder / journal_module.NAME).read_bytes():
            continue
        model = loop(folder, FakeFleet()).run()
        assert np.array_equal(model, expected), f"killed at write {point}"
        attempts = [entry.attempt for entry in read(folder) if isinstance(entry, AttemptOpened)]
        assert attempts == list(range(1, len(attempts) + 1)), "an attempt that was opened is spent"


SCRIPT = """
import sys, importlib.util
from pathlib import Path
spec = importlib.util.spec_from_file_location("loopy", sys.argv[1]); m = importlib.util.module_from_spec(spec)
sys.modules["loopy"] = m
spec.loader.exec_module(m)
import os, signal
folder, stop_at = Path(sys.argv[2]), int(sys.argv[3])
class Fleet(m.FakeFleet):
    def ask(self, ask):
        for n, reply in enumerate(super().ask(ask)):
            if self.asked[-1].round == stop_at and n == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            yield reply
m.loop(folder, Fleet()).run()
"""


def test_sigkill_in_the_middle_of_an_exchange(tmp_path: Path) -> None:
    start(tmp_path / "whole", rounds=3)
    expected = loop(tmp_path / "whole", FakeFleet()).run()
    start(tmp_path / "killed", rounds=3)
    command = [sys.executable, "-c", SCRIPT, __file__, str(tmp_path / "killed"), "2"]
    killed = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    fleet = FakeFleet()
    assert np.array_equal(loop(tmp_path / "killed", fleet).run(), expected)
    assert [(plan.round, plan.attempt) for plan in fleet.asked] == [(2, 3), (3, 4), (4, 5)]


def test_one_loop_at_a_time(tmp_path: Path) -> None:
    start(tmp_path)
    first = loop(tmp_path, FakeFleet())
    with pytest.raises(Exception, match="another process|in use|locked"):
        loop(tmp_path, FakeFleet())
    assert len(first.run()) == DIMENSION


def test_a_run_waits_between_rounds_and_notes_it(tmp_path: Path) -> None:
    """The model is the one of a run that never waits: who is asked, and when, are two questions."""
    models = {}
    for name, asked in (
        ("waits", scheduled(config(rounds=2), slack_hours=9.0, duration=HOUR)),
        ("at once", config(rounds=2)),
    ):
        time = Time()
        open_run(tmp_path / name, "r", asked, np.zeros(DIMENSION, np.float32), time)
        hours = Hours(9, 1, 9, 9, 2, 9, 9, 9, 9, 9, 9, 9)
        loop = RunLoop(tmp_path / name, FakeFleet(), clock=time, sleep=time.sleep, intensity=hours)
        models[name] = loop.run()
        released = [entry for entry in read(tmp_path / name) if isinstance(entry, RoundReleased)]
        waited = [entry.waited for entry in released]
        # Rounds of no length: both fit into the second hour.
        assert waited == ([HOUR, 0.0, 0.0] if name == "waits" else [0.0] * 3)
    assert models["waits"].tobytes() == models["at once"].tobytes()


def test_a_round_that_was_put_off_and_failed_first_notes_all_it_waited(tmp_path: Path) -> None:
    time = Time()
    asked = scheduled(config(rounds=1), slack_hours=9.0, duration=HOUR)
    open_run(tmp_path, "r", asked, np.zeros(DIMENSION, np.float32), time)
    fleet = FakeFleet({1: dict.fromkeys("012", "lost")})
    hours = Hours(9, 1, *[9] * 10)
    RunLoop(tmp_path, fleet, clock=time, sleep=time.sleep, intensity=hours).run()
    first = next(entry for entry in read(tmp_path) if isinstance(entry, RoundReleased))
    assert first.waited == HOUR
