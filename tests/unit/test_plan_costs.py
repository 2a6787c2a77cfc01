"""The costs block of a plan: nobody's figure is asked for where it would be seen, and older plans keep their bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from noised_plans import client_central, client_distributed, example_distributed, plan_of

from fedsus import plan as plans
from fedsus.config import RunConfig, loads
from fedsus.costs import PHASES, Costs
from fedsus.errors import ConfigError, ProtocolViolation, Refusal
from fedsus.owner.admission import admit
from fedsus.owner.policy import Policy
from fedsus.protection import ExamplePrivacy, NoPrivacy
from fedsus.rounds.planning.demands import check_deployed

COSTS = Costs(joules=500.0, grams=0.25)
HIDDEN: dict[str, Any] = {"exchange": "secure_sum", "session": "0" * 64}
LOCAL = ExamplePrivacy(
    epsilon=8.0, delta=1e-5, clip=1.0, sampling_rate=0.1, steps=10, denominator=20.0, noise_multiplier=1.0
)
RUN = """
[task]
name = "t"
[plan]
rounds = 2
cohort = { size = 4, minimum = 3 }
"""


def test_plans_from_before_costs_and_reductions_keep_bytes_and_hash() -> None:
    """Hashes of plans as they were: of runs that are under way, and of what owners' ledgers hold."""
    for privacy, before in (
        (NoPrivacy(), "035e6bc384c297e58198a6220374d8045f5a33736781347a8092a4e80a7c85be"),
        (client_distributed(40, metrics=9.0), "b35c263fbecaa513d4a90c2e26b35d65d6780fdd513eb3b3ac55ff629f0ce069"),
    ):
        plan = plan_of(privacy, 40, True)
        assert plans.specification(plan) == before
        raw = plans.encode(plan)
        assert b"costs" not in raw and b"uplink" not in raw
        assert plans.decode(raw) == plan
        with pytest.raises(ProtocolViolation, match="canonical"):
            plans.decode(plans.canonical({**json.loads(raw), "costs": None}))


@pytest.mark.parametrize("privacy", [NoPrivacy(), client_distributed(40, metrics=9.0), client_central(metrics=0.1)])
def test_a_plan_with_costs_comes_back_and_they_cannot_change_during_a_run(privacy: Any) -> None:
    plan = plan_of(privacy, 40, True, costs=COSTS, **HIDDEN)
    assert plans.decode(plans.encode(plan)) == plan
    others = [None, Costs(joules=500.0, grams=0.5), Costs(joules=501.0, grams=0.25)]
    found = {plans.specification(plan.model_copy(update={"costs": other})) for other in [*others, COSTS]}
    assert len(found) == 4


def test_what_a_plan_names() -> None:
    assert plan_of(NoPrivacy(), 40).cost_ranges == {}
    exact = plan_of(NoPrivacy(), 40, costs=COSTS, **HIDDEN).cost_ranges
    assert list(exact)[:3] == ["joules", "grams", "spread"] and len(exact) == 6 + len(PHASES)
    noised = plan_of(client_central(metrics=0.1), 40, costs=COSTS, **HIDDEN).cost_ranges
    assert noised == {"joules": (0.0, 500.0), "grams": (0.0, 0.25)}


@pytest.mark.parametrize(
    ("privacy", "exchange", "said"),
    [
        (client_central(), HIDDEN, "no noise is set aside"),
        (client_distributed(40), HIDDEN, "no noise is set aside"),
        (example_distributed(40), HIDDEN, "no noise is set aside"),
        (LOCAL, HIDDEN, "no noise is set aside"),
    ],
)
def test_no_private_plan_asks_for_a_figure_without_noise(privacy: Any, exchange: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan_of(privacy, 40, True, costs=COSTS, **exchange)
    fields = json.loads(plans.encode(plan_of(privacy, 40, True, **exchange)))
    with pytest.raises(ProtocolViolation, match=said):
        plans.decode(plans.canonical({**fields, "costs": {"joules": 500.0, "grams": 0.25}}))


@pytest.mark.parametrize("bad", [0.0, -1.0, 1e10, "5", None])
def test_bounds_are_positive_numbers(bad: Any) -> None:
    fields = json.loads(plans.encode(plan_of(NoPrivacy(), 40, **HIDDEN)))
    with pytest.raises(ProtocolViolation, match=r"costs\.joules"):
        plans.decode(plans.canonical({**fields, "costs": {"joules": bad, "grams": 0.25}}))


def test_run_toml() -> None:
    block = "[plan.costs]\njoules = 500\ngrams = 0.25\n"
    assert loads(RUN, RunConfig).plan.costs is None
    assert loads(RUN + block, RunConfig).plan.costs == COSTS
    for text, said in (
        (RUN + "[plan.costs]\njoules = 0.0\ngrams = 1.0\n", "'plan.costs.joules' = 0.0"),
        (RUN + "[plan.costs]\njoules = 9.0\n", "'plan.costs.grams' is missing"),
        (RUN + block + "watts = 3.0\n", "unknown field 'plan.costs.watts'"),
    ):
        with pytest.raises(ConfigError) as caught:
            loads(text, RunConfig)
        assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("privacy", [NoPrivacy(), client_central(metrics=1.0), client_distributed(40, metrics=9.0)])
def test_no_policy_lets_the_server_see_a_figure(privacy: Any) -> None:
    """A simulation without masks may sum it in clear; no device answers that, and no run with it is opened."""
    everything = {
        "exchange": {"clear_sum": True, "secure_sum": True},
        "privacy": {"without_dp": True, "placements": ["local", "distributed", "central"], "units": ["client"]},
        "tasks": {"t": {"data": "mine"}},
    }
    policy = Policy.model_validate(everything)
    with pytest.raises(Refusal, match="this device's figure"):
        admit(plan_of(privacy, 40, costs=COSTS), policy, {"t": "t"})
    if isinstance(privacy, NoPrivacy):
        admit(plan_of(privacy, 40), policy, {"t": "t"})
        admit(plan_of(privacy, 40, costs=COSTS, **HIDDEN), policy, {"t": "t"})


def test_no_run_that_asks_for_it_in_clear_is_opened() -> None:
    text = RUN + 'exchange = "clear_sum"\n[plan.costs]\njoules = 500\ngrams = 0.25\n'
    with pytest.raises(
        ConfigError, match=r"plan\.costs: in exchange = 'clear_sum' the server would see each device's"
    ) as said:
        check_deployed(loads(text, RunConfig))
    assert "\n" not in str(said.value)
    check_deployed(loads(text.replace("clear_sum", "secure_sum"), RunConfig))


def test_a_share_of_the_budget_may_be_for_costs_alone() -> None:
    private = '[plan.privacy]\nunit = "client"\nepsilon = 3.0\ndelta = 1e-5\nmetrics_share = 0.2\n'
    assert loads(RUN + private + "[plan.costs]\njoules = 5\ngrams = 1\n", RunConfig).plan.costs is not None
    with pytest.raises(ConfigError, match="no metrics are asked for, and no costs"):
        loads(RUN + private, RunConfig)
