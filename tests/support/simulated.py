"""Simulated clients without data: what each sends follows from its position, so that a sum says who is in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pacts import plan_for

from fedsus.config import RunConfig, validate
from fedsus.encoding.mechanism import FixedPoint
from fedsus.plan import Plan
from fedsus.rounds.messages import Request, encode_request
from fedsus.types import Ask, Ring
from fedsus_simulations.fleet import SimulatedFleet
from fedsus_simulations.memory import granting
from fedsus_simulations.owners import Owners
from fedsus_simulations.population import Numbered
from fedsus_simulations.traces import TracesConfig, VirtualClock, traces_of
from fedsus_simulations.workers import Added, Block, Encoded

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
    """Workers whose client at position p sends p + 1, p + 2, ...; some fail, and all blocks are noted."""

    failing: frozenset[int] = frozenset()
    trained: list[list[int]] = field(default_factory=list)

    def totals(self, request: Request, blocks: Sequence[Block]) -> Iterator[Added]:
        for number, encoded in enumerate(self.rings(request, blocks)):
            yield Added([number], encoded.rings.sum(axis=0, dtype=np.uint32), encoded.refused)

    def rings(self, request: Request, blocks: Sequence[Block]) -> Iterator[Encoded]:
        for block in blocks:
            self.trained.append(list(block))
            rings = [sent(request.plan, at) for at in block if at not in self.failing]
            size = FixedPoint(request.plan).size
            yield Encoded(np.array(rings, dtype=np.uint32).reshape(-1, size), self.failing.intersection(block))

    def close(self) -> None: ...


def sent(plan: Plan, position: int) -> Ring:
    """What a client of `Places` sends."""
    return (position + 1 + np.arange(FixedPoint(plan).size)).astype(np.uint32)


def run_config(cohort: int, minimum: int = 3, exchange: str = "secure_sum", **plan: Any) -> RunConfig:
    """A run of heart disease."""
    asked = {"rounds": 3, "exchange": exchange, "cohort": {"size": cohort, "minimum": minimum}, "deadline": DEADLINE}
    return validate({"name": "r", "task": {"name": "heart"}, "plan": asked | plan}, RunConfig, "run")


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
    given = owners or Owners.of([], granting(run_config(3, 1, "clear_sum")), tasks, seed, count)
    behaviour = traces_of(traces, seed, count)
    return SimulatedFleet(Crowd(count), workers or Places(), given, behaviour, VirtualClock(), stack)
