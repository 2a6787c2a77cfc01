"""What a simulation does to the plan's exchange: it chooses the cohorts itself, and may leave out the masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.rounds.planning.withstood import imagined, numbers
from fedsus.secagg import thresholds

if TYPE_CHECKING:
    from fedsus.config import PlanConfig, RunConfig
    from fedsus.secagg.session import Session


def chosen(config: RunConfig, registered: int) -> RunConfig:
    """The run with cohorts that the simulation draws from its seed, where there are more clients than one cohort.

    A then counts within the cohort, as if it were the whole roster, unless the scenario says how many: a deployment's
    cohort is drawn by the roster's seed, which no simulation can repeat.
    """
    asked = config.plan
    if asked.exchange == "clear_sum" or registered <= asked.cohort.size:
        return config
    colluders = asked.secure_sum.colluders or thresholds.colluders(asked.cohort.size)
    secure = asked.secure_sum.model_copy(update={"choice": "named", "colluders": colluders})
    return _with(config, secure_sum=secure)


def without_masks(config: RunConfig, registered: int) -> RunConfig:
    """The run in clear, with the least survivors of the secure one as its minimum: it releases the same sums.

    Raises:
        ConfigError: no secure sum of so many clients is safe with the asked numbers.
    """
    asked = config.plan
    if asked.exchange == "clear_sum":
        return config
    found = numbers(asked, registered)
    least = thresholds.floor(asked.cohort.size, found.colluders, found.dropouts, asked.cohort.minimum)
    counted = asked.secure_sum.model_copy(update={"colluders": found.colluders})  # noise in shares goes by it
    cohort = asked.cohort.model_copy(update={"minimum": least})
    return _with(config, exchange="clear_sum", cohort=cohort, secure_sum=counted)


def session_of(config: RunConfig, registered: int) -> Session:
    """A session with the numbers of a secure run: what owners' policies judge of it.

    Raises:
        ConfigError: no secure sum of so many clients is safe with the asked numbers.
    """
    asked = config.plan
    found = numbers(asked, registered)
    return imagined(asked, found, config.name, "simulated")


def _with(config: RunConfig, **changes: object) -> RunConfig:
    plan: PlanConfig = config.plan.model_copy(update=changes)
    return config.model_copy(update={"plan": plan})
