"""Runs of the default exchange for tests: devices in memory that may be gone at a phase, and what became of the run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pacts import NAMES, members

from fedsus.config import RunConfig
from fedsus.journal import AttemptOpened
from fedsus.reporting import read
from fedsus.rounds.device_half.device import Device
from fedsus.rounds.planning.specification import open_run, specification_of
from fedsus.rounds.server_half.secure import SecureRounds
from fedsus.rounds.server_half.server import RunLoop
from fedsus.secagg import session as sessions
from fedsus.secagg import wire
from fedsus.secagg.session import Session
from fedsus.secagg.wire import Kind
from fedsus.tasks.heart import HOSPITALS, shipped
from fedsus.tasks.task import DataSource
from fedsus.types import Answered, Ask, Lost, Member, Reply, Vector
from fedsus_simulations.whole.memory import Members, devices

START = np.zeros(34, dtype=np.float32)
SEED = 5
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


def secure(run: Run) -> SecureRounds:
    opened = read(run.folder)[0]
    return SecureRounds(specification_of(opened), lambda: 1.7e9)  # type: ignore[arg-type]
