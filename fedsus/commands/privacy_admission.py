"""Whether an owner's policy would admit a planned run: the checks of a device, before any device is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsus.errors import Refusal

if TYPE_CHECKING:
    from pathlib import Path

    from fedsus.commands.privacy_plan import Planned
    from fedsus.owner.policy import Policy
    from fedsus.privacy.adversaries import Adversary


@dataclass(frozen=True, slots=True)
class Judged:
    """What a policy says.

    Attributes:
        caps: on the epsilon of the unit that the run protects, against each adversary where there is one.
        refusal: the first reason against the run, as a device's log would have it; None where it is admitted.
    """

    file: Path
    caps: dict[Adversary, float]
    refusal: str | None


def judged(plan: Planned, file: Path) -> Judged:
    """Ask the policy in ``file``, for a device on whose data nothing was spent yet.

    Raises:
        ConfigError: the file is not a policy.
    """
    from fedsus.config import load
    from fedsus.owner.admission import admit
    from fedsus.owner.policy import Policy

    policy = load(file, Policy)
    task = plan.specification.config.task.name
    try:
        admit(plan.specification.first_plan, policy, {task: task})
        _session(plan, policy)
    except Refusal as refusal:
        return Judged(file, _caps(plan, policy), str(refusal))
    return Judged(file, _caps(plan, policy), None)


def _caps(plan: Planned, policy: Policy) -> dict[Adversary, float]:
    from fedsus.owner.caps import Account
    from fedsus.privacy.adversaries import ADVERSARIES

    task, (unit, _) = policy.tasks.get(plan.specification.config.task.name), plan.specification.goal
    found = {who: policy.privacy.cap_of(Account(task.data if task else "", unit, who)) for who in ADVERSARIES}
    return {who: cap.epsilon for who, cap in found.items() if cap is not None and cap.finite}


def _session(plan: Planned, policy: Policy) -> None:
    """Numbers and choice of its secure sums.

    Raises:
        Refusal: the policy asks for more.
    """
    from fedsus.owner.cohorts import check_numbers
    from fedsus.rounds.planning.withstood import imagined

    found, asked = plan.found, plan.specification.config.plan
    if found is None or plan.inputs.members is None:
        return
    session = imagined(asked, found, plan.specification.run, "planned")
    check_numbers(session, plan.inputs.members, policy)
    if found.choice == "drawn" and not policy.secure_sum.draws:
        raise Refusal("a cohort that was drawn: [secure_sum] draws is not granted")
    if found.choice == "named" and not policy.secure_sum.named and not plan.inputs.simulated:
        raise Refusal("a cohort that the server chose: [secure_sum] named names nobody")
