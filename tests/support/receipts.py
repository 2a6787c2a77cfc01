"""Journals of runs that are over, for receipts: one that a round loop wrote, one whose entries hold every figure."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fedsus.config import RunConfig
from fedsus.costs import Grams, Usage
from fedsus.encoding.mechanism import FixedPoint
from fedsus.encoding.packing import pack
from fedsus.envelope import Envelope
from fedsus.journal import NAME, AttemptAbandoned, AttemptOpened, Journal, RoundReleased, RunClosed
from fedsus.plan import canonical
from fedsus.reporting.receipt import make
from fedsus.rounds.messages import decode_request, encode_answer
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.server import RunLoop
from fedsus.secagg.keys import Identity
from fedsus.secagg.roster import Roster, RosterMember, SignedRoster
from fedsus.types import Answered, Ask, LocalUpdate, Lost, Member, Refused, Reply

DIMENSION = 12
OPERATOR, SIGNER, STRANGER = (Identity.load(bytes([number]) * 32) for number in (1, 2, 3))
NAMES = ("ada", "ben", "cid", "dov", "eva", "fay")
IDENTITIES = {name: Identity.load(bytes([16 + at]) * 32) for at, name in enumerate(NAMES)}
LOSS = {"name": "loss", "low": 0.0, "high": 10.0}
ACCURACY = {"name": "accuracy", "low": 0.0, "high": 1.0}


def roster(number: int = 1, seed: str = "5" * 64) -> SignedRoster:
    """The roster of the six, signed."""
    members = tuple(RosterMember(name=name, key=key.public.hex()) for name, key in IDENTITIES.items())
    made = Roster(
        federation="six",
        number=number,
        previous=None if number == 1 else "9" * 64,
        signers=(SIGNER.public.hex(),),
        needed=1,
        seed=seed,
        members=members,
    )
    return SignedRoster(roster=made).signed(SIGNER)


@dataclass
class Run:
    """A run's folder, whose journal is closed."""

    folder: Path

    @property
    def journal(self) -> bytes:
        """The journal's bytes."""
        return (self.folder / NAME).read_bytes()

    def receipt(self, identity: Identity = OPERATOR) -> bytes:
        """The receipt's bytes."""
        return make(self.folder, identity)

    def payload(self) -> dict[str, Any]:
        """What the receipt says."""
        return payload_of(self.receipt())


def payload_of(raw: bytes) -> dict[str, Any]:
    """What a receipt says."""
    from fedsus.envelope import decode

    data: dict[str, Any] = json.loads(decode(raw).payload)
    return data


def signed(payload: Any, *identities: Identity) -> bytes:
    """A receipt that says ``payload``, whatever that is, signed by all of them."""
    sealed = Envelope(canonical(payload), {})
    for identity in identities or (OPERATOR,):
        sealed = sealed.signed(identity)
    return sealed.encode()


class Fleet:
    """Three clients in memory, of whom the first is lost in attempt 2, and the last refuses in attempt 3."""

    def members(self) -> Sequence[Member]:
        return [Member(str(i), f"h{i}") for i in range(3)]

    def ask(self, ask: Ask) -> Iterator[Reply]:
        for name in ask.requests:
            request = decode_request(ask.request(name))
            if (request.plan.attempt, name) in ((2, "0"), (2, "1")):
                yield Lost(name)
            elif (request.plan.attempt, name) == (3, "2"):
                yield Refused(name)
            else:
                empty = request.plan.purpose == "evaluate"
                delta = np.full(0 if empty else DIMENSION, 0.01 * int(name), np.float32)
                local = LocalUpdate(delta, 1.0, np.array([2.0 * int(name), 1.0]), 2, None)
                mechanism = FixedPoint(request.plan)
                yield Answered(name, encode_answer(pack(mechanism.encode(local, None), mechanism.bits)))  # type: ignore[arg-type]


def clear_run(folder: Path) -> Run:
    """What a round loop writes: a sum in clear without DP; one attempt abandoned, one client that refused."""
    asked = {
        "rounds": 2,
        "spare_attempts": 2,
        "deadline": 5.0,
        "exchange": "clear_sum",
        "cohort": {"size": 3, "minimum": 2},
        "metrics": [LOSS, ACCURACY],
    }
    part = {"name": "clear", "task": {"name": "heart"}, "server": {"wait_for_devices": 0.0}}
    ticks = itertools.count(1_700_000_000.0)
    open_run(
        folder,
        "clear-1",
        RunConfig.model_validate(part | {"plan": asked}),
        np.zeros(DIMENSION, np.float32),
        lambda: next(ticks),
    )
    RunLoop(folder, Fleet(), clock=lambda: next(ticks), sleep=lambda _: None).run()
    return Run(folder)


def usage(scale: float = 1.0, **changes: Any) -> Usage:
    """What a server's meter gives; its range is a fifth to either side."""
    joules = {"crypto": 3.0 * scale, "communicate": 1.0 * scale}
    total = sum(joules.values())
    grams = Grams(
        value=total / 3.6e6 * 300,
        low=total / 3.6e6 * 200,
        high=total / 3.6e6 * 400,
        method="modelled",
        kind="average",
        source="yearly mean of FRA, 2024",
    )
    fields: dict[str, Any] = {
        "seconds": 2.0,
        "joules": joules,
        "low": 0.8 * total,
        "high": 1.2 * total,
        "idle": 20.0,
        "method": "modelled",
        "source": "2 of 8 cores at 65 W",
        "boundary": "this process",
        "grams": grams,
    }
    return Usage(**fields | changes)


def costs(scale: float = 1.0) -> dict[str, float]:
    """What five devices' reports sum to, without DP."""
    return {
        "joules": 50.0 * scale,
        "grams": 0.004 * scale,
        "spread": 5.0 * scale,
        "devices": 5.0,
        "counted": 2.0,
        "priced": 4.0,
        "joules_train": 45.0 * scale,
        "joules_crypto": 5.0 * scale,
    }


def private_run(folder: Path) -> Run:
    """A masked sum with noise in shares over six, whose entries hold every figure that a journal may have."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_bytes(_private_journal())
    return Run(folder)


def example_run(folder: Path) -> Run:
    """The same with the example unit, whose rounds are one gradient step each."""
    one = {"unit": "example", "placement": "distributed", "denominator": 60.0}
    privacy = one | {"epsilon": 8.0, "delta": 1e-5, "metrics_share": 0.3}
    return _written(folder, privacy=privacy, costs={"joules": 17.0, "grams": 0.0013})


@cache
def _private_journal() -> bytes:
    """Calibrated once a process, which takes a second."""
    with tempfile.TemporaryDirectory() as folder:
        privacy = {"unit": "client", "epsilon": 8.0, "delta": 1e-5, "metrics_share": 0.3}
        return _written(Path(folder), privacy=privacy, costs={"joules": 17.0, "grams": 0.0013}).journal


def exact_run(folder: Path) -> Run:
    """The same without DP."""
    return _written(folder, privacy={"unit": "none"}, costs=costs())


def _written(folder: Path, *, privacy: dict[str, Any], costs: dict[str, float]) -> Run:
    asked = {
        "rounds": 3,
        "spare_attempts": 2,
        "cohort": {"size": 6, "minimum": 5},
        "privacy": privacy,
        "metrics": [LOSS, ACCURACY],
        "costs": {"joules": 1000.0, "grams": 1.0},
    }
    config = RunConfig.model_validate({"name": "masked", "task": {"name": "heart"}, "plan": asked})
    ticks = itertools.count(1_700_000_000.0, 7.0)

    def clock() -> float:
        return next(ticks)

    specification = open_run(folder, "masked-1", config, np.zeros(DIMENSION, np.float32), clock, roster().roster)
    assert specification.privacy.unit == privacy["unit"]
    with Journal.open(folder, clock) as journal:
        _fill(journal, costs)
    return Run(folder)


def _fill(journal: Journal, costs: dict[str, float]) -> None:
    """Two attempts abandoned or cut off by a crash, and three released rounds."""
    traffic = {"advertise": (1000, 1200), "contribute": (9000, 6000), "unmask": (500, 700)}
    for attempt, round in enumerate((1, 2, 2, 3, 3), start=1):
        journal.append(AttemptOpened(round=round, attempt=attempt, plan_digest=f"{attempt:064x}", cohort=6))
        if attempt == 2:
            journal.append(
                AttemptAbandoned(
                    round=round,
                    attempt=attempt,
                    reason="4 survivors; the plan asks for 5",
                    traffic={"advertise": (1000, 800)},
                    server=usage(0.5, grams=None),
                )
            )
        elif attempt != 4:  # a crash
            journal.append(_round(round, attempt, costs, traffic))
    journal.append(RunClosed(reason="completed", model="c" * 64, model_hash="d" * 64))


def _round(round: int, attempt: int, costs: dict[str, float], traffic: dict[str, tuple[int, int]]) -> RoundReleased:
    return RoundReleased(
        round=round,
        attempt=attempt,
        survivors=5,
        refused=1,
        lost=0,
        weight=5.0,
        metrics={"loss": 1.0 / round, "accuracy": 0.5 + 0.1 * round},
        held_out=5,
        saturated=0,
        checkpoint=f"{round:064x}",
        bytes_sent=10_500,
        bytes_received=7_900,
        seconds=3.25,
        traffic=traffic,
        server=usage(),
        costs=costs,
        waited=60.0 * round,
    )
