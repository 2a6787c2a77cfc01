"""The round loop with the default exchange: sessions over a run, lost devices, killed servers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hours import HOUR, Hours, Time, scheduled
from pacts import NAMES, members

from fedsus import plan as plans
from fedsus.config import RunConfig, ServerConfig
from fedsus.errors import ConfigError, CorruptionError, RunFailed
from fedsus.journal import NAME, AttemptAbandoned, AttemptOpened, Disk, Entry, Journal, RoundReleased, RunClosed
from fedsus.reporting import read
from fedsus.rounds.device import Device
from fedsus.rounds.secure import SecureRounds
from fedsus.rounds.server import RunLoop
from fedsus.rounds.specification import Specification, open_run, specification_of
from fedsus.rounds.withstood import numbers
from fedsus.secagg import session as sessions
from fedsus.secagg import wire
from fedsus.secagg.session import Session
from fedsus.secagg.wire import Kind
from fedsus.tasks.heart import HOSPITALS, shipped
from fedsus.tasks.task import DataSource
from fedsus.types import Answered, Ask, Lost, Member, Reply, Vector
from fedsus_simulations.whole.memory import Members, devices, simulate

START = np.zeros(34, dtype=np.float32)
SEED = 5
METRICS = [{"name": "loss", "low": 0.0, "high": 10.0}, {"name": "accuracy", "low": 0.0, "high": 1.0}]
FIRST = [[Kind.ADVERTISE], [Kind.SHARE]]
ROUND = [[Kind.CONTRIBUTE], [Kind.CONFIRM, Kind.ADVERTISE], [Kind.UNMASK, Kind.SHARE]]
LAST = [[Kind.CONTRIBUTE], [Kind.CONFIRM], [Kind.UNMASK]]


def config(size: int = 4, rounds: int = 2, spares: int = 3, minimum: int = 3, **plan: Any) -> RunConfig:
    asked = {"rounds": rounds, "spare_attempts": spares, "cohort": {"size": size, "minimum": minimum}, "deadline": 9.0}
    part = {"task": {"name": "heart"}, "server": {"wait_for_devices": 0.0}}
    return RunConfig.model_validate(part | {"plan": asked | plan})


def sources(names: Sequence[str]) -> dict[str, DataSource]:
    return {name: DataSource(shipped(hospital)) for name, hospital in zip(names, itertools.cycle(HOSPITALS))}


Gone = Callable[[str, list[Kind], int], bool]


@dataclass
class Fleet:
    """Devices in memory that notes each phase; ``gone`` says who is lost in which (name, kinds, number of the ask)."""

    devices: dict[str, Device]
    gone: Gone = lambda *_: False
    asked: list[list[Kind]] = field(default_factory=list)
    opened: list[Session] = field(default_factory=list)
    aside: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    adverts: list[bytes] = field(default_factory=list)

    def members(self) -> Sequence[Member]:
        there = [name for name in sorted(self.devices) if name not in self.aside]
        return [Member(f"id-{name}", self.names.get(name, name)) for name in there]

    def ask(self, ask: Ask) -> Iterator[Reply]:
        frames = wire.frames(ask.common)
        kinds = [frame.kind for frame in frames]
        self.asked.append(kinds)
        self.opened += [sessions.decode(bytes(frame.body)) for frame in frames if frame.kind == Kind.ADVERTISE]
        number = len(self.asked)
        for client in ask.requests:
            name = client.removeprefix("id-")
            if self.gone(name, kinds, number):
                yield Lost(client)
                continue
            answer = self.devices[name].answer(ask.request(client), lambda: False)
            answer.sent()
            self.adverts += [bytes(f.body) for f in wire.frames(answer.body) if f.kind == Kind.ADVERTISE]
            yield Answered(client, answer.body)


@dataclass
class Run:
    """A run over devices in memory, with a roster of all of them."""

    folder: Path
    config: RunConfig
    clients: int = 4

    def __post_init__(self) -> None:
        self.pact: Members = members(self.clients)
        names = NAMES[: self.clients]
        self.fleet = Fleet(devices(self.config, sources(names), "heart", SEED, lambda: 1.7e9, self.pact))
        open_run(self.folder, "run-1", self.config, START, lambda: 1.7e9, self.pact.roster)

    def loop(self) -> RunLoop:
        ticks = itertools.count(1_700_000_000.0)
        return RunLoop(self.folder, self.fleet, clock=lambda: float(next(ticks)), sleep=lambda _: None)

    def run(self) -> Vector:
        return self.loop().run()

    def of(self, kind: type[Any]) -> list[Any]:
        return [entry for entry in read(self.folder) if isinstance(entry, kind)]

    @property
    def attempts(self) -> list[tuple[int, int]]:
        return [(entry.round, entry.attempt) for entry in self.of(AttemptOpened)]


def test_a_run_of_the_default_exchange_and_its_journal(tmp_path: Path) -> None:
    asked = config(metrics=METRICS)
    assert asked.plan.exchange == "secure_sum"
    model = simulate(asked, tmp_path, "run-1", START, sources(NAMES[:4]), seed=SEED)
    entries = read(tmp_path)
    kinds = [type(entry).__name__ for entry in entries]
    assert kinds == ["RunOpened", *["AttemptOpened", "RoundReleased"] * 3, "RunClosed"]
    released = [entry for entry in entries if isinstance(entry, RoundReleased)]
    assert [(e.survivors, e.refused, e.lost) for e in released] == [(4, 0, 0)] * 3
    assert all(entry.bytes_sent > 0 and entry.bytes_received > 0 for entry in released)
    assert released[-1].metrics is not None
    assert released[-1].metrics["loss"] < released[0].metrics["loss"]
    opened = [entry for entry in entries if isinstance(entry, AttemptOpened)]
    assert [(entry.round, entry.attempt, entry.cohort) for entry in opened] == [(1, 1, 4), (2, 2, 4), (3, 3, 4)]
    assert len({entry.plan_digest for entry in opened}) == 3
    assert not np.array_equal(model, START)


def test_bytes_are_counted_by_phase_and_what_rides_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path, config(rounds=2))
    run.run()
    first, second = run.of(RoundReleased)
    alone = ["advertise", "share"]
    assert sorted(first.traffic) == sorted([*alone, "contribute", "confirm+advertise", "unmask+share"])
    assert sorted(second.traffic) == ["confirm", "contribute", "unmask"]
    for entry in (first, second):
        sums = [sum(one) for one in zip(*entry.traffic.values(), strict=True)]
        assert sums == [entry.bytes_sent, entry.bytes_received]
        assert all(sent > 0 and received > 0 for sent, received in entry.traffic.values())


def test_nothing_of_a_session_but_its_sums_is_in_the_journal(tmp_path: Path) -> None:
    run = Run(tmp_path, config())
    run.run()
    text = (tmp_path / NAME).read_text()
    for session in run.fleet.opened:
        assert session.nonce not in text
        assert sessions.session_id(sessions.encode(session)).hex() not in text


@pytest.mark.parametrize("private", [False, True])
def test_secure_and_clear_give_the_same_integers_and_the_same_model(tmp_path: Path, private: bool) -> None:
    asked: dict[str, Any] = {"metrics": METRICS}
    if private:
        asked = {"privacy": {"unit": "example", "epsilon": 8.0, "delta": 1e-5, "denominator": 80.0}}
        asked["privacy"]["sampling_rate"] = 0.5
    found = {}
    for exchange in ("secure_sum", "clear_sum"):
        folder = tmp_path / exchange
        model = simulate(config(exchange=exchange, **asked), folder, "r", START, sources(NAMES[:4]), seed=SEED)
        released = [entry for entry in read(folder) if isinstance(entry, RoundReleased)]
        told = [(e.survivors, e.weight, e.metrics, e.held_out, e.saturated, e.checkpoint) for e in released]
        found[exchange] = model.tobytes(), told
    assert found["secure_sum"] == found["clear_sum"]
    assert found["secure_sum"][0] != START.tobytes()


def test_the_first_round_takes_five_exchanges_and_each_later_one_three(tmp_path: Path) -> None:
    run = Run(tmp_path, config(rounds=3))
    run.run()
    assert run.fleet.asked == [*FIRST, *ROUND, *ROUND, *LAST]
    first, second, third = run.fleet.opened
    assert first.previous is None
    for one, next_one in ((first, second), (second, third)):
        assert next_one.previous == sessions.session_id(sessions.encode(one)).hex()
    assert [(s.round, s.attempt) for s in run.fleet.opened] == [(1, 1), (2, 2), (3, 3)]
    assert len({session.nonce for session in run.fleet.opened}) == 3
    assert len({session.specification for session in run.fleet.opened}) == 1


def test_the_last_evaluation_has_a_session_that_the_last_round_prepared(tmp_path: Path) -> None:
    run = Run(tmp_path, config(rounds=1, metrics=METRICS))
    run.run()
    assert run.fleet.asked == [*FIRST, *ROUND, *LAST]
    assert [(s.round, s.attempt) for s in run.fleet.opened] == [(1, 1), (2, 2)]


def test_no_session_is_prepared_that_no_attempt_is_left_for(tmp_path: Path) -> None:
    run = Run(tmp_path, config(rounds=2, spares=0))
    run.run()
    assert run.fleet.asked == [*FIRST, *ROUND, *LAST]


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
    assert "adverts: 2 of 4 clients" in run.of(AttemptAbandoned)[0].reason
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


def secure(run: Run) -> SecureRounds:
    opened = read(run.folder)[0]
    return SecureRounds(specification_of(opened), lambda: 1.7e9)  # type: ignore[arg-type]


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


def test_a_device_that_is_not_drawn_tells_its_owner_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level("WARNING", "fedsus.device"):
        drawn = Run(tmp_path, config(rounds=3), clients=6)
        drawn.run()
    assert [message for message in caplog.messages if "cohort" in message] == []


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
