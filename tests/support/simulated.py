"""Simulated clients without data: what each sends follows from its position, so that a sum says who is in it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pacts import plan_for

from fedsus.config import RunConfig, validate
from fedsus.encoding.mechanism import FixedPoint
from fedsus.plan import Plan
from fedsus.rounds.messages import Request, encode_request
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.server import RunLoop, Watch
from fedsus.types import Ask, Ring, Vector
from fedsus_simulations.clients.attempts import AttemptFile
from fedsus_simulations.clients.blocks import Added, Block, Encoded
from fedsus_simulations.clients.fleet import SimulatedFleet, fleet_of
from fedsus_simulations.clients.owners import Owners
from fedsus_simulations.clients.population import Numbered
from fedsus_simulations.clients.traces import VirtualClock, traces_of
from fedsus_simulations.scenario.config import Scenario
from fedsus_simulations.scenario.seeding import Drawn
from fedsus_simulations.scenario.traces import TracesConfig

MODEL = np.arange(3, dtype=np.float32)
DEADLINE = 60.0


@dataclass
class Crowd:
    """A population whose shards nobody looks at."""

    count: int
    central: None = None

    @property
    def names(self) -> Numbered:
        return Numbered(self.count)

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.full(self.count, 100)

    def position(self, name: str) -> int | None:
        return self.names.position(name)

    def shard(self, position: int) -> Any:
        raise AssertionError("no shard was needed")


@dataclass
class Places:
    """Workers whose clients send what follows from their position; some fail, and all blocks are noted."""

    failing: frozenset[int] = frozenset()
    trained: list[list[int]] = field(default_factory=list)

    def totals(self, request: Request, blocks: Sequence[Block]) -> Iterator[Added]:
        for number, encoded in enumerate(self.rings(request, blocks)):
            yield Added([number], encoded.rings.sum(axis=0, dtype=np.uint32), encoded.refused)

    def rings(self, request: Request, blocks: Sequence[Block]) -> Iterator[Encoded]:
        for block in blocks:
            self.trained.append(list(block))
            rings = [sent(request.plan, at, request.model) for at in block if at not in self.failing]
            size = FixedPoint(request.plan).size
            yield Encoded(np.array(rings, dtype=np.uint32).reshape(-1, size), self.failing.intersection(block))

    def close(self) -> None: ...


def sent(plan: Plan, position: int, model: Vector = MODEL) -> Ring:
    """What a client of `Places` sends: of another model another update, and the weight 1."""
    ring = np.zeros(FixedPoint(plan).size, dtype=np.uint32)
    if plan.purpose == "train":
        place = 1000 * position + np.frombuffer(model.tobytes(), dtype=np.uint8).sum()
        ring[: plan.dimension] = place + np.arange(plan.dimension)
        ring[plan.dimension] = 1
    return ring


def run_config(cohort: int, minimum: int = 3, exchange: str = "secure_sum", **plan: Any) -> RunConfig:
    """A run of heart disease."""
    asked = {"rounds": 3, "exchange": exchange, "cohort": {"size": cohort, "minimum": minimum}, "deadline": DEADLINE}
    return validate({"name": "r", "task": {"name": "heart"}, "plan": asked | plan}, RunConfig, "run")


def scenario(cohort: int, masks: str = "none", **changes: Any) -> Scenario:
    """A scenario of heart disease, for clients without data."""
    plan = {"rounds": 5, "cohort": {"size": cohort, "minimum": 3}, "deadline": DEADLINE} | changes.pop("plan", {})
    fields = {"task": {"name": "heart"}, "plan": plan, "population": {"data": "nowhere"}, "seed": 1}
    return validate(fields | {"simulation": {"masks": masks}} | changes, Scenario, "scenario.toml")


def run(
    folder: Path, asked: Scenario, clients: int, workers: Places | None = None, watch: Watch | None = None
) -> Vector:
    """Run a scenario of clients without data to its end, from wherever it stands; the final model."""
    config = asked.run_config(clients)
    fleet = fleet_of(asked, config, Crowd(clients), workers or Places(), 4, "heart")
    if not folder.exists():
        open_run(folder, "r", config, MODEL, time.time, fleet.roster)
    loop = RunLoop(
        folder,
        fleet,
        clock=time.time,
        sleep=fleet.clock.advance,
        draw=Drawn(asked.seed),
        virtual=fleet.clock,
        watch=watch,
    )
    with AttemptFile(folder) as attempts:
        fleet.note = attempts.append
        return loop.run()


def a_plan(size: int, **changes: Any) -> Plan:
    """A plan in clear for so many clients."""
    fixed = {"cohort": {"size": size, "minimum": 1}, "deadline": DEADLINE, "spare_attempts": 2}
    return plan_for(MODEL, None, **fixed | changes)


def ask(plan: Plan, names: Sequence[str]) -> Ask:
    """What a clear sum asks."""
    return Ask(dict.fromkeys(names, b""), plan.deadline, common=encode_request(plan, MODEL))


def a_fleet(
    count: int,
    *,
    workers: Places | None = None,
    owners: Owners | None = None,
    traces: TracesConfig | None = None,
    stack: int = 4,
    seed: int = 1,
) -> SimulatedFleet:
    """A fleet without masks, whose owners grant runs in clear."""
    tasks = {"heart": "heart"}
    given = owners or Owners.of([], run_config(3, 1, "clear_sum"), tasks, seed, count)
    behaviour = traces_of(traces, seed, count)
    return SimulatedFleet(Crowd(count), workers or Places(), given, behaviour, VirtualClock(), stack)
