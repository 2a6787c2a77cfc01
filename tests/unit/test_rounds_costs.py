"""What devices used, in the sum of a round: exact, told once, and in nothing that leaves a device but masked input."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from fake_meter import FakeMeter, stated
from pacts import plan_for
from secagg_devices import Devices, losing

from fedsus import plan as plans
from fedsus.config import RunConfig
from fedsus.costs import PHASES
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.errors import CohortTooSmall, EnvironmentFault
from fedsus.learning.settings import Compute
from fedsus.owner import days
from fedsus.owner.consumption import Consumption
from fedsus.owner.ledger import Ledger
from fedsus.owner.policy import Policy
from fedsus.plan import Plan
from fedsus.privacy.noise import SeededNoise
from fedsus.rounds.device_half.answers import Answer
from fedsus.rounds.device_half.device import Device
from fedsus.rounds.device_half.seeds import seeded
from fedsus.rounds.device_half.sessions import Sessions
from fedsus.rounds.messages import REFUSAL, declined, encode_hour, encode_request, refusal
from fedsus.rounds.planning.specification import specified
from fedsus.rounds.server_half.exchange import conduct
from fedsus.secagg import client as clients
from fedsus.secagg import wire
from fedsus.secagg.client import Advertised
from fedsus.secagg.exchange import Patience, secure_sum
from fedsus.secagg.keys import Agreement
from fedsus.secagg.server import Established
from fedsus.secagg.wire import Kind
from fedsus.tasks.heart import HOSPITALS, shipped
from fedsus.tasks.task import DataSource
from fedsus.types import Ring

MODEL = np.zeros(34, dtype=np.float32)
GRANTS: dict[str, Any] = {
    "privacy": {"without_dp": True},
    "exchange": {"clear_sum": True},
    "tasks": {"heart": {"data": "mine"}},
}
NOON = 1_800_000_000.0 - 1_800_000_000.0 % 86_400 + 43_200
BOUND = 1024.0
METRICS = [{"name": "loss", "low": 0.0, "high": 10.0}, {"name": "accuracy", "low": 0.0, "high": 1.0}]
EXAMPLES = {
    "unit": "example",
    "placement": "distributed",
    "epsilon": 8.0,
    "delta": 1e-5,
    "denominator": 60.0,
    "metrics_share": 0.3,
}


@dataclass
class Metered(Devices):
    """Four hospitals' devices, each with a meter that says exact numbers."""

    grants: dict[str, Any] = field(default_factory=dict)
    price: bool = True

    def __post_init__(self) -> None:
        self.now = NOON
        super().__post_init__()
        self.meters = {name: FakeMeter(each=2.0**-number) for number, name in enumerate(self.names)}
        self.devices = {name: self._owned(name, number) for number, name in enumerate(self.names)}
        self.sent: list[tuple[str, Kind, bytes]] = []

    def _owned(self, name: str, number: int) -> Device:
        options: dict[str, Any] = {"price": stated} if self.price else {}
        consumption = Consumption(self.meters[name], None, lambda: self.now, **options)
        sessions: Sessions = self.at[name]
        sessions.consumption = consumption
        return Device(
            policy=Policy.model_validate(GRANTS | self.grants),
            ledger=Ledger(None, lambda: 0.0),
            tasks={"heart": "heart"},
            sources={"mine": DataSource(shipped(HOSPITALS[number]))},
            compute=Compute("cpu", 1),
            noise=SeededNoise(number),
            seeds=seeded(7, name),
            sessions=sessions,
            consumption=consumption,
        )

    def answer(self, name: str, raw: bytes) -> Answer:
        device = self.devices[name]
        answer = device.answer(raw, lambda: False)
        if answer.refusal is not None:
            self.refusals.append(answer.refusal)
        answer.sent()
        self.sent += [(name, frame.kind, bytes(frame.body)) for frame in wire.frames(answer.body)]
        return answer

    @property
    def model(self) -> bytes:
        return MODEL.astype("<f4").tobytes()

    def plan(self, session: str = "0" * 64, **changes: Any) -> Plan:
        asked = {"costs": {"joules": BOUND, "grams": BOUND}, "metrics": METRICS}
        return plan_for(MODEL, session, **asked | changes)

    def told(self, **changes: Any) -> dict[str, float]:
        """One attempt; the sums of what its survivors told."""
        plan = self.plan(**changes)
        nonce = hashlib.sha256(str(sorted(changes.items())).encode()).hexdigest()
        established = self.establish(plan, nonce=nonce)
        plan = self.plan(established.sid.hex(), **changes)
        found = self.summing(established, plan)
        _, mean = mechanism_of(plan).release({}, found.total, found.survivors, SeededNoise(1))
        return dict(zip(plan.cost_ranges, mean.costs.tolist(), strict=True))

    def summing(self, established: Established, plan: Plan) -> Any:
        mechanism, raw = mechanism_of(plan), plans.encode(plan)
        request = (raw, self.model)
        asking = secure_sum(established, plans.digest(raw), request, mechanism.size, mechanism.bits, Patience(10.0))
        return conduct(asking, self).summed

    def rest(self) -> None:
        for device in self.devices.values():
            device.consumption.rest()

    def untold(self, run: str = "run-1") -> float:
        found = [device.consumption._reports.untold.get(run) for device in self.devices.values()]
        return sum(one.total for one in found if one is not None)

    @property
    def used(self) -> float:
        self.rest()
        return sum(meter.taken for meter in self.meters.values())


def close(value: float) -> Any:
    """What a sum of four rounded to fixed point is."""
    return pytest.approx(value, abs=BOUND * 4 / 2**29)


def test_the_sum_is_exact_and_names_how_it_was_found() -> None:
    fleet = Metered()
    fleet.meters[fleet.names[3]].method = "modelled"
    found = fleet.told()
    entered = {name: meter.entered.copy() for name, meter in fleet.meters.items()}
    weights = [meter.each for meter in fleet.meters.values()]
    for name in fleet.names:  # phases 0 and 1, contribute; the two after it are in the next report
        assert entered[name] == [
            "crypto",
            "crypto",
            "crypto",
            "load",
            "evaluate",
            "train",
            "encode",
            "crypto",
            "crypto",
        ]
    until = {"crypto": 3, "load": 1, "evaluate": 1, "train": 1, "encode": 1}
    for phase in PHASES:
        assert found[f"joules_{phase}"] == close(until.get(phase, 0) * sum(weights)), phase
    total = 7 * sum(weights)
    assert (found["joules"], found["grams"]) == (close(total), close(total))
    assert found["spread"] == close(0.75 * total)
    assert (found["devices"], found["counted"], found["priced"]) == (4, 3, 4)


def test_the_rest_of_a_round_is_told_by_the_next_and_nothing_twice() -> None:
    fleet = Metered()
    told = fleet.told(round=1, attempt=1)["joules"]
    assert fleet.untold() == 0.0, "taken when the next report is made"
    told += fleet.told(round=2, attempt=2)["joules"]
    assert fleet.used - fleet.untold() == close(told)
    assert fleet.untold() == 2 * sum(meter.each for meter in fleet.meters.values())


def test_an_abandoned_attempt_is_told_by_the_one_that_repeats_it() -> None:
    fleet = Metered()
    fleet.lose = losing(fleet.names, Kind.CONFIRM)
    with pytest.raises(CohortTooSmall):
        fleet.told(round=1, attempt=1)
    fleet.lose = lambda *_: False
    told = fleet.told(round=1, attempt=2)["joules"]
    assert told == close(sum((5 + 2 + 7) * meter.each for meter in fleet.meters.values()))
    assert fleet.used - fleet.untold() == close(told)


@pytest.mark.parametrize("phase", [Kind.CONFIRM, Kind.UNMASK])
def test_a_device_that_misses_the_end_is_in_the_sum_and_does_not_tell_it_again(phase: Kind) -> None:
    fleet = Metered()
    first = fleet.names[0]
    fleet.lose = losing([first], phase)
    told = fleet.told(round=1, attempt=1)
    assert told["devices"] == 4
    fleet.lose = lambda *_: False
    more = fleet.told(round=2, attempt=2)["joules"]
    assert fleet.used - fleet.untold() == close(told["joules"] + more)


def test_a_device_that_saw_the_survivors_certified_does_not_tell_again_whatever_the_server_asks() -> None:
    fleet = Metered()
    fleet.lose = losing(fleet.names[1:], Kind.UNMASK)
    with pytest.raises(CohortTooSmall):
        fleet.told(round=1, attempt=1)
    fleet.lose = lambda *_: False
    others = sum(fleet.meters[name].each for name in fleet.names[1:])
    assert fleet.told(round=1, attempt=2)["joules"] == close((2 + 7) * 1.0 + (8 + 7) * others)


def test_a_training_that_fails_tells_its_cost_in_the_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Metered()
    failing = fleet.devices[fleet.names[0]]
    with monkeypatch.context() as broken:
        broken.setattr(failing, "_trained", lambda *_: 1 / 0)
        assert fleet.told(round=1, attempt=1)["devices"] == 3
    told = fleet.told(round=2, attempt=2)
    others = [fleet.meters[name].each for name in fleet.names[1:]]
    assert (told["devices"], told["joules"]) == (4, close((6 + 7) * 1.0 + (2 + 7) * sum(others)))


def test_two_runs_are_told_apart_and_waiting_belongs_to_none() -> None:
    fleet = Metered()
    one = fleet.told(run="run-1")["joules"]
    fleet.rest()
    for meter in fleet.meters.values():
        meter.use("wait", 100.0)
    fleet.rest()
    other = fleet.told(run="run-2")["joules"]
    fleet.rest()
    assert one == other == close(7 * sum(meter.each for meter in fleet.meters.values()))
    assert fleet.untold("run-1") + fleet.untold("run-2") + one + other + 400 == close(fleet.used)


def test_an_owner_who_reports_nothing_adds_zeros_and_is_not_told_apart() -> None:
    fleet = Metered(grants={"reports": {"costs": False}})
    assert set(fleet.told().values()) == {0.0}


def test_under_the_example_unit_the_sum_is_noised_and_holds_what_was_used() -> None:
    """The same noise twice, and one device that used 256 joules more: the sums differ by that, and gradients do not."""
    asked = {
        "rounds": 3,
        "spare_attempts": 3,
        "cohort": {"size": 4, "minimum": 4},
        "secure_sum": {"colluders": 1, "dropouts": 0},
        "costs": {"joules": BOUND, "grams": BOUND},
        "privacy": EXAMPLES,
    }
    config = RunConfig.model_validate({"task": {"name": "heart"}, "plan": asked})
    privacy = specified("run-1", config, len(MODEL), 4).privacy.model_dump(mode="json")
    grants = {"privacy": {"units": ["example"], "placements": ["distributed"], "epsilon": 8.0, "delta": 1e-5}}
    found, sizes = [], []
    for more in (0.0, 256.0):
        fleet = Metered(grants=grants)
        fleet.meters[fleet.names[1]].use("train", more)
        found.append(fleet.told(privacy=privacy, metrics=[], cohort={"size": 4, "minimum": 4}))
        sizes.append(abs(found[-1]["joules"]))
    assert found[1]["joules"] - found[0]["joules"] == pytest.approx(256.0, abs=BOUND / 4096)
    assert found[1]["grams"] - found[0]["grams"] == pytest.approx(256.0, abs=BOUND / 4096)
    assert found[0].keys() == {"joules", "grams"} and max(sizes) > 2 * BOUND, "seven ranges of noise"


def test_a_report_that_is_not_asked_for_is_not_made() -> None:
    fleet = Metered()
    assert fleet.told(costs=None) == {}
    assert all(not device.consumption._reports.flights for device in fleet.devices.values())


def test_a_meter_that_fails_fails_no_round_and_one_that_must_not_refuses() -> None:
    fleet = Metered()
    for name in fleet.names[:2]:
        fleet.meters[name].failing = EnvironmentFault("no permission to read the counter")
    assert fleet.told(round=1, attempt=1)["devices"] == 2
    strict = fleet.devices[fleet.names[0]].consumption
    strict._refuse = ("meter",)
    summed = fleet.told(round=2, attempt=2)
    assert summed["devices"] == 2
    assert any("no permission to read the counter ([energy] missing" in reason for reason in fleet.refusals)


def test_near_its_cap_a_device_sits_out_before_a_session_and_comes_back_on_the_next_day() -> None:
    fleet = Metered()
    first = fleet.devices[fleet.names[0]]
    first.policy = Policy.model_validate(GRANTS | {"budget": {"joules": 20.0}})
    assert [fleet.told(round=1, attempt=1)["devices"], fleet.told(round=2, attempt=2)["devices"]] == [4, 4]
    fleet.rest()
    assert first.consumption.standing(first.policy.budget).today.total == 18.0
    fleet.sent.clear()
    assert fleet.told(round=3, attempt=3)["devices"] == 3
    refused = [kind for name, kind, body in fleet.sent if name == fleet.names[0]]
    assert refused == [Kind.ADVERTISE], "it is asked no more in that session"
    (reason,) = fleet.refusals
    assert reason.startswith("[budget] joules: ")
    assert "takes part again from" in reason
    fleet.now += 86_400
    assert fleet.told(round=4, attempt=4)["devices"] == 4


def test_a_session_that_waits_for_its_training_takes_a_round_of_the_day() -> None:
    fleet = Metered()
    first = fleet.devices[fleet.names[0]]
    first.policy = Policy.model_validate(GRANTS | {"budget": {"joules": 30.0}})
    fleet.told(round=1, attempt=1)
    fleet.rest()
    joined = []
    for run in ("run-1", "run-2", "run-3"):
        attempt = 2 if run == "run-1" else 1
        fleet.sent.clear()
        fleet.establish(fleet.plan(run=run, round=attempt, attempt=attempt), nonce=f"{attempt}" * 63 + run[-1])
        joined.append(Kind.SHARE in {kind for name, kind, _ in fleet.sent if name == fleet.names[0]})
    assert joined == [True, True, False], "17 J are left: one round of 9 J would fit, three do not"


@pytest.mark.parametrize("told", [True, False])
def test_a_clear_request_counts_and_sits_out_without_a_reason_on_the_wire(told: bool) -> None:
    fleet = Metered()
    device, meter = fleet.devices["ada"], fleet.meters["ada"]
    device.policy = Policy.model_validate(GRANTS | {"budget": {"joules": 14.0, "tell_until": told}})
    bodies = []
    for attempt in (1, 2, 3):
        raw = encode_request(plan_for(MODEL, None, round=attempt, attempt=attempt), MODEL)
        bodies.append(device.answer(raw, lambda: False).body)
        device.consumption.rest()
    midnight = math.ceil(days.ends(fleet.now, "UTC") / 3600)
    assert bodies[2] == (refusal(encode_hour(midnight)) if told else REFUSAL), (
        "an hour of its owner's clock, or nothing"
    )
    assert [declined(body) for body in bodies] == [None, None, midnight if told else 0]
    assert meter.entered[:6] == ["load", "load", "evaluate", "train", "encode", "encode"]


def test_no_server_hears_of_the_day_by_a_request_in_clear_that_the_policy_refuses_anyway() -> None:
    """It costs nothing and trains nothing: asked again and again, it would tell when the budget is spent."""
    fleet = Metered()
    device = fleet.devices["ada"]
    raw = [encode_request(plan_for(MODEL, None, round=attempt, attempt=attempt), MODEL) for attempt in (1, 2)]
    device.policy = Policy.model_validate(GRANTS | {"budget": {"joules": 2.0}})
    assert declined(device.answer(raw[0], lambda: False).body) is None
    device.consumption.rest()
    device.policy = Policy.model_validate(GRANTS | {"budget": {"joules": 2.0}, "exchange": {"clear_sum": False}})
    assert device.answer(raw[1], lambda: False).body == REFUSAL
    device.policy = Policy.model_validate(GRANTS | {"budget": {"joules": 2.0}})
    assert declined(device.answer(raw[1], lambda: False).body), "allowed, and over its cap"


def test_a_session_is_refused_with_the_hour_and_no_other_refusal_has_one() -> None:
    fleet = Metered()
    out, other = fleet.devices[fleet.names[0]], fleet.devices[fleet.names[1]]
    out.policy = Policy.model_validate(GRANTS | {"budget": {"joules": 2.0}})
    other.policy = Policy.model_validate(GRANTS | {"cohort": {"minimum": 100}})
    fleet.told(round=1, attempt=1)
    fleet.rest()
    fleet.sent.clear()
    with pytest.raises(CohortTooSmall):
        fleet.told(round=2, attempt=2)
    bodies = {name: body for name, kind, body in fleet.sent if kind == Kind.ADVERTISE}
    midnight = math.ceil(days.ends(fleet.now, "UTC") / 3600)
    assert bodies[fleet.names[0]] == encode_hour(midnight)
    assert bodies[fleet.names[1]] == b""


@contextmanager
def drawn_alike() -> Iterator[None]:
    """Keys and secrets of all clients come from one stream that begins alike each time."""
    counter = iter(range(10**6))

    def draw(length: int) -> bytes:
        return hashlib.shake_256(str(next(counter)).encode()).digest(length)

    advertise, share = clients.advertise, Advertised.share
    with ExitStack() as stack:
        stack.enter_context(
            patch.object(Agreement, "generate", lambda: Agreement(X25519PrivateKey.from_private_bytes(draw(32))))
        )
        stack.enter_context(
            patch("fedsus.rounds.device_half.sessions.advertise", lambda seat, now: advertise(seat, now, draw))
        )
        stack.enter_context(
            patch.object(Advertised, "share", lambda self, adverts, now: share(self, adverts, now, draw))
        )
        yield


def unmasked(fleet: Metered) -> dict[str, Ring]:
    """One attempt; each device's integers before they are masked."""
    found = {}

    def noted(name: str, real: Any) -> Any:
        def encoded(*given: Any) -> Ring:
            ring: Ring = real(*given)
            found[name] = ring.copy()
            return ring

        return encoded

    with ExitStack() as stack:
        for name, device in fleet.devices.items():
            stack.enter_context(patch.object(device, "encoded", noted(name, device.encoded)))
        stack.enter_context(drawn_alike())
        fleet.told()
    return found


def test_what_a_device_used_is_in_its_masked_input_and_in_nothing_else_that_it_sends() -> None:
    """Two federations that differ in what their meters say alone: all their messages are equal, but for the masked
    inputs and the signatures of these; and without masks these differ in the block of costs alone."""
    first, other = Metered(), Metered()
    other.pact, other.roster = first.pact, first.roster
    for name in other.names:
        other.meters[name].each *= 64
        other.at[name].identity = first.at[name].identity
    rings = [unmasked(fleet) for fleet in (first, other)]
    pairs = list(zip(first.sent, other.sent, strict=True))
    assert {ours[1] for ours, theirs in pairs if ours != theirs} == {Kind.CONTRIBUTE}
    assert all(len(ours[2]) == len(theirs[2]) for ours, theirs in pairs)
    costs = len(first.plan().cost_ranges)
    for name in first.names:
        differs = np.flatnonzero(rings[0][name] != rings[1][name])
        assert len(differs) >= 3
        assert differs.min() >= len(rings[0][name]) - costs
