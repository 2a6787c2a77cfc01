"""What every fleet in memory must do: one reply for each client that is asked, in any phase; strangers are lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from simulated import Crowd, Places, scenario

from fedsus import plan as plans
from fedsus.config import RunConfig, validate
from fedsus.journal.entries import RoundReleased
from fedsus.reporting import read
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.exchange import Fleet, conduct
from fedsus.rounds.server_half.server import RunLoop
from fedsus.secagg.exchange import Patience, establish, secure_sum
from fedsus.secagg.roster import Roster
from fedsus.tasks.heart import HOSPITALS, shipped
from fedsus.tasks.task import DataSource
from fedsus.types import Ask, Lost, Member, Partial, Reply
from fedsus_simulations.clients.fleet import fleet_of
from fedsus_simulations.whole.devices import DeviceFleet
from fedsus_simulations.whole.memory import Members, devices
from fedsus_simulations.whole.secure_clients import MemoryFleet, federation, random_rings

STRANGER = "stranger"
SIZE = 4


@dataclass
class Recording:
    """Hands on what a fleet replies, and keeps who was asked and who replied in each phase."""

    fleet: Fleet
    phases: list[tuple[Ask, Counter[str]]] = field(default_factory=list)

    def members(self) -> Sequence[Member]:
        return self.fleet.members()

    def ask(self, ask: Ask) -> Iterator[Reply]:
        repliers: Counter[str] = Counter()
        self.phases.append((ask, repliers))
        for reply in self.fleet.ask(ask):
            repliers.update(reply.clients if isinstance(reply, Partial) else [reply.client])
            yield reply


@dataclass
class Rig:
    """A fleet of four, and a way to ask it all phases of one round; the round's survivors."""

    fleet: Fleet
    round: Callable[[Fleet, Path], int]


def config(exchange: str) -> RunConfig:
    plan = {"rounds": 1, "exchange": exchange, "cohort": {"size": SIZE, "minimum": 2}}
    return validate({"name": "r", "task": {"name": "heart"}, "plan": plan}, RunConfig, "run")


def round_of(asked: RunConfig, roster: Roster | None, dimension: int) -> Callable[[Fleet, Path], int]:
    def once(fleet: Fleet, folder: Path) -> int:
        open_run(folder, "r", asked, np.zeros(dimension, dtype=np.float32), time.time, roster)
        RunLoop(folder, fleet, clock=time.time, sleep=time.sleep).run()
        (released,) = (entry for entry in read(folder) if isinstance(entry, RoundReleased))
        return released.survivors

    return once


def whole_devices(exchange: str) -> Rig:
    sources = {name: DataSource(shipped(name)) for name in HOSPITALS}
    members = Members.of(sources) if exchange == "secure_sum" else None
    asked = config(exchange)
    fleet = DeviceFleet(devices(asked, sources, "heart", 1, members=members))
    return Rig(fleet, round_of(asked, None if members is None else members.roster, 34))


def simulated(masks: str, exchange: str = "secure_sum", **changes: object) -> Rig:
    asked = scenario(SIZE, masks, plan={"rounds": 1, "exchange": exchange}, **changes)
    found = asked.run_config(SIZE)
    fleet = fleet_of(asked, found, Crowd(SIZE), Places(), 3, "heart")
    return Rig(fleet, round_of(found, fleet.roster, 3))


def protocol_alone() -> Rig:
    made = federation(SIZE)
    patience = Patience(10.0)

    def once(fleet: Fleet, folder: Path) -> int:
        del folder
        established = conduct(establish(made.opening(), patience), fleet)
        return conduct(
            secure_sum(established, plans.digest(b"plan"), (b"plan", b"model"), 5, 32, patience), fleet
        ).summed.survivors

    return Rig(MemoryFleet(made.clients(random_rings(5, 1))), once)


SLOW = {"dropout": 0.0, "spread": 0.5, "stragglers": 0.5}
RIGS: dict[str, Callable[[], Rig]] = {
    "devices, clear_sum": lambda: whole_devices("clear_sum"),
    "devices, secure_sum": lambda: whole_devices("secure_sum"),
    "simulated, clear_sum": lambda: simulated("none", "clear_sum"),
    "simulated, masks none": lambda: simulated("none"),
    "simulated, masks real": lambda: simulated("real"),
    "simulated, masks none, traces": lambda: simulated("none", traces=SLOW),
    "simulated, masks real, traces": lambda: simulated("real", traces=SLOW),
    "protocol alone": protocol_alone,
}


@pytest.fixture(params=list(RIGS))
def rig(request: pytest.FixtureRequest) -> Rig:
    return RIGS[request.param]()


def test_each_client_replies_once_in_each_phase(rig: Rig, tmp_path: Path) -> None:
    recording = Recording(rig.fleet)
    assert rig.round(recording, tmp_path / "run") == SIZE
    assert recording.phases
    for ask, repliers in recording.phases:
        assert repliers == Counter(dict.fromkeys(ask.requests, 1))


def test_members_are_distinct_in_a_fixed_order_and_can_be_asked(rig: Rig, tmp_path: Path) -> None:
    members = list(rig.fleet.members())
    assert len(members) == len({member.id for member in members}) == SIZE
    assert members == sorted(members) == list(rig.fleet.members())
    recording = Recording(rig.fleet)
    rig.round(recording, tmp_path / "run")
    assert set(recording.phases[0][0].requests) == {member.id for member in members}


def test_strangers_are_lost_and_cost_nobody_else_a_reply(rig: Rig, tmp_path: Path) -> None:
    recording = Recording(rig.fleet)
    rig.round(recording, tmp_path / "run")
    first, _ = recording.phases[0]
    some = dict(list(first.requests.items())[:2])
    for requests in ({STRANGER: b"", **some}, {**some, STRANGER: b""}, {STRANGER: b""}):
        replies = list(rig.fleet.ask(replace(first, requests=requests, enough=None)))
        assert [reply for reply in replies if isinstance(reply, Lost)] == [Lost(STRANGER)]
        named = [reply.clients if isinstance(reply, Partial) else [reply.client] for reply in replies]
        assert sorted(name for names in named for name in names) == sorted(requests)


def test_optional_clients_are_asked_too(rig: Rig, tmp_path: Path) -> None:
    recording = Recording(rig.fleet)
    rig.round(recording, tmp_path / "run")
    first, _ = recording.phases[0]
    for optional in (frozenset(list(first.requests)[:1]), frozenset(first.requests)):
        asked = Recording(rig.fleet)
        list(asked.ask(replace(first, optional=optional, enough=None)))
        assert asked.phases[0][1] == Counter(dict.fromkeys(first.requests, 1))


def test_nobody_asked_is_nobody_replying(rig: Rig) -> None:
    assert list(rig.fleet.ask(Ask({}, 1.0))) == []
