"""What a device refuses, each with a plan that differs from an admitted one in that alone."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from fedsus.errors import BudgetExhausted, Refusal
from fedsus.owner.admission import admit, specification
from fedsus.owner.caps import KEYS
from fedsus.owner.filters import NON_PRIVATE
from fedsus.owner.policy import Policy
from fedsus.plan import Plan
from fedsus.privacy import rdp
from fedsus.privacy.accounting import dp_sgd_event, epsilon

TASKS = {"heart": "heart", "extra": "my_package:Task"}
NOISE, RATE, STEPS, ROUNDS, SPARES, DELTA = 2.0, 0.1, 10, 5, 2, 1e-5
SPENDS = epsilon(dp_sgd_event(NOISE, RATE, STEPS * (ROUNDS + SPARES)), DELTA)


def plan(**changes: Any) -> Plan:
    """A private plan that the policy below allows; dotted parts are given as nested dictionaries."""
    fields: dict[str, Any] = {
        "run": "r1",
        "round": 1,
        "attempt": 1,
        "rounds": ROUNDS,
        "spare_attempts": SPARES,
        "model": "0" * 64,
        "dimension": 10,
        "task": {"name": "heart", "settings": {"hidden": 16, "rate": 0.5}},
        "training": {"local_epochs": 1},
        "privacy": {
            "unit": "example",
            "epsilon": SPENDS,
            "delta": DELTA,
            "clip": 1.0,
            "sampling_rate": RATE,
            "steps": STEPS,
            "denominator": 16.0,
            "noise_multiplier": NOISE,
        },
        "encoding": {},
        "cohort": {"size": 4, "minimum": 3},
        "deadline": 60.0,
    }
    for name, value in changes.items():
        fields[name] = {**fields[name], **value} if isinstance(value, dict) and "unit" not in value else value
    return Plan.model_validate(fields)


def policy(**changes: Any) -> Policy:
    """Allows the plan above."""
    fields: dict[str, Any] = {
        "privacy": {"epsilon": 8.0, "delta": 1e-4},
        "cohort": {"minimum": 3},
        "exchange": {"clear_sum": True},
        "limits": {"local_epochs": 2, "rounds": 10, "spare_attempts": 5, "steps": 100},
        "tasks": {"heart": {"data": "clinic", "settings": {"hidden": [8, 16], "rate": {"min": 0.1, "max": 1.0}}}},
    }
    for name, value in changes.items():
        fields[name] = {**fields[name], **value}
    return Policy.model_validate(fields)


def test_an_allowed_plan_is_granted_at_what_it_really_spends() -> None:
    generous = plan(privacy={"epsilon": SPENDS + 1})
    grant = admit(generous, policy(), TASKS)
    charge = grant.charge
    assert (grant.task, grant.data_id, charge.delta, charge.attempts) == ("heart", "clinic", DELTA, ROUNDS + SPARES)
    assert (charge.goal, charge.epsilon) == ("example/server", SPENDS)
    assert charge.specification == specification(generous)
    assert set(charge.events) == set(KEYS)
    assert {charge.events[key] for key in KEYS if key.startswith("client/")} == {NON_PRIVATE}


def test_an_empty_policy_refuses() -> None:
    with pytest.raises(Refusal):
        admit(plan(), Policy(), TASKS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": {"name": "unknown"}}, "not installed here"),
        ({"task": {"name": "extra", "settings": {}}}, "not allowed"),
        ({"task": {"settings": {"hidden": 32}}}, "the policy allows 8, 16"),
        ({"task": {"settings": {"hidden": "16"}}}, "the policy allows 8, 16"),
        ({"task": {"settings": {"rate": 1.5}}}, "0.1 to 1"),
        ({"task": {"settings": {"rate": True}}}, "0.1 to 1"),
        ({"task": {"settings": {"rate": "0.5"}}}, "0.1 to 1"),
        ({"task": {"settings": {"depth": 2}}}, "'hidden', 'rate'"),
        ({"rounds": 11}, "rounds 11: the policy allows at most 10"),
        ({"spare_attempts": 6}, "spare_attempts 6"),
        ({"training": {"local_epochs": 3}, "privacy": {"steps": 30}}, "local_epochs 3"),
        ({"cohort": {"size": 4, "minimum": 2}}, "cohort minimum 2"),
        ({"privacy": {"steps": 9}}, "steps 9"),
        ({"privacy": {"steps": 11}}, "steps 11"),
        ({"privacy": {"noise_multiplier": 0.05}}, "expected 0.1 to 100"),
        ({"privacy": {"noise_multiplier": 101.0}}, "expected 0.1 to 100"),
        ({"privacy": {"clip": 5e-324}}, "clip 4.94066e-324: expected at least 1e-09"),
        ({"privacy": {"sampling_rate": 1e-3, "steps": 1000}}, r"steps 1000: the policy allows at most 100"),
        ({"privacy": {"unit": "none"}}, "without_dp is not granted"),
    ],
)
def test_refused_by_policy(changes: dict[str, Any], reason: str) -> None:
    admit(plan(), policy(), TASKS)
    with pytest.raises(Refusal, match=reason):
        admit(plan(**changes), policy(), TASKS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"privacy": {"units": []}}, r"privacy unit 'example': the policy allows none \(\[privacy\] units\)"),
        ({"privacy": {"placements": []}}, r"noise placement 'local': .* none \(\[privacy\] placements\)"),
        ({"exchange": {"clear_sum": False}}, "clear_sum is not granted"),
        ({"cohort": {"minimum": 4}}, "cohort minimum 3"),
        ({"tasks": {"heart": {"data": "clinic"}}}, "the policy allows none"),
    ],
)
def test_refused_by_a_stricter_policy(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Refusal, match=reason):
        admit(plan(), policy(**changes), TASKS)


@pytest.mark.parametrize(
    "lie", [{"epsilon": SPENDS * 0.999}, {"noise_multiplier": NOISE * 2 / 3}, {"sampling_rate": 0.11, "steps": 9}]
)
def test_a_plan_that_claims_less_than_it_spends_is_refused(lie: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match="claims epsilon") as caught:
        admit(plan(privacy=lie), policy(), TASKS)
    assert not isinstance(caught.value, BudgetExhausted)


def test_more_attempts_than_the_noise_was_calibrated_for_are_refused() -> None:
    with pytest.raises(Refusal, match="claims epsilon"):
        admit(plan(spare_attempts=SPARES + 1), policy(), TASKS)


def test_beyond_the_caps() -> None:
    for composition in ("runs", "renyi"):
        with pytest.raises(BudgetExhausted, match=r"example against server: run 'r1' asks epsilon .* the cap 0\.5"):
            admit(plan(), policy(privacy={"epsilon": 0.5, "composition": composition}), TASKS)
    runs = {"epsilon": SPENDS, "delta": DELTA, "composition": "runs"}
    admit(plan(), policy(privacy=runs), TASKS)
    with pytest.raises(BudgetExhausted, match="asks delta 1e-05; 0 of the cap 1e-06 is spent"):
        admit(plan(), policy(privacy=runs | {"delta": 1e-6}), TASKS)


def test_a_filter_charges_more_than_a_run_that_was_fixed_beforehand() -> None:
    """Its line says how much, how many attempts would fit, which cap would do, and the other ways out."""
    tight = {"epsilon": SPENDS, "delta": DELTA}
    with pytest.raises(BudgetExhausted) as caught:
        admit(plan(), policy(privacy=tight), TASKS)
    found = re.search(r"asks epsilon ([\d.]+), 1\d\d% .* filter of order (\d+); 0% is spent", str(caught.value))
    assert found is not None
    asked, order = float(found[1]), int(found[2])
    assert asked == pytest.approx(SPENDS, abs=1e-3)  # as its plan says
    needed = re.search(r"grant a cap of epsilon ([\d.]+), which lets it pass at its best order", str(caught.value))
    assert needed is not None
    cap = float(needed[1])
    whole = rdp.rdp(dp_sgd_event(NOISE, RATE, STEPS * (ROUNDS + SPARES)))
    assert SPENDS < cap == pytest.approx(rdp.epsilon_of(whole, rdp.ORDERS, DELTA)[0], rel=1e-3)
    assert cap < rdp.epsilon_of(whole[[rdp.ORDERS.index(order)]], (order,), DELTA)[0] * 1.001
    for words in ("5 of 7 attempts would fit", "ask for less epsilon", 'composition = "runs"'):
        assert words in str(caught.value)
    admit(plan(), policy(privacy={"epsilon": cap, "delta": DELTA}), TASKS)
    with pytest.raises(BudgetExhausted) as closer:
        admit(plan(), policy(privacy={"epsilon": cap * 0.998, "delta": DELTA}), TASKS)
    assert f"a cap of epsilon {cap:g}, " in str(closer.value)
    with pytest.raises(BudgetExhausted) as lower:
        admit(plan(), policy(privacy={"epsilon": SPENDS * 0.99, "delta": DELTA}), TASKS)
    assert "composition" not in str(lower.value)  # charged whole it would not fit either


def test_a_private_run_has_no_extra_attempt_and_no_evaluation() -> None:
    last = ROUNDS + SPARES
    admit(plan(attempt=last), policy(), TASKS)
    with pytest.raises(BudgetExhausted, match=f"attempt {last + 1}"):
        admit(plan(attempt=last + 1), policy(), TASKS)
    evaluating = plan().model_copy(update={"purpose": "evaluate"})  # decoding refuses it already
    with pytest.raises(Refusal, match="releases metrics"):
        admit(evaluating, policy(), TASKS)


def test_a_granted_run_without_privacy_is_infinite() -> None:
    grant = admit(plan(privacy={"unit": "none"}), policy(privacy={"without_dp": True}), TASKS)
    charge = grant.charge
    assert (charge.goal, charge.epsilon, charge.delta) == (None, math.inf, 0.0)
    assert charge.attempts == ROUNDS + SPARES + 1
    assert set(charge.events.values()) == {NON_PRIVATE}


def test_the_specification_covers_all_but_what_a_round_changes() -> None:
    base = specification(plan())
    same: list[dict[str, Any]] = [{"round": 2}, {"attempt": 2}, {"model": "1" * 64}]
    other: list[dict[str, Any]] = [
        {"run": "r2"},
        {"rounds": 6},
        {"spare_attempts": 1},
        {"dimension": 11},
        {"deadline": 61.0},
        {"task": {"settings": {"hidden": 8}}},
        {"training": {"batch_size": 17}},
        {"privacy": {"clip": 2.0}},
        {"privacy": {"denominator": 15.0}},
        {"encoding": {"bits": 24}},
        {"cohort": {"size": 5}},
    ]
    assert all(specification(plan(**changes)) == base for changes in same)
    assert len({base, *(specification(plan(**changes)) for changes in other)}) == len(other) + 1
    clear = plan(privacy={"unit": "none"})
    assert specification(clear) == specification(clear.model_copy(update={"purpose": "evaluate"}))
