"""Runs with the clear exchange over clients that are a few lines of arithmetic each."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np

from fedsus import plan as plans
from fedsus.config import RunConfig
from fedsus.encoding.mechanism import FixedPoint
from fedsus.encoding.packing import pack, packed_size, unpack
from fedsus.rounds.messages import REFUSAL, decode_request, encode_answer
from fedsus.types import Answered, Ask, LocalUpdate, Lost, Member, Refused, Reply

DIMENSION = 12
METRICS = [{"name": "loss", "low": 0.0, "high": 10.0}]


def config(rounds: int = 4, spare: int = 2, minimum: int = 2, strategy: str = "fedadam") -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "test",
            "task": {"name": "heart"},
            "plan": {
                "rounds": rounds,
                "spare_attempts": spare,
                "deadline": 5.0,
                "exchange": "clear_sum",
                "cohort": {"size": 3, "minimum": minimum},
                "metrics": METRICS,
                "strategy": {"name": strategy, "learning_rate": 0.1},
            },
            "server": {"wait_for_devices": 0.0},
        }
    )


def update(name: str, raw: bytes) -> bytes:
    """What a well-behaved client answers: a pull towards a target of its own."""
    request = decode_request(raw)
    mechanism = FixedPoint(request.plan)
    target = np.full(DIMENSION, int(name), dtype=np.float32)
    empty = request.plan.purpose == "evaluate"
    delta = np.zeros(0, np.float32) if empty else (target - request.model).astype(np.float32)
    local = LocalUpdate(delta, float(int(name) + 1), np.array([2.0 * int(name)]), 2, None)
    return encode_answer(pack(mechanism.encode(local, None), mechanism.bits))  # type: ignore[arg-type]


def forged(name: str, raw: bytes, at: int) -> bytes:
    """A well-formed answer with one integer, at ``at``, that no client can reach."""
    mechanism = FixedPoint(decode_request(raw).plan)
    ring = unpack(update(name, raw)[-packed_size(mechanism.size, mechanism.bits) :], mechanism.size, mechanism.bits)
    ring[at] = (1 << mechanism.bits - 1) + 1
    return encode_answer(pack(ring, mechanism.bits))


class FakeFleet:
    """Clients '0', '1', '2' in an order that changes; ``fails`` says who does what in which attempt."""

    def __init__(self, fails: dict[int, dict[str, str]] | None = None, seed: int = 0, size: int = 3) -> None:
        self.fails, self._random, self._size = fails or {}, random.Random(seed), size
        self.asked: list[plans.Plan] = []

    def members(self) -> Sequence[Member]:
        return [Member(str(i), f"h{i}") for i in range(self._size)]

    def ask(self, ask: Ask) -> Iterator[Reply]:
        names = list(ask.requests)
        self._random.shuffle(names)
        plan = decode_request(ask.request(names[0])).plan
        self.asked.append(plan)
        for name in names:
            match self.fails.get(plan.attempt, {}).get(name):
                case "lost":
                    yield Lost(name)
                case "refused":
                    yield Refused(name)
                case "refusal":
                    yield Answered(name, REFUSAL)
                case "garbage":
                    yield Answered(name, b"garbage")
                case "forged update":
                    yield Answered(name, forged(name, ask.request(name), 0))
                case "forged count":
                    yield Answered(name, forged(name, ask.request(name), -1))
                case "twice":
                    yield Answered(name, update(name, ask.request(name)))
                    yield Answered(name, update(name, ask.request(name)))
                case _:
                    yield Answered(name, update(name, ask.request(name)))
