"""Whether a plan may run on this device: everything that the policy does not allow is refused.

Nothing the plan claims is believed: what it spends is recomputed from the numbers that the trainer will use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fedsus.errors import BudgetExhausted, Refusal
from fedsus.owner.accounts import Standing, check_run
from fedsus.owner.caps import Account, Cap, accounts
from fedsus.owner.charges import (
    UNPROTECTED,
    Charge,
    epsilon_of,
    events_of,
    goal_of,
    released_once,
    turns_of,
)
from fedsus.owner.policy import Policy, Range, TaskPolicy
from fedsus.plan import Plan, Scalar, specification
from fedsus.protection import Distributed, ExamplePrivacy, NoPrivacy, Private

_CAPPED: Final = Cap(0.0, 0.0)
_NOTHING: Final[Mapping[Account, Cap]] = MappingProxyType({})

LEAST_NOISE, MOST_NOISE = 0.1, 100.0
"""Noise multipliers that are accounted for: less protects nothing, more drowns everything and is slow to account."""

LEAST_CLIP = 1e-9
"""Clipping bound below which floating-point numbers run out of digits: at 5e-324, the least number of all, noise of
half the bound is rounded to none, and a plan's denominator scales what is left back up."""


@dataclass(frozen=True)
class Grant:
    """What the owner's policy grants to a plan.

    Attributes:
        task: name in the device's table.
        data_id: the owner's name of the data; the ledger is keyed by it.
        charge: what the run costs, for `fedsus.owner.ledger.Ledger`.
    """

    task: str
    data_id: str
    charge: Charge


def admit(plan: Plan, policy: Policy, tasks: Mapping[str, str], granted: Mapping[Account, Cap] = _NOTHING) -> Grant:
    """What the policy grants to a plan, whatever was spent before.

    Args:
        tasks: the device's own table, ``[tasks]`` of agent.toml.
        granted: caps that the owner granted in the ledger; they stand before the policy's.

    Raises:
        Refusal: with the reason, for the device's own log.
        BudgetExhausted: the run alone spends more than a cap.
    """
    allowed = _task(plan, policy, tasks)
    _settings(plan, allowed)
    _limits(plan, policy)
    if plan.cohort.minimum < policy.cohort.minimum:
        raise Refusal(
            f"cohort minimum {plan.cohort.minimum}: the policy needs at least {policy.cohort.minimum}: [cohort] minimum"
        )
    if plan.exchange == "clear_sum" and not policy.exchange.clear_sum:
        raise Refusal(
            "exchange 'clear_sum' shows this device's update to the server: [exchange] clear_sum is not granted"
        )
    if plan.exchange == "clear_sum" and plan.costs is not None:
        raise Refusal("costs in exchange 'clear_sum' would show the server this device's figure: no policy grants that")
    if plan.exchange == "secure_sum" and not policy.exchange.secure_sum:
        raise Refusal("exchange 'secure_sum': [exchange] secure_sum is not granted")
    if not isinstance(plan.privacy, NoPrivacy):
        return Grant(plan.task.name, allowed.data, _private(plan, plan.privacy, policy, allowed.data, granted))
    unlimited = all(not granted.get(account, _CAPPED).finite for account in accounts(allowed.data))
    if not policy.privacy.without_dp and not unlimited:
        raise Refusal(
            "a run without differential privacy: [privacy] without_dp is not granted; "
            f"'fedsus client ledger grant --data {allowed.data} --unlimited' grants it for this data set alone"
        )
    attempts = plan.rounds + plan.spare_attempts + 1
    return Grant(plan.task.name, allowed.data, Charge(specification(plan), None, math.inf, 0.0, attempts, UNPROTECTED))


def _task(plan: Plan, policy: Policy, tasks: Mapping[str, str]) -> TaskPolicy:
    name = plan.task.name
    if name not in tasks:
        raise Refusal(f"task '{name}' is not installed here: [tasks] of agent.toml has {_listed(tasks)}")
    if name not in policy.tasks:
        raise Refusal(f"task '{name}' is not allowed: policy.toml allows {_listed(policy.tasks)}")
    return policy.tasks[name]


def _settings(plan: Plan, allowed: TaskPolicy) -> None:
    for name, value in plan.task.settings.items():
        where = f"task '{plan.task.name}': setting '{name}' = {value!r}"
        rule = allowed.settings.get(name)
        if rule is None:
            raise Refusal(f"{where}: the policy allows {_listed(allowed.settings)}")
        if isinstance(rule, Range):
            if isinstance(value, bool | str) or not rule.min <= value <= rule.max:
                raise Refusal(f"{where}: the policy allows {rule.min:g} to {rule.max:g}")
        elif not any(_same(value, option) for option in rule):
            raise Refusal(f"{where}: the policy allows {', '.join(map(repr, rule))}")


def _same(value: Scalar, option: Scalar) -> bool:
    """Equal, and not True for 1."""
    return value == option and isinstance(value, bool) == isinstance(option, bool)


def _limits(plan: Plan, policy: Policy) -> None:
    for word, asked, limit in (
        ("local_epochs", plan.training.local_epochs, policy.limits.local_epochs),
        ("rounds", plan.rounds, policy.limits.rounds),
        ("spare_attempts", plan.spare_attempts, policy.limits.spare_attempts),
    ):
        if asked > limit:
            raise Refusal(f"{word} {asked}: the policy allows at most {limit} ([limits] {word})")


def _private(plan: Plan, privacy: Private, policy: Policy, data: str, granted: Mapping[Account, Cap]) -> Charge:
    _mechanism(plan, privacy, policy)
    attempts = plan.rounds + plan.spare_attempts
    if plan.attempt > attempts:
        raise BudgetExhausted(f"attempt {plan.attempt}: a private run has at most {attempts}")
    rows, goal = policy.privacy.rows_per_patient, goal_of(plan)
    events, once = events_of(plan, rows), released_once(plan)
    spends = epsilon_of({events[str(goal)]: 1 if once else attempts}, privacy.delta)
    if not spends <= privacy.epsilon:
        raise Refusal(f"the plan claims epsilon {privacy.epsilon:.6g}; its numbers spend {spends:.6g}")
    charge = Charge(specification(plan), goal, spends, privacy.delta, attempts, events, once, turns_of(plan), rows)
    for account in accounts(data):
        cap = granted.get(account, policy.privacy.cap_of(account))
        if cap is not None and cap.finite:
            check_run(Standing(account), cap, plan.run, charge, policy.privacy.composition)
    return charge


def _mechanism(plan: Plan, privacy: Private, policy: Policy) -> None:
    """Unit, placement, noise and steps: what is quick to check, before anything is computed from it."""
    if plan.purpose != "train":
        raise Refusal(f"purpose '{plan.purpose}' releases metrics; a private run has none")
    units, placements = policy.privacy.units, policy.privacy.placements
    if privacy.unit not in units:
        raise Refusal(f"privacy unit '{privacy.unit}': the policy allows {_listed(units)} ([privacy] units)")
    if privacy.placement not in placements:
        raise Refusal(
            f"noise placement '{privacy.placement}': the policy allows {_listed(placements)} ([privacy] placements)"
        )
    if privacy.clip < LEAST_CLIP:
        raise Refusal(f"clip {privacy.clip:g}: expected at least {LEAST_CLIP:g}, which can carry noise")
    if isinstance(privacy, Distributed) and plan.exchange != "secure_sum":
        raise Refusal(f"exchange '{plan.exchange}': noise in shares protects only under 'secure_sum'")
    if isinstance(privacy, ExamplePrivacy):
        _steps(plan, privacy, policy)


def _steps(plan: Plan, privacy: ExamplePrivacy, policy: Policy) -> None:
    if not LEAST_NOISE <= privacy.noise_multiplier <= MOST_NOISE:
        raise Refusal(f"noise multiplier {privacy.noise_multiplier:g}: expected {LEAST_NOISE:g} to {MOST_NOISE:g}")
    steps = round(plan.training.local_epochs / privacy.sampling_rate)
    if privacy.steps != steps:
        raise Refusal(f"steps {privacy.steps}: local_epochs / sampling_rate is {steps}")
    if steps > policy.limits.steps:
        raise Refusal(f"steps {steps}: the policy allows at most {policy.limits.steps} ([limits] steps)")


def _listed(names: object) -> str:
    """Names for a message, or 'none'."""
    return ", ".join(f"'{name}'" for name in names) or "none"  # type: ignore[attr-defined]
