"""Metrics and costs beside sums of gradients: what one example may move, what that costs, and who is not fooled."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from functools import cache
from typing import Any

import dp_accounting as dpa
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noised_plans import COLLUDERS, SURVIVORS, example_distributed, plan_of

from fedsus import plan as plans
from fedsus.config import RunConfig, validate
from fedsus.costs import Costs
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.errors import BudgetExhausted, ConfigError, Refusal
from fedsus.owner.admission import admit
from fedsus.owner.policy import Policy
from fedsus.plan import Plan
from fedsus.privacy.accounting import epsilon
from fedsus.privacy.adversaries import ADVERSARIES, spent
from fedsus.privacy.events import SkellamDpEvent
from fedsus.privacy.noise import SeededNoise
from fedsus.privacy.sensitivity import METRIC_STEPS
from fedsus.protection import MOST_VARIANCE, ExampleDistributed
from fedsus.rounds.planning.specification import Specification, specified
from fedsus.types import LocalUpdate

DIMENSION = 8
HIDDEN: dict[str, Any] = {"costs": Costs(joules=500.0, grams=0.25), "exchange": "secure_sum", "session": "0" * 64}
METRICS = [{"name": "loss", "low": 0.0, "high": 10.0}, {"name": "accuracy", "low": 0.0, "high": 1.0}]
STEPS: dict[str, Any] = {
    "unit": "example",
    "placement": "distributed",
    "epsilon": 3.0,
    "delta": 1e-5,
    "denominator": 200.0,
    "metrics_share": 0.2,
}


def told(variance: float | None = 9.0, metrics: bool = True, **changes: Any) -> Plan:
    """A plan that sends two metrics and two costs."""
    privacy = example_distributed(DIMENSION, variance=1e5, metrics=variance)
    return plan_of(privacy, DIMENSION, metrics, **(HIDDEN if variance else {}) | changes)


def asked(privacy: dict[str, Any], **changes: Any) -> RunConfig:
    plan: dict[str, Any] = {
        "rounds": 20,
        "cohort": {"size": 20, "minimum": 18},
        "exchange": "clear_sum",
        "secure_sum": {"colluders": 2},
        "privacy": STEPS | privacy,
        "metrics": METRICS,
        "costs": {"joules": 500.0, "grams": 0.25},
    }
    return validate({"task": {"name": "heart"}, "plan": plan | changes}, RunConfig, "run.toml")


@cache
def made(share: float | None = 0.2, rounds: int = 20) -> Specification:
    return specified("one", asked({"metrics_share": share}, rounds=rounds), 1000)


def shares(found: Specification) -> Any:
    assert isinstance(found.privacy, ExampleDistributed)
    return found.privacy.shares


@pytest.mark.parametrize("rows", [None, 3])
def test_the_block_is_a_whole_range_for_everyone_and_never_sampled(rows: int | None) -> None:
    plan, plain = told(), told(None, metrics=False)
    for survivors in (None, SURVIVORS + 1):
        for adversary in ADVERSARIES:
            here = survivors or SURVIVORS
            honest = here if adversary == "recipients" else here - COLLUDERS
            block = SkellamDpEvent(4 * METRIC_STEPS, math.sqrt(4) * METRIC_STEPS, 9.0 * honest)
            found, alone = (spent(one, 1, survivors, rows) for one in (plan, plain))
            for unit in ("example", "patient") if rows else ("example",):
                event = found[unit, adversary]  # type: ignore[index]
                gradients, beside = event.events
                assert beside == block
                assert gradients == alone[unit, adversary], "the gradients keep their event"  # type: ignore[index]
                assert not isinstance(gradients, SkellamDpEvent), "they are sampled"
            assert isinstance(found["client", adversary], dpa.NonPrivateDpEvent)


def test_what_tells_nothing_is_as_it_was() -> None:
    """Bytes and hash of a plan from before, and its event."""
    plan = told(None, metrics=False)
    assert isinstance(spent(plan, 1)["example", "server"], dpa.PoissonSampledDpEvent)
    before = "abc88b3ad4d5310e9cde13f3c10c69ccf1a5beb34e65f9263658d61e8a6a1532"
    assert hashlib.sha256(plans.encode(plan)).hexdigest() == before


@cache
def mechanism() -> Any:
    return mechanism_of(told())


def ring(mean: float, held_out: int, costs: list[float], weight: float = 1.0) -> Any:
    """A client's integers, of one noise and one sum of gradients."""
    delta = np.linspace(-1.0, 1.0, DIMENSION)
    with np.errstate(all="ignore"):
        totals = np.array([mean, mean]) * held_out
    update = LocalUpdate(delta, weight, totals, held_out, None, np.array(costs))  # type: ignore[arg-type]
    return mechanism().encode(update, SeededNoise(5)).astype(np.int64)


ANY = st.one_of(st.floats(), st.floats(-20, 20), st.just(math.nan))
CLIENT = st.tuples(ANY, st.integers(0, 50), st.one_of(st.just([]), st.lists(ANY, min_size=2, max_size=2)))


@given(one=CLIENT, other=CLIENT)
@settings(deadline=None, max_examples=60)
def test_nothing_moves_a_block_further_or_the_gradients_at_all(one: Any, other: Any) -> None:
    """Failed metrics, no held-out rows, reports that are absent, negative or no numbers: all are in the range."""
    first, second = ring(*one), ring(*other)
    assert (first[:DIMENSION] == second[:DIMENSION]).all()
    moved = (first - second + 2**31) % 2**32 - 2**31
    assert np.abs(moved).max() <= METRIC_STEPS


def test_one_example_can_move_all_of_it() -> None:
    low, high = ring(-1.0, 1, [0.0, 0.0]), ring(99.0, 1, [1e9, 1e9])
    moved = (high - low + 2**31) % 2**32 - 2**31
    assert moved.tolist() == [0] * DIMENSION + [METRIC_STEPS] * 4


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_block_alone_spends_its_share_and_both_spend_epsilon(share: float) -> None:
    found = made(share)
    block = dpa.SelfComposedDpEvent(SkellamDpEvent(4 * 4096, 2 * 4096, shares(found).metrics * 16), found.attempts)
    assert 0.999 * share * 3.0 < epsilon(block, 1e-5) <= share * 3.0
    assert 0.999 * 3.0 < found.epsilon(found.attempts) <= 3.0
    assert shares(found).variance > shares(made(0.05) if share > 0.05 else made(None)).variance
    assert mechanism_of(found.first_plan).size == 1024 + 4


def admitted(found: Specification, cap: float = 10.0, **lies: Any) -> Any:
    """What an owner's device makes of a run's plan, with other numbers in it."""
    privacy = found.privacy.model_copy(update=lies)
    plan = found.first_plan.model_copy(update={"privacy": privacy, "exchange": "secure_sum", "session": "0" * 64})
    policy = Policy.model_validate(
        {
            "exchange": {"secure_sum": True},
            "privacy": {"units": ["example"], "placements": ["distributed"], "epsilon": cap, "delta": 1e-5},
            "tasks": {"heart": {"data": "mine"}},
            "cohort": {"minimum": 3},
        }
    )
    return admit(plans.decode(plans.encode(plan)), policy, {"heart": "heart"}).charge


@pytest.mark.parametrize("factor", [1 / 4, 0.1**2], ids=["half the range", "as if sampled"])
def test_a_plan_with_too_little_noise_is_charged_what_it_costs(factor: float) -> None:
    found = made()
    assert admitted(found).epsilon == pytest.approx(found.epsilon(found.attempts))
    lying = shares(found).model_copy(update={"metrics": shares(found).metrics * factor})
    with pytest.raises(Refusal, match=r"the plan claims epsilon 3; its numbers spend \d"):
        admitted(found, shares=lying)
    with pytest.raises(BudgetExhausted, match="cap 3.01"):
        admitted(found, cap=3.01, shares=lying, epsilon=100.0)
    if factor == 1 / 4:
        assert admitted(found, cap=8.0, shares=lying, epsilon=100.0).epsilon > 3.1


def test_more_that_is_told_is_charged_more() -> None:
    found = made()
    few = found.first_plan.model_copy(update={"costs": None})
    assert epsilon(spent(few, 22)["example", "server"], 1e-5) < found.epsilon(22)


def refused(config: RunConfig, dimension: int = 1000) -> str:
    with pytest.raises(ConfigError) as caught:
        specified("one", config, dimension)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def test_a_share_that_no_device_can_carry_names_one_that_fits_and_rounds_that_do() -> None:
    text = refused(asked({"metrics_share": 0.03}))
    assert text.startswith("plan.privacy.metrics_share = 0.03: one example may move all that its client tells")
    least = float(text.split("metrics_share = ")[2].split(" ")[0])
    rounds = int(text.rsplit("at most ", 1)[1].removesuffix(" rounds"))
    assert shares(specified("one", asked({"metrics_share": least}), 1000)).metrics > 0.99 * MOST_VARIANCE
    refused(asked({"metrics_share": least * 0.99}))
    specified("one", asked({"metrics_share": 0.03}, rounds=rounds), 1000)
    refused(asked({"metrics_share": 0.03}, rounds=rounds + 1))


def test_sums_too_wide_for_any_bits_name_how_many_clients_fit() -> None:
    few = {"metrics_share": 0.0015}
    text = refused(asked(few, cohort={"size": 1_000_000, "minimum": 999_000}, metrics=[]))
    assert "tell beside the update need 33 bits, 32 are there" in text
    fits = int(text.split("ask for at most ")[1].removesuffix(" clients"))
    found = specified("one", asked(few, cohort={"size": fits, "minimum": fits - 1000}, metrics=[]), 1000)
    assert shares(found).bits == 32 and fits > 950_000


def test_an_epsilon_that_is_not_reached_names_one_that_is() -> None:
    """What is told has a share of the larger epsilon too."""
    fine = {"granularity": 2048.0, "metrics_share": 0.5}
    text = refused(asked(fine), 2**20)
    assert text.endswith(", a granularity below 2048, a metrics_share below 0.5")
    least = float(text.split("ask for epsilon = ")[1].split(" ")[0])
    specified("one", asked(fine | {"epsilon": least}), 2**20)
    refused(asked(fine | {"epsilon": least * 0.998}), 2**20)


def test_on_the_device_alone_there_is_no_noise_for_it() -> None:
    with pytest.raises(ConfigError, match=r"'metrics_share' needs placement = 'distributed'.*unit = 'client'"):
        asked({"placement": "local"})


def test_a_sum_in_clear_and_a_plan_without_noise_tell_nothing() -> None:
    plain = replace(made(None), config=made().config)
    assert plain.first_plan.told == 0 and not plain.first_plan.metrics
    assert made().first_plan.told == 4
