"""Whether a plan may run on this device: everything that the policy does not allow is refused.

Nothing the plan claims is believed: what it spends is recomputed from the numbers that the trainer will use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from fedsus.errors import BudgetExhausted, Refusal
from fedsus.owner.policy import Policy, Range, TaskPolicy
from fedsus.plan import Plan, Scalar, decode, encode, specification
from fedsus.privacy.adversaries import Adversary, Unit, spent
from fedsus.protection import ClientCentral, Distributed, ExamplePrivacy, NoPrivacy, Private

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
        event_epsilon: of one attempt, at ``delta``; infinity without differential privacy.
        run_epsilon: of all attempts of the run, recomputed; infinity without differential privacy.
        delta: of the run; 0 without differential privacy.
        attempts: how many attempts ``run_epsilon`` covers.
        specification: hash of all in the plan that must stay the same during a run.
        event: what one attempt spends, JSON, for `fedsus.owner.ledger.Ledger.reserve`.
    """

    task: str
    data_id: str
    event_epsilon: float
    run_epsilon: float
    delta: float
    attempts: int
    specification: str
    event: str = "null"


def admit(plan: Plan, policy: Policy, tasks: Mapping[str, str]) -> Grant:
    """What the policy grants to a plan.

    Args:
        tasks: the device's own table, ``[tasks]`` of agent.toml.

    Raises:
        Refusal: with the reason, for the device's own log.
        BudgetExhausted: the run alone spends more than the cap.
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
    if plan.exchange == "secure_sum" and not policy.exchange.secure_sum:
        raise Refusal("exchange 'secure_sum': [exchange] secure_sum is not granted")
    if not isinstance(plan.privacy, NoPrivacy):
        return _private(plan, plan.privacy, policy, allowed)
    if not policy.privacy.without_dp:
        raise Refusal("a run without differential privacy: [privacy] without_dp is not granted")
    attempts = plan.rounds + plan.spare_attempts + 1
    return Grant(plan.task.name, allowed.data, math.inf, math.inf, 0.0, attempts, specification(plan))


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


def _private(plan: Plan, privacy: Private, policy: Policy, allowed: TaskPolicy) -> Grant:
    _mechanism(plan, privacy, policy)
    attempts, cap = plan.rounds + plan.spare_attempts, policy.privacy.cap
    if plan.attempt > attempts:
        raise BudgetExhausted(f"attempt {plan.attempt}: a private run has at most {attempts}")
    if privacy.delta > cap.delta:
        raise BudgetExhausted(f"delta {privacy.delta:g} of the run: the cap is {cap.delta:g} ([privacy] delta)")
    spends = _epsilon(_whole(plan), attempts)
    if not spends <= privacy.epsilon:
        raise Refusal(f"the plan claims epsilon {privacy.epsilon:.6g}; its numbers spend {spends:.6g}")
    if spends > cap.epsilon:
        raise BudgetExhausted(f"epsilon {spends:.6g} of the run: the cap is {cap.epsilon:g} ([privacy] epsilon)")
    once = _epsilon(_whole(plan), 1)
    text = _event(_whole(plan))
    return Grant(plan.task.name, allowed.data, once, spends, privacy.delta, attempts, specification(plan), text)


def _mechanism(plan: Plan, privacy: Private, policy: Policy) -> None:
    """Unit, placement, noise and steps: what is quick to check, before anything is computed from it."""
    if plan.purpose != "train":
        raise Refusal(f"purpose '{plan.purpose}' releases metrics; a private run has none")
    if privacy.unit not in policy.privacy.units:
        raise Refusal(f"privacy unit '{privacy.unit}': the policy allows {_listed(policy.privacy.units)}")
    if privacy.placement not in policy.privacy.placements:
        raise Refusal(f"noise placement '{privacy.placement}': the policy allows {_listed(policy.privacy.placements)}")
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


def _whole(plan: Plan) -> bytes:
    """A plan without what changes from round to round: what is computed once for a run."""
    adaptive = isinstance(plan.privacy, ClientCentral) and plan.privacy.adaptive is not None
    clip = plan.privacy.clip if adaptive and isinstance(plan.privacy, ClientCentral) else None
    session = None if plan.session is None else "0" * 64
    return encode(
        plan.model_copy(update={"round": 1, "attempt": 1, "model": "0" * 64, "session": session, "clip": clip})
    )


@lru_cache(maxsize=64)
def _epsilon(plan: bytes, attempts: int) -> float:
    """What attempts spend against the strongest adversary that the placement protects from; each round asks again."""
    from fedsus.privacy import accounting

    whole = decode(plan)
    if isinstance(whole.privacy, NoPrivacy):
        return math.inf
    return accounting.epsilon(spent(whole, attempts)[_goal(whole.privacy)], whole.privacy.delta)


@lru_cache(maxsize=64)
def _event(plan: bytes) -> str:
    """One attempt's event against that adversary."""
    from fedsus.privacy import events

    whole = decode(plan)
    if isinstance(whole.privacy, NoPrivacy):
        return "null"
    return events.to_json(spent(whole, 1)[_goal(whole.privacy)])


def _goal(privacy: Private) -> tuple[Unit, Adversary]:
    return privacy.unit, "recipients" if isinstance(privacy, ClientCentral) else "server"


def _listed(names: object) -> str:
    """Names for a message, or 'none'."""
    return ", ".join(f"'{name}'" for name in names) or "none"  # type: ignore[attr-defined]
