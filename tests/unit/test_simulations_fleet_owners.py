"""Owners of simulated clients: each distinct policy is asked once a plan, and refuses for its own clients alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simulated import Crowd, Places, a_fleet, a_plan, ask, run_config

from fedsus.config import RunConfig, loads, validate
from fedsus.errors import ConfigError
from fedsus.owner import admission
from fedsus.owner.policy import Policy
from fedsus.plan import Plan
from fedsus.types import Partial, Refused
from fedsus_simulations.clients import owners as module
from fedsus_simulations.clients.fleet import fleet_of
from fedsus_simulations.clients.owners import Owners
from fedsus_simulations.scenario.config import Scenario
from fedsus_simulations.scenario.owners import OwnersConfig
from fedsus_simulations.scenario.sums import chosen, without_masks

TASKS = {"heart": "heart"}
SECURE = """
[privacy]
without_dp = true
[cohort]
minimum = 1
[tasks.heart]
data = "patients"
"""
CLEAR = SECURE + "[exchange]\nclear_sum = true\n"
STRICT = CLEAR + "[limits]\nrounds = 2\n"
CAREFUL = SECURE.replace("minimum = 1", "minimum = 8")


def policy(text: str) -> Policy:
    return loads(text, Policy, "policy.toml")


def owners(*texts: str, share: float = 0.25, clients: int = 40, config: RunConfig | None = None) -> Owners:
    """A share of the clients each; of a run in clear, or of one with masks that are left out."""
    asked = [OwnersConfig(share=share, policy=policy(text)) for text in texts]
    return Owners.of(asked, config or run_config(3, 1, "clear_sum"), TASKS, 1, clients)


def allowed(found: Owners, plan: Plan) -> list[bool]:
    """Of each policy, the granting one last, whether its clients may be asked."""
    grants = found.grant(plan, np.arange(len(found.kinds)))
    answers = [set(grants[found.kinds == kind]) for kind in range(len(found.policies))]
    assert all(len(answer) == 1 for answer in answers)
    return [bool(answer.pop()) for answer in answers]


def test_a_policy_refuses_for_its_clients_alone() -> None:
    found = owners(STRICT, CLEAR)
    assert np.bincount(found.kinds).tolist() == [10, 10, 20]
    plan, workers = a_plan(40), Places()
    fleet = a_fleet(40, workers=workers, owners=found)
    replies = list(fleet.ask(ask(plan, list(fleet.population.names))))
    refused = {reply.client for reply in replies if isinstance(reply, Refused)}
    assert refused == {fleet.population.names[int(at)] for at in np.flatnonzero(found.kinds == 0)}
    answered = {name for reply in replies if isinstance(reply, Partial) for name in reply.clients}
    assert answered == set(fleet.population.names) - refused
    assert not {at for block in workers.trained for at in block} & set(np.flatnonzero(found.kinds == 0))


def test_admission_runs_once_for_each_distinct_policy_of_a_cohort(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Policy] = []

    def counting(plan: Plan, policy: Policy, tasks: Any) -> admission.Grant:
        asked.append(policy)
        return admission.admit(plan, policy, tasks)

    monkeypatch.setattr(module, "admit", counting)
    found = owners(STRICT, CLEAR, clients=3000)
    fleet = a_fleet(3000, owners=found, stack=100)
    for attempt in (1, 2):
        plan = a_plan(1000, attempt=attempt)
        assert len(list(fleet.ask(ask(plan, list(fleet.population.names[:1000]))))) > 100
        assert len(asked) == 3 * attempt
    lone = [fleet.population.names[int(at)] for at in np.flatnonzero(found.kinds == 1)[:5]]
    list(fleet.ask(ask(a_plan(5, attempt=3), lone)))
    assert asked[6:] == [found.policies[1]]


def test_without_masks_owners_judge_the_secure_plan_that_is_meant() -> None:
    config = chosen(run_config(10, 3), 40)
    plan = a_plan(10, cohort={"size": 10, "minimum": 7})
    assert without_masks(config, 40).plan.cohort.minimum == 7
    assert allowed(owners(SECURE, CLEAR, share=0.3, config=config), plan) == [True, True, True]
    nobody = SECURE + "[exchange]\nsecure_sum = false\nclear_sum = true\n"
    assert allowed(owners(nobody, config=config), plan) == [False, True]
    # the plan says 3, whatever a run without masks insists on
    assert allowed(owners(CAREFUL, config=config), plan) == [False, True]
    assert allowed(owners(CAREFUL, config=chosen(run_config(10, 8), 40)), plan) == [True, True]


def test_numbers_of_the_secure_sum_count_without_masks() -> None:
    many = SECURE + "[secure_sum]\ncolluders = 4\n"
    few = SECURE + "[secure_sum]\ncolluders = 2\n"
    whole = SECURE + "[secure_sum]\ndropout = 0.05\n"
    numbers = {"colluders": 3, "dropouts": 1, "choice": "named"}
    found = owners(many, few, whole, config=run_config(10, secure_sum=numbers))
    assert allowed(found, a_plan(10)) == [False, True, False, True]


def test_why_clients_refuse_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    found = owners(STRICT, CLEAR)
    for attempt in (1, 2):
        found.grant(a_plan(40, attempt=attempt), np.arange(40))
    reason = "rounds 3: the policy allows at most 2 ([limits] rounds)"
    assert caplog.messages == [f"the owners of 10 of 40 clients refuse: {reason}"]
    caplog.clear()
    owners(
        SECURE + "[secure_sum]\ncolluders = 4\n", config=run_config(10, secure_sum={"colluders": 3, "choice": "named"})
    )
    assert caplog.messages == [
        "the owners of 10 of 40 clients refuse: 3 colluders: at least 4 are needed ([secure_sum] colluders)"
    ]


def test_a_run_in_clear_is_judged_as_it_is() -> None:
    assert allowed(owners(SECURE, CLEAR), a_plan(10)) == [False, True, True]


def test_policies_are_found_beside_the_scenario_and_kept_in_it(tmp_path: Path) -> None:
    from fedsus_simulations.running.saved import canonical

    (tmp_path / "strict.toml").write_text(STRICT, encoding="utf-8")
    given = scenario(owners=[{"share": 0.5, "policy": "strict.toml"}, {"share": 0.1, "policy": {"cohort": {}}}])
    found = given.with_policies(tmp_path)
    assert [one.policy for one in found.owners] == [policy(STRICT), Policy()]
    assert loads(canonical(found), Scenario) == found
    assert found.with_policies(tmp_path / "elsewhere") == found
    assert scenario().with_policies(tmp_path) == scenario()


def test_masks_make_no_difference_to_the_terms_of_a_scenario() -> None:
    given = scenario(owners=[{"share": 0.5, "policy": policy(CAREFUL)}])
    for exchange, expected in (("secure_sum", [False, True]), ("clear_sum", [False, True])):
        asked = given.model_copy(update={"plan": given.plan.model_copy(update={"exchange": exchange})})
        fleet = fleet_of(asked, asked.run_config(20), Crowd(20), Places(), 4, "heart")
        assert fleet.owners.config.plan.exchange == exchange
        assert allowed(fleet.owners, a_plan(5, cohort={"size": 5, "minimum": 3})) == expected


def scenario(**changes: Any) -> Scenario:
    fields = {
        "task": {"name": "heart"},
        "plan": {"rounds": 3, "cohort": {"size": 5, "minimum": 3}},
        "population": {"data": "heart"},
        "simulation": {"masks": "none"},
    }
    return validate(fields | changes, Scenario, "scenario.toml")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"share": 0.7, "policy": ""}], "owners.0.policy"),
        ([{"share": 0.0, "policy": "a.toml"}], "'owners.0.share' = 0.0"),
        ([{"share": 0.5, "policy": "a.toml", "polices": 1}], "unknown field 'owners.0.polices'"),
        ([{"share": 0.5}], "field 'owners.0.policy' is missing"),
    ],
)
def test_mistakes_in_the_table_are_one_line(entries: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ConfigError) as found:
        scenario(owners=entries)
    assert message in str(found.value) and "\n" not in str(found.value)


def test_a_policy_that_is_not_there_or_shares_of_too_many_are_named(tmp_path: Path) -> None:
    given = scenario(owners=[{"share": 0.7, "policy": "strict.toml"}])
    with pytest.raises(ConfigError, match=r"strict\.toml: no such file"):
        given.with_policies(tmp_path)
    with pytest.raises(ConfigError, match="their shares add up to 1.4; at most 1 is all clients"):
        owners(STRICT, CLEAR, share=0.7)
