"""One device with what its owner sees, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import fedsus.learning
from fedsus.learning.parameters import flatten
from fedsus.learning.settings import Compute
from fedsus.owner.ledger import Ledger
from fedsus.owner.policy import Policy
from fedsus.plan import Plan
from fedsus.privacy.noise import SeededNoise
from fedsus.rounds.device_half.device import Answer, Device
from fedsus.rounds.device_half.seeds import seeded
from fedsus.rounds.messages import encode_request, model_hash
from fedsus.tasks import heart, registry
from fedsus.tasks.task import DataSource
from fedsus.types import Vector
from fedsus_client.evaluations import Evaluations

HEART = Path(heart.__file__).parent / "data" / "heart"
METRICS = [{"name": "loss", "low": 0.0, "high": 10.0}, {"name": "accuracy", "low": 0.0, "high": 1.0}]
PRIVATE = {
    "unit": "example",
    "placement": "local",
    "epsilon": 20.0,
    "delta": 1e-5,
    "clip": 1.0,
    "sampling_rate": 0.1,
    "steps": 10,
    "denominator": 20.0,
    "noise_multiplier": 1.0,
}
GRANTS: dict[str, Any] = {
    "privacy": {"epsilon": 25.0, "delta": 1e-4, "without_dp": True},
    "cohort": {"minimum": 3},
    "exchange": {"clear_sum": True},
    "tasks": {name: {"data": "mine"} for name in ("heart", "odd")},
}


def a_plan(model: Vector, **changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "run": "run",
        "round": 1,
        "attempt": 1,
        "rounds": 2,
        "spare_attempts": 2,
        "model": model_hash(model),
        "dimension": len(model),
        "task": {"name": "heart"},
        "training": {},
        "privacy": {"unit": "none"},
        "encoding": {},
        "metrics": METRICS,
        "cohort": {"size": 4, "minimum": 3},
        "deadline": 60.0,
    }
    return Plan.model_validate_json(json.dumps(fields | changes))


def initial(task: str = "heart") -> Vector:
    return flatten(registry.build(registry.resolve(task), {}).model(0))


@dataclass
class Owned:
    """A device with what its owner sees, and whether anything was trained."""

    folder: Path
    device: Device
    ledger: Ledger
    trained: list[str] = field(default_factory=list)

    def ask(self, model: Vector, stop: bool = False, **changes: Any) -> Answer:
        return self.device.answer(encode_request(a_plan(model, **changes), model), lambda: stop)

    def entries(self) -> list[tuple[str, int]]:
        return [(entry["type"], entry["attempt"]) for entry in self.ledger.export() if "attempt" in entry]


def noted_trainers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which trainers will be made."""
    made, original = [], fedsus.learning.trainer_for

    def noted(task: Any, unit: Any, *rest: Any) -> Any:
        made.append(unit)
        return original(task, unit, *rest)

    monkeypatch.setattr(fedsus.learning, "trainer_for", noted)
    return made


def owned_devices(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What makes devices of an owner, until the ledgers are closed."""
    ledgers, trained = [], noted_trainers(monkeypatch)

    def owned(task: str = "Sound", data: Path | None = None, **grants: Any) -> Owned:
        ledger = Ledger(None, lambda: 0.0)
        ledgers.append(ledger)
        device = Device(
            policy=Policy.model_validate(GRANTS | grants),
            ledger=ledger,
            tasks={"heart": "heart", "odd": f"odd_tasks:{task}"},
            sources={"mine": DataSource(data or HEART / "va.csv")},
            compute=Compute("cpu", 1),
            noise=SeededNoise(1),
            seeds=seeded(7, "va"),
            report=Evaluations(folder, lambda: 5.0),
        )
        return Owned(folder, device, ledger, trained)

    yield owned
    for ledger in ledgers:
        ledger.close()
