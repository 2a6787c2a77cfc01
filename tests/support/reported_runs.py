"""Journals of runs that look like real ones, made without running any: for what is read from them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from math import cos, exp, pi
from pathlib import Path
from typing import Any

from fedsus.config import RunConfig
from fedsus.costs import Grams, Usage
from fedsus.journal import NAME, AttemptAbandoned, AttemptOpened, Entry, RoundReleased, RunClosed, RunOpened
from fedsus.journal.entries import GENESIS, encode
from fedsus.secagg.keys import Identity
from fedsus.secagg.roster import Roster, RosterMember

MORNING = 1_767_240_000.0
"""2026-01-01, 04:00 UTC."""
CLINICS = 60
ACCURACY, LOSS = {"name": "accuracy", "low": 0.0, "high": 1.0}, {"name": "loss", "low": 0.0, "high": 4.0}
HOSTILE = '<script>alert("1")</script> | `x` $y_2$ \u202e\n## z <img src=https://evil.example/x.png>'

_SHARES = {"scale": 1024.0, "variance": 470846.2860697599, "bits": 19, "colluders": 15, "survivors": 45}
_CALIBRATED = {"unit": "client", "placement": "distributed", "epsilon": 10.0, "delta": 1e-5, "clip": 1.0}
"""What `fedsus.rounds.planning.specification.open_run` found for the plan of `private`, which takes a second."""


def written(folder: Path, entries: Sequence[Entry]) -> Path:
    """A run's folder with these entries, whose times are kept."""
    lines, prev = [], GENESIS
    for seq, entry in enumerate(entries):
        lines.append(encode(entry, seq, prev))
        prev = hashlib.sha256(lines[-1]).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NAME).write_bytes(b"".join(line + b"\n" for line in lines))
    return folder


@cache
def _roster() -> dict[str, Any]:
    members = tuple(
        RosterMember(name=f"clinic-{at:02d}", key=Identity.load(bytes([16 + at]) * 32).public.hex())
        for at in range(CLINICS)
    )
    signer = Identity.load(b"\2" * 32).public.hex()
    made = Roster(
        federation="clinics", number=3, previous="9" * 64, signers=(signer,), needed=1, seed="5" * 64, members=members
    )
    return made.model_dump(mode="json")


def opened(name: str, plan: dict[str, Any], privacy: dict[str, Any] | None = None, **tables: Any) -> RunOpened:
    """The first entry; without ``privacy`` of a run that has none, whose sums are in clear."""
    asked = {"metrics": [ACCURACY, LOSS], **plan}
    if privacy is None:
        asked |= {"exchange": "clear_sum"}
    config = RunConfig.model_validate({"name": name, "task": {"name": "heart"}, "plan": asked, **tables})
    parts: dict[str, Any] = {
        "run": config.model_dump(mode="json", exclude_none=True),
        "privacy": privacy or {"unit": "none"},
        "dimension": 1000,
    }
    if privacy is not None:
        parts |= {"roster": _roster(), "server": "0" * 64}
    return RunOpened(
        run=f"{name}-1",
        config=parts,
        model_hash="a" * 64,
        checkpoint="b" * 64,
        fedsus_version="0.1.0",
        software={"fedsus": "0.1.0", "numpy": "2.3.0", "code": "1" * 64, "lock": "2" * 64},
        time=MORNING,
    )


def usage(draw: random.Random, seconds: float, rate: float | None) -> Usage:
    """A server's over so many seconds, at a grid's ``rate`` in g/kWh."""
    joules = {"crypto": draw.uniform(60, 80), "communicate": draw.uniform(20, 30), "encode": 4.0, "wait": 2.0}
    total = sum(joules.values())
    grams = None if rate is None else total / 3.6e6 * rate
    return Usage(
        seconds=seconds,
        joules=joules,  # type: ignore[arg-type]
        low=0.8 * total,
        high=1.3 * total,
        idle=15.0 * seconds,
        method="modelled",
        source="4 of 8 cores at 65 W",
        boundary="this process",
        grams=None
        if grams is None
        else Grams(
            value=grams,
            low=0.7 * grams,
            high=1.4 * grams,
            method="modelled",
            kind="average",
            source="yearly mean of FRA, 2024",
        ),
    )


def costs(draw: random.Random, devices: int, rate: float) -> dict[str, float]:
    """What so many devices report without privacy."""
    train, crypto, send = (devices * draw.uniform(low, high) for low, high in ((120, 150), (6, 9), (10, 14)))
    joules = train + crypto + send
    return {
        "joules": joules,
        "grams": joules / 3.6e6 * rate,
        "spread": 0.15 * joules,
        "devices": float(devices),
        "counted": float(devices // 3),
        "priced": float(devices - 1),
        "joules_train": train,
        "joules_crypto": crypto,
        "joules_communicate": send,
    }


def rate_at(moment: float) -> float:
    """g/kWh of a grid with much sun."""
    return 260.0 + 140.0 * cos((moment % 86_400) / 86_400 * 2 * pi)


def rounds(
    draw: random.Random,
    attempts: Sequence[tuple[int, bool]],
    cohort: int,
    step: float,
    change: Callable[[RoundReleased, float], RoundReleased],
) -> Iterator[Entry]:
    """Attempts as (round, whether it was released), each ``step`` seconds after the one before."""
    now = MORNING
    for attempt, (round, good) in enumerate(attempts, start=1):
        yield AttemptOpened(
            round=round, attempt=attempt, plan_digest=f"{attempt:064x}", cohort=cohort, time=now + 0.1 * step
        )
        now += step
        traffic = {
            "advertise": (cohort * 4_000, cohort * 900),
            "share": (cohort * 21_000, cohort * 20_000),
            "contribute": (cohort * 104_000, cohort * 62_000),
            "unmask": (cohort * 1_400, cohort * 2_100),
        }
        if not good:
            reason = f"{draw.randrange(cohort // 4, cohort // 2)} survivors; the plan asks for {3 * cohort // 4}"
            used = usage(draw, 0.5 * step, rate_at(now))
            yield AttemptAbandoned(round=round, attempt=attempt, reason=reason, traffic=traffic, server=used, time=now)
            continue
        lost, refused = draw.randrange(0, max(cohort // 12, 2)), cohort // 30
        accuracy = 0.84 - 0.36 * exp(-round / (0.3 * attempts[-1][0])) + draw.gauss(0, 0.006)
        yield change(
            RoundReleased(
                round=round,
                attempt=attempt,
                survivors=cohort - lost - refused,
                refused=refused,
                lost=lost,
                weight=float(cohort - lost - refused),
                metrics={"accuracy": accuracy, "loss": 1.4 - accuracy},
                held_out=40 * cohort,
                saturated=0,
                checkpoint=f"{round:064x}",
                bytes_sent=sum(out for out, _ in traffic.values()),
                bytes_received=sum(back for _, back in traffic.values()),
                seconds=0.8 * step,
                traffic=traffic,
                server=usage(draw, 0.8 * step, rate_at(now)),
                time=now,
            ),
            now,
        )


def private(folder: Path) -> Path:
    """Sixty clinics with a masked sum and noise in shares; two attempts were abandoned."""
    draw = random.Random(1)
    plan = {
        "rounds": 12,
        "spare_attempts": 2,
        "cohort": {"size": CLINICS, "minimum": 45},
        "privacy": {"unit": "client", "epsilon": 10.0, "delta": 1e-5, "metrics_share": 0.7},
        "metrics": [ACCURACY],
        "costs": {"joules": 400.0, "grams": 0.05},
    }
    first = opened(
        "clinics",
        plan,
        {**_CALIBRATED, "shares": {**_SHARES, "metrics": 2421495.1855016225}},
        carbon={"country": "FRA", "embodied": {"machine": "server", "share": 0.2}, "network": {}},
        energy={"meter": "model"},
    )

    def change(entry: RoundReleased, now: float) -> RoundReleased:
        joules = 150.0 * entry.survivors + draw.gauss(0, 1117)
        noised = {"accuracy": (entry.metrics or {})["accuracy"] + draw.gauss(0, 0.08)}
        told = {"joules": joules, "grams": 150.0 * entry.survivors / 3.6e6 * rate_at(now) + draw.gauss(0, 0.14)}
        return replace(entry, metrics=noised, costs=told, held_out=entry.survivors)

    attempts = [(1, True), (2, True), (3, False), (3, True), (4, True), (5, False), *((n, True) for n in range(5, 13))]
    entries = [first, *rounds(draw, attempts, CLINICS, 4_000.0, change)]
    closed = RunClosed(reason="completed", model="c" * 64, model_hash="d" * 64, time=entries[-1].time + 1)
    return written(folder, [*entries, closed])


def waiting(folder: Path) -> Path:
    """A sum in clear of ten devices, whose rounds wait for cleaner hours, under caps."""
    draw = random.Random(2)
    plan = {
        "rounds": 24,
        "spare_attempts": 3,
        "cohort": {"size": 10, "minimum": 7},
        "costs": {"joules": 400.0, "grams": 0.1},
    }
    first = opened(
        "phones",
        plan,
        budget={"kwh": 0.02, "grams": 6.0},
        schedule={"policy": "cleanest", "slack_hours": 24.0},
        carbon={"series": {"files": "grid.csv", "value": "g"}, "network": {"kwh_per_gb": 0.01, "low": 0.0, "high": 0.1}}
        | {"series": {"files": "grid.csv", "value": "g", "unit": "g/kWh"}},
    )

    def change(entry: RoundReleased, now: float) -> RoundReleased:
        waited = 1_800.0 * (entry.round % 5 == 0) + 7_200.0 * (entry.round == 12)
        return replace(entry, costs=costs(draw, entry.survivors, rate_at(now)), waited=waited)

    attempts = [(1, True), (2, False), *((number, True) for number in range(2, 25))]
    entries = [first, *rounds(draw, attempts, 10, 3_100.0, change)]
    closed = RunClosed(reason="completed", model="c" * 64, model_hash="d" * 64, time=entries[-1].time + 1)
    return written(folder, [*entries, closed])


def stopped(folder: Path, **changes: Any) -> Path:
    """Like `waiting`, without waits; the budget of joules ended it after six rounds. ``changes`` are of its end."""
    draw = random.Random(3)
    plan = {"rounds": 20, "cohort": {"size": 10, "minimum": 7}, "costs": {"joules": 400.0, "grams": 0.1}}
    first = opened("capped", plan, budget={"joules": 11_000.0}, energy={"meter": "model"})

    def change(entry: RoundReleased, now: float) -> RoundReleased:
        plain = None if entry.server is None else replace(entry.server, grams=None)
        return replace(entry, costs=costs(draw, entry.survivors, 0.0) | {"priced": 0.0}, server=plain)

    entries = [first, *rounds(draw, [(number, True) for number in range(1, 7)], 10, 600.0, change)]
    because = "[budget] joules is spent: 9874 of 11000 J are counted; the largest attempt took 1712 J"
    fields = {"because": because, **changes}
    closed = RunClosed(reason="stopped", model="c" * 64, model_hash="d" * 64, time=entries[-1].time + 1, **fields)
    return written(folder, [*entries, closed])


def empty(folder: Path) -> Path:
    """A run that was opened, and no more."""
    return written(folder, [opened("young", {"rounds": 3, "cohort": {"size": 4, "minimum": 2}})])


def old(folder: Path) -> Path:
    """As journals were before they noted software, traffic, energy and a model's hash and size."""
    first = opened("old", {"rounds": 3, "cohort": {"size": 4, "minimum": 2}})
    config = {name: part for name, part in first.config.items() if name != "dimension"}

    def change(entry: RoundReleased, now: float) -> RoundReleased:
        return replace(entry, traffic=None, server=None)

    middle = list(rounds(random.Random(4), [(1, True), (2, True)], 4, 60.0, change))
    gone = [
        AttemptOpened(round=3, attempt=3, plan_digest="3" * 64, cohort=4, time=middle[-1].time + 1),
        AttemptAbandoned(round=3, attempt=3, reason="1 survivor; the plan asks for 2", time=middle[-1].time + 2),
    ]
    closed = RunClosed(reason="failed", model="c" * 64, time=middle[-1].time + 3)
    return written(folder, [replace(first, config=config, software=None), *middle, *gone, closed])


def simulated(folder: Path) -> Path:
    """A simulation with a clock of its own, still going on."""
    first = opened("simulated", {"rounds": 9, "cohort": {"size": 10, "minimum": 7}})

    def change(entry: RoundReleased, now: float) -> RoundReleased:
        return replace(entry, server=None, virtual=600.0 * entry.round)

    return written(folder, [first, *rounds(random.Random(5), [(1, True), (2, True)], 10, 2.0, change)])


def hostile(folder: Path) -> Path:
    """Whoever may write into a journal put markup wherever text may stand."""
    first = opened("hostile", {"rounds": 3, "cohort": {"size": 4, "minimum": 2}})

    def change(entry: RoundReleased, now: float) -> RoundReleased:
        used = usage(random.Random(0), 5.0, 100.0)
        grams = None if used.grams is None else replace(used.grams, source=HOSTILE)
        return replace(
            entry,
            metrics={HOSTILE: 0.5, "accuracy": 0.6},
            traffic={HOSTILE: (10, 20)},
            server=replace(used, source=HOSTILE, boundary=HOSTILE, grams=grams),
        )

    middle = list(rounds(random.Random(6), [(1, True), (2, True)], 4, 60.0, change))
    gone = [
        AttemptOpened(round=3, attempt=3, plan_digest="3" * 64, cohort=4, time=middle[-1].time + 1),
        AttemptAbandoned(round=3, attempt=3, reason=HOSTILE, time=middle[-1].time + 2),
    ]
    software = {HOSTILE: HOSTILE}
    closed = RunClosed(reason="stopped", model="c" * 64, because=HOSTILE, time=middle[-1].time + 3)
    return written(folder, [replace(first, software=software), *middle, *gone, closed])


def long(folder: Path, count: int) -> Path:
    """So many rounds of ten devices."""
    plan = {"rounds": count, "cohort": {"size": 10, "minimum": 7}, "costs": {"joules": 400.0, "grams": 0.1}}
    draw = random.Random(7)

    def change(entry: RoundReleased, now: float) -> RoundReleased:
        return replace(entry, costs=costs(draw, entry.survivors, rate_at(now)))

    attempts = [(number, True) for number in range(1, count + 1)]
    return written(folder, [opened("long", plan), *rounds(draw, attempts, 10, 900.0, change)])
