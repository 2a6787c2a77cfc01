"""What a run spent of privacy, for the receipt: epsilon of each unit against each adversary, and the masked sums."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedsus.encoding.costs import told_rounding, told_spread
from fedsus.privacy.adversaries import ADVERSARIES, UNITS, spent
from fedsus.privacy.sensitivity import METRIC_STEPS, client_metrics
from fedsus.privacy.stated import rounded
from fedsus.protection import ClientCentral, Distributed, ExampleDistributed, ExamplePrivacy, NoPrivacy
from fedsus.reporting.figures import Absent
from fedsus.reporting.predicate import Loss, PrivacySpent, SecureSum
from fedsus.rounds.planning.withstood import numbers

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from fedsus.plan import Plan
    from fedsus.privacy.adversaries import Adversary, Unit
    from fedsus.rounds.planning.specification import Specification


def privacy(specification: Specification, attempts: int) -> PrivacySpent:
    """What ``attempts`` attempts spent: all that were opened, whether or not they released anything.

    Raises:
        Refusal: an epsilon cannot be computed.
    """
    here = specification.privacy
    private = not isinstance(here, NoPrivacy)
    return PrivacySpent(
        unit=here.unit,
        placement=None if isinstance(here, NoPrivacy) else here.placement,
        asked_epsilon=specification.config.plan.privacy.epsilon if private else None,
        attempts=attempts,
        losses=tuple(_losses(specification, attempts)),
    )


def epsilons(specification: Specification, attempts: int) -> dict[tuple[Unit, Adversary], float]:
    """Epsilon of each unit against each adversary, not rounded; 0 where nobody was asked anything.

    Raises:
        Refusal: one cannot be computed.
    """
    from fedsus.privacy.accounting import epsilon

    here = specification.privacy
    if attempts == 0:
        return {(unit, who): 0.0 for who in ADVERSARIES for unit in UNITS}
    if isinstance(here, NoPrivacy):
        return {(unit, who): math.inf for who in ADVERSARIES for unit in UNITS}
    events = spent(specification.first_plan, attempts)
    return {key: epsilon(event, here.delta) for key, event in events.items()}


def _losses(specification: Specification, attempts: int) -> Iterator[Loss]:
    here = specification.privacy
    delta = None if isinstance(here, NoPrivacy) else here.delta
    for (unit, who), found in epsilons(specification, attempts).items():
        said = rounded(found)
        yield Loss(
            unit=unit,
            adversary=who,
            epsilon=said if isinstance(said, float) else "infinite",
            delta=delta,
            goal=not isinstance(here, NoPrivacy) and (unit, who) == specification.goal,
            assumptions=tuple(_assumptions(specification, unit, who, protected=not math.isinf(found))),
        )


def _assumptions(specification: Specification, unit: Unit, who: Adversary, *, protected: bool) -> Iterator[str]:
    here = specification.privacy
    if isinstance(here, NoPrivacy):
        yield "no differential privacy was asked for"
        return
    if not protected:
        yield _unprotected(specification, unit, who)
        return
    yield _adversary(specification, who)
    yield _adjacency(specification, unit)
    yield "each attempt counts in full, whether it released a model or not; no sampling of clients is counted"
    if isinstance(here, ExamplePrivacy):
        yield "each device runs the plan's own training code and draws its batches and its noise itself"
    elif isinstance(here, ClientCentral):
        yield "the server adds the noise of the plan, keeps it secret, and clips as the plan says"
    else:
        yield (
            f"each sum holds the noise of at least {_clients(here.shares.survivors)}, of whom at most "
            f"{here.shares.colluders} may tell the adversary theirs; noise of one client alone hides little"
        )
    if isinstance(here, ExampleDistributed) and here.shares.metrics is not None:
        yield "metrics and costs count in full, unsampled: one example may move all that its client tells of them"


def _unprotected(specification: Specification, unit: Unit, who: Adversary) -> str:
    if isinstance(specification.privacy, ClientCentral) and who == "server":
        return "not protected: the server adds the noise, and sees the sums without it"
    if unit == "patient":
        return "not protected: nothing in a plan bounds how many examples one patient has; each owner's ledger may"
    if unit == "client" and specification.privacy.unit == "example":
        return "not protected: what bounds one example says nothing about all of a client"
    return "not protected: the noise is too small for any epsilon"


def _adversary(specification: Specification, who: Adversary) -> str:
    here = specification.privacy
    some = "any clients"
    if isinstance(here, Distributed):
        some = f"at most {_clients(here.shares.colluders)} of each cohort"
    return {
        "server": f"the adversary is the server, which may lie, and works with {some}",
        "clients": f"the adversary is {some}; the server is honest",
        "recipients": "the adversary sees the released models alone, and knows nobody's share of the noise",
    }[who]


def _clients(count: int) -> str:
    return f"{count} client{'s' * (count != 1)}"


def _adjacency(specification: Specification, unit: Unit) -> str:
    if unit == "example":
        at_most = (
            "" if specification.privacy.unit == "example" else "; bounded by twice what bounds its client's update"
        )
        return f"adjacent: one example is added or left out{at_most}"
    if unit == "patient":
        return "adjacent: all of one patient's examples change; bounded by twice what bounds the client's update"
    return "adjacent: one client's update is replaced by zeros; who takes part is public"


def secure_sum(specification: Specification) -> SecureSum | Absent:
    """The parameters that each device recomputed before it took part."""
    asked = specification.config.plan
    if asked.exchange != "secure_sum":
        return Absent(absent="the sum is in clear: the server saw each client's encoded update")
    found = numbers(asked, specification.roster)
    return SecureSum(
        choice=found.choice,
        colluders=found.colluders,
        dropouts=found.dropouts,
        threshold=found.thresholds.threshold,
        neighbours=found.thresholds.neighbours,
        rule=found.thresholds.rule,
        minimum=asked.cohort.minimum,
    )


def metric_deviation(plan: Plan, name: str, survivors: int) -> float:
    """Standard deviation of the noise in the mean of a metric over the survivors; 0 without noise."""
    here, metric = plan.privacy, next((one for one in plan.metrics if one.name == name), None)
    if metric is None or survivors == 0:
        return 0.0
    step = (metric.high - metric.low) / METRIC_STEPS / survivors
    if isinstance(here, Distributed) and here.shares.metrics is not None:
        return step * math.sqrt(here.shares.metrics * survivors)
    if isinstance(here, ClientCentral) and here.metrics is not None:
        return step * here.metrics * client_metrics(plan.told).l2
    return 0.0


def costs_deviation(plan: Plan, name: str, survivors: Counter[int]) -> float:
    """Standard deviation of the noise in the sum of the devices' reports of one cost; 0 without noise.

    Args:
        survivors: how many were in a round's sum -> how many rounds had so many.
    """
    found = (rounds * told_spread(plan, count).get(name, 0.0) ** 2 for count, rounds in sorted(survivors.items()))
    return math.sqrt(math.fsum(found))


def most_told(plan: Plan, name: str, survivors: Counter[int]) -> float:
    """The most that the sum can be: the plan's bound of each report."""
    return plan.cost_ranges[name][1] * sum(count * rounds for count, rounds in survivors.items())


def costs_rounding(plan: Plan, name: str, survivors: Counter[int]) -> float:
    """The most that rounding to integers moves that sum."""
    found = (rounds * told_rounding(plan, count).get(name, 0.0) for count, rounds in sorted(survivors.items()))
    return math.fsum(found)
