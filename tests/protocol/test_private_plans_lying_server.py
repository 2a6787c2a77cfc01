"""A server whose private plans lie: each number that the noise counts on, changed alone, is refused by the device.

The device is whole: its sessions, its policy, its ledger, a task of two parameters. What it must refuse it refuses
before anything is charged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pytest
from noised_plans import METRICS as FOREIGN
from pacts import NOWHERE, plan_for
from pydantic import ValidationError
from secagg_devices import Devices

from fedsus.encoding import residues
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.errors import ConfigError, ProtocolViolation
from fedsus.learning.settings import Compute
from fedsus.owner.charges import epsilon_of, events_of, goal_of, released_once
from fedsus.owner.ledger import Ledger
from fedsus.owner.policy import Policy
from fedsus.plan import Plan, canonical, decode, encode
from fedsus.privacy import sensitivity
from fedsus.privacy.noise import SeededNoise
from fedsus.rounds.device_half.answers import Answer
from fedsus.rounds.device_half.device import Device
from fedsus.rounds.messages import encode_request
from fedsus.secagg.wire import Kind, frames
from fedsus.tasks.task import DataSource
from fedsus.types import LocalUpdate

MODEL: Final = np.zeros(2, dtype=np.float32)
METRICS: Final = [{"name": "loss", "low": 0.0, "high": 10.0}]
SCALE: Final = 32 * math.sqrt(2)
SHARES: Final = {"scale": SCALE, "variance": 16.0 * SCALE**2, "bits": 24, "colluders": 1, "survivors": 3}
CLIENT: Final = {"unit": "client", "placement": "distributed", "delta": 1e-5, "clip": 1.0, "shares": SHARES}
EXAMPLE: Final = CLIENT | {"unit": "example", "sampling_rate": 0.5, "denominator": 8.0}
CENTRAL: Final = {"unit": "client", "placement": "central", "delta": 1e-5, "clip": 1.0, "noise_multiplier": 4.0}
BANDED: Final = CENTRAL | {"banded": {"bands": 2, "participations": 2}}
ADAPTIVE: Final = CENTRAL | {"adaptive": {"noise": 5.0, "quantile": 0.5, "learning_rate": 0.2}}
ONCE: Final = "each attempt is answered once"
POLICY: Final[dict[str, Any]] = {
    "privacy": {
        "epsilon": 20.0,
        "delta": 1e-4,
        "placements": ["local", "distributed", "central"],
        "trusted": ["server"],
    },
    "exchange": {"clear_sum": True},
    "tasks": {"odd": {"data": "mine"}},
}


def a_plan(privacy: dict[str, Any], session: str | None = NOWHERE, epsilon: float | None = None, **more: Any) -> Plan:
    """A plan that claims what its numbers spend, or ``epsilon``."""
    more = {"task": {"name": "odd"}, "metrics": [], "rounds": 3, "spare_attempts": 1} | more
    plan = plan_for(MODEL, session, privacy=privacy | {"epsilon": epsilon or 1000.0}, **more)
    if epsilon is not None:
        return plan
    times = 1 if released_once(plan) else plan.rounds + plan.spare_attempts
    spends = epsilon_of({events_of(plan, None)[str(goal_of(plan))]: times}, 1e-5)
    return a_plan(privacy, session, min(spends, 1000.0), **more)


@dataclass
class Attacked(Devices):
    """The first of four devices is the victim."""

    ledger: Ledger = field(default_factory=lambda: Ledger(None, lambda: 0.0))
    units: tuple[str, ...] = ("example", "client")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.victim = Device(
            policy=Policy.model_validate(POLICY | {"privacy": POLICY["privacy"] | {"units": list(self.units)}}),
            ledger=self.ledger,
            tasks={"odd": "odd_tasks:Sound"},
            sources={"mine": DataSource(__file__)},  # type: ignore[arg-type]  # the task reads nothing
            compute=Compute("cpu", 1),
            noise=SeededNoise(1),
            sessions=self.at[self.names[0]],
        )

    @property
    def model(self) -> bytes:
        return MODEL.tobytes()

    def ask_for(self, privacy: dict[str, Any], epsilon: float | None = None, **more: Any) -> Answer:
        """Open a session that fits the plan, go through its first phases, and ask the victim to contribute."""
        session = {name: more.pop(name) for name in ("colluders", "dropouts", "nonce") if name in more}
        established = self.establish(a_plan(privacy, epsilon=epsilon, **more), **session)
        plan = a_plan(privacy, established.sid.hex(), epsilon, **more)
        return self.victim.answer(self.contribution(established, 0, plan), lambda: False)

    @property
    def charged(self) -> list[int]:
        return [entry["attempt"] for entry in self.ledger.export() if entry["type"] == "reserved"]


def claimed(privacy: dict[str, Any]) -> float:
    """What an honest plan with these numbers says."""
    return a_plan(privacy).privacy.epsilon  # type: ignore[union-attr]


@pytest.mark.parametrize("privacy", [CLIENT, EXAMPLE, CENTRAL, BANDED], ids=["client", "example", "central", "banded"])
def test_the_honest_plan_is_answered(privacy: dict[str, Any]) -> None:
    """The control: each lie below differs from one of these in that alone."""
    attacked = Attacked(units=(privacy["unit"],))
    answer = attacked.ask_for(privacy)
    assert answer.refusal is None
    assert attacked.charged == [1]
    assert not any(frame.refused for frame in frames(answer.body) if frame.kind == Kind.CONTRIBUTE)


LIES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (CLIENT, {"shares": {"variance": 16.0 * SCALE**2 * 2 / 3}}, {}),
    (CLIENT, {"shares": {"scale": SCALE * 1.5}}, {}),
    (CLIENT, {"shares": {"scale": 1e15}}, {}),
    (CLIENT, {"shares": {"variance": 5e-324}}, {}),
    (CLIENT, {"clip": 1.5}, {}),
    (CLIENT, {"clip": 1e9}, {}),
    (CLIENT, {"delta": 1e-6}, {}),
    (CLIENT, {}, {"rounds": 4}),
    (CLIENT, {}, {"spare_attempts": 9}),
    (CLIENT, {"shares": {"metrics": 1e4}}, {"metrics": METRICS}),
    (EXAMPLE, {"sampling_rate": 0.6}, {}),
    (EXAMPLE, {"shares": {"variance": 16.0 * SCALE**2 * 2 / 3}}, {}),
    (CENTRAL, {"noise_multiplier": 3.0}, {}),
    (CENTRAL, {"metrics": 1.0}, {"metrics": METRICS}),
    (ADAPTIVE, {"adaptive": {"noise": 0.1}}, {"clip": 1.0}),
    (BANDED, {"noise_multiplier": 3.0}, {}),
]


@pytest.mark.parametrize(("honest", "lie", "more"), LIES)
def test_numbers_that_spend_more_than_the_plan_claims(
    honest: dict[str, Any], lie: dict[str, Any], more: dict[str, Any]
) -> None:
    attacked = Attacked()
    epsilon = a_plan(honest, **{"clip": 1.0} if honest is ADAPTIVE else {}).privacy.epsilon  # type: ignore[union-attr]
    lying = {name: honest[name] | part if isinstance(part, dict) else part for name, part in lie.items()}
    answer = attacked.ask_for(honest | lying, epsilon, **more)
    assert str(answer.refusal).startswith("the plan claims epsilon")
    assert attacked.charged == []


def test_costs_that_the_noise_was_not_made_for() -> None:
    """Noise for a metric alone, and costs asked for beside it: the larger block spends more than the plan claims."""
    costs = {"joules": 500.0, "grams": 0.25}
    noised = CLIENT | {"shares": SHARES | {"metrics": 16.0 * (sensitivity.METRIC_STEPS / 2) ** 2}}
    honest = Attacked()
    assert honest.ask_for(noised, metrics=METRICS, costs=costs).refusal is None
    assert honest.charged == [1]
    attacked = Attacked()
    epsilon = a_plan(noised, metrics=METRICS).privacy.epsilon  # type: ignore[union-attr]
    answer = attacked.ask_for(noised, epsilon, metrics=METRICS, costs=costs)
    assert str(answer.refusal).startswith("the plan claims epsilon")
    assert attacked.charged == []


@pytest.mark.parametrize(
    ("lie", "session", "reason"),
    [
        ({"survivors": 4}, {}, "its noise needs 4 survivors, its session opens a sum of 3"),
        ({"colluders": 0}, {}, "its noise counts 0 colluders, its session 1"),
        ({"colluders": 2}, {}, "its noise counts 2 colluders, its session 1"),
    ],
)
@pytest.mark.parametrize("honest", [CLIENT, EXAMPLE], ids=["client", "example"])
def test_shares_that_a_sum_need_not_hold(
    honest: dict[str, Any], lie: dict[str, Any], session: dict[str, Any], reason: str
) -> None:
    attacked = Attacked()
    answer = attacked.ask_for(honest | {"shares": SHARES | lie}, **session)
    assert reason in str(answer.refusal)
    assert attacked.charged == []


@pytest.mark.parametrize(
    ("privacy", "more", "reason"),
    [
        (CLIENT | {"clip": 1e-10, "shares": SHARES | {"scale": SCALE * 1e10}}, {}, "clip 1e-10: expected at least"),
        (CLIENT, {"dimension": 3}, "model of 8 bytes, plan says 12"),
        (CLIENT, {"metrics": [FOREIGN[1].model_dump()]}, "the plan's metrics"),
        (CLIENT, {"attempt": 5}, "attempt 5: a private run has at most 4"),
        (ADAPTIVE, {"clip": 1e-300}, "clip 1e-300: expected 1e-09"),
        (ADAPTIVE, {"clip": 5e-324}, "clip 4.94066e-324: expected 1e-09"),
    ],
)
def test_what_does_not_fit_the_device(privacy: dict[str, Any], more: dict[str, Any], reason: str) -> None:
    attacked = Attacked()
    answer = attacked.ask_for(privacy, **more)
    assert reason in str(answer.refusal)
    assert attacked.charged == []


@pytest.mark.parametrize("privacy", [CLIENT, EXAMPLE], ids=["client", "example"])
def test_noise_in_shares_without_a_secure_sum(privacy: dict[str, Any]) -> None:
    attacked = Attacked()
    answer = attacked.victim.answer(encode_request(a_plan(privacy, None), MODEL), lambda: False)
    assert "noise in shares protects only under 'secure_sum'" in str(answer.refusal)
    assert attacked.charged == []


@pytest.mark.parametrize(
    ("privacy", "changes"),
    [
        (CLIENT, {"purpose": "evaluate"}),
        (CLIENT, {"clip": 1.0}),
        (ADAPTIVE, {"clip": None}),
        (EXAMPLE, {"costs": {"joules": 5.0, "grams": 1.0}}),
        (EXAMPLE | {"sampling_rate": 0.0}, {}),
        (CLIENT | {"shares": SHARES | {"colluders": 3}}, {}),
        (CLIENT | {"shares": SHARES | {"variance": 8.1e10}}, {}),
        (CLIENT | {"full_weight": 0.0}, {}),
        (BANDED | {"adaptive": ADAPTIVE["adaptive"]}, {"clip": 1.0}),
    ],
)
def test_plans_that_cannot_be_decoded(privacy: dict[str, Any], changes: dict[str, Any]) -> None:
    honest = a_plan(ADAPTIVE, clip=1.0) if changes.get("clip", 0) is None else a_plan(CLIENT)
    parts = honest.model_dump(mode="json") | changes
    if changes.get("clip", 0) is not None:
        parts["privacy"] = privacy | {"epsilon": 3.0}
    assert decode(encode(honest)) == honest
    with pytest.raises(ProtocolViolation):
        decode(canonical(parts))


def test_an_attempt_is_answered_once_whatever_the_session() -> None:
    attacked = Attacked()
    assert attacked.ask_for(CLIENT).refusal is None
    again = attacked.ask_for(CLIENT, nonce="8" * 64, attempt=2)
    assert again.refusal is None
    for attempt in (1, 2):
        with pytest.raises(KeyError):  # the session is not joined, so the server has no shares for it
            attacked.ask_for(CLIENT, nonce="9" * 64, attempt=attempt)
        assert attacked.refusals[-1].endswith(f"attempt {attempt} is not after round 1, attempt 2; {ONCE}")
    assert attacked.charged == [1, 2]


@pytest.mark.parametrize(
    ("first", "then", "more"),
    [
        (CLIENT, CLIENT | {"shares": SHARES | {"variance": 12.0 * SCALE**2}}, {}),
        (CLIENT, CLIENT | {"full_weight": 3.0}, {}),
        (CLIENT, CLIENT, {"spare_attempts": 2}),
        (BANDED, BANDED | {"banded": {"bands": 1, "participations": 3}}, {"round": 3}),
        (EXAMPLE, EXAMPLE | {"denominator": 9.0}, {}),
    ],
)
def test_a_run_keeps_its_numbers(first: dict[str, Any], then: dict[str, Any], more: dict[str, Any]) -> None:
    """Also where each plan claims what it spends."""
    attacked = Attacked(units=(first["unit"],))
    assert attacked.ask_for(first).refusal is None
    answer = attacked.ask_for(then, nonce="8" * 64, attempt=2, **more)
    assert "its plan changed" in str(answer.refusal)
    assert attacked.charged == [1]


def test_noise_correlated_over_rounds_is_joined_in_turn() -> None:
    attacked = Attacked()
    more = {"rounds": 6}
    for attempt, (round, reason) in enumerate(
        [(1, None), (2, "round 2 is too near"), (3, None), (3, None), (5, "part 3 of 2")], start=1
    ):
        answer = attacked.ask_for(BANDED, nonce=f"{attempt}" * 64, attempt=attempt, round=round, **more)
        assert (reason or "None") in str(answer.refusal)
    assert attacked.charged == [1, 3, 4]


@pytest.mark.parametrize("full_weight", [5e-324, 1e-300, 1e9])
@pytest.mark.parametrize("weight", [0.0, -1.0, 5e-324, 1e308, math.inf, math.nan])
def test_no_weight_makes_an_update_longer(full_weight: float, weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoNoise:
        def draw(self, noise: object, size: int) -> Any:
            return np.zeros(size, dtype=np.int64)

    monkeypatch.setattr("fedsus.encoding.skellam.skellam", lambda variance: NoNoise())
    plan = a_plan(CLIENT | {"full_weight": full_weight}, epsilon=20.0)
    mechanism = mechanism_of(plan)
    with np.errstate(over="ignore"):
        ring = mechanism.encode(LocalUpdate(MODEL + 3.0, weight, np.zeros(0), 0, None), SeededNoise(0))
    whole = residues.signed(ring, mechanism.bits).astype(np.int64)
    assert int(whole @ whole) <= sensitivity.largest_square(1.0, SCALE, 2)


def test_a_bound_for_one_round_that_the_rule_cannot_give_is_refused_by_both_sides() -> None:
    for clip in (1e-10, 5e-324):
        with pytest.raises(ConfigError, match="clip"):
            mechanism_of(a_plan(ADAPTIVE, clip=clip, epsilon=3.0))


def test_a_rate_that_is_next_to_none_is_still_counted_for_each_row_of_a_patient() -> None:
    plan = a_plan(EXAMPLE | {"sampling_rate": 1e-9}, epsilon=3.0)
    assert '"rate":1e-09,"rows":3' in events_of(plan, 3)["patient/server"]
    with pytest.raises(ValidationError, match="sampling_rate"):  # below, 53 bits of a draw do not show it
        a_plan(EXAMPLE | {"sampling_rate": 1e-17}, epsilon=3.0)
    assert '"rate":0.5,"rows":3' in events_of(a_plan(EXAMPLE, epsilon=3.0), 3)["patient/server"]
