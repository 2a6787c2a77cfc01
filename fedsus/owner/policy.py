"""``policy.toml``: what a data owner allows. Whatever is not written there is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Discriminator, Field, Tag, model_validator

from fedsus.plan import Name, Scalar, Strict


class Cap(NamedTuple):
    """The most that all private runs on one data set may spend together."""

    epsilon: float
    delta: float


class PrivacyPolicy(Strict):
    """``[privacy]``: how much may be learned about one unit.

    Attributes:
        epsilon: cap for each data id over all private runs, ever; 0, the default, grants nothing.
        delta: cap on the sum of the runs' deltas; 0, the default, grants nothing.
        units: who is protected; "example": one row of the data.
        placements: where noise is added; "local": on this device, before anything leaves it.
        without_dp: True also allows runs without differential privacy. Their epsilon is infinity: they stand
            outside the caps, and the ledger lists them.
    """

    epsilon: Annotated[float, Field(ge=0, le=1000)] = 0.0
    delta: Annotated[float, Field(ge=0, lt=1)] = 0.0
    units: list[Literal["example"]] = Field(default=["example"])
    placements: list[Literal["local"]] = Field(default=["local"])
    without_dp: bool = False

    @property
    def cap(self) -> Cap:
        """Both caps."""
        return Cap(self.epsilon, self.delta)


class CohortPolicy(Strict):
    """``[cohort]``: ``minimum`` is the smallest number of clients whose sum this device joins."""

    minimum: Annotated[int, Field(ge=1, le=1_000_000)] = 3


class ExchangePolicy(Strict):
    """``[exchange]``: ``clear_sum = true`` lets the server see this device's own encoded update."""

    clear_sum: bool = False


class LimitsPolicy(Strict):
    """``[limits]``: how much work one run may ask.

    Attributes:
        local_epochs: most passes over the data in one round.
        rounds: most rounds of one run.
        spare_attempts: most repeated attempts of one run.
        steps: most batches of one round of a private run; it also bounds the work of accounting for them.
    """

    local_epochs: Annotated[int, Field(ge=1, le=1000)] = 10
    rounds: Annotated[int, Field(ge=1, le=100_000)] = 1000
    spare_attempts: Annotated[int, Field(ge=0, le=200_000)] = 200
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000


class Range(Strict):
    """Numbers from ``min`` to ``max``, both included."""

    min: float
    max: float

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.min > self.max:
            raise ValueError(f"min {self.min:g} is larger than max {self.max:g}")
        return self


def _kind(rule: Any) -> str | None:
    """Which of the two forms a rule has; None is neither."""
    return "range" if isinstance(rule, dict | Range) else "list" if isinstance(rule, list) else None


Rule = Annotated[
    Annotated[list[Scalar], Tag("list")] | Annotated[Range, Tag("range")],
    Discriminator(_kind, custom_error_type="rule", custom_error_message="expected a list of values, or {min, max}"),
]


class TaskPolicy(Strict):
    """``[tasks.<name>]``: a task that may run.

    Attributes:
        data: the data id (``[data.<id>]`` in agent.toml) it runs on; the ledger is keyed by it.
        settings: setting -> allowed values, a list or ``{min, max}``. A setting that is not named here must
            be left at the task's default.
    """

    data: Name
    settings: dict[Name, Rule] = Field(default={})


class Policy(Strict):
    """All of ``policy.toml``. An empty file refuses everything."""

    privacy: PrivacyPolicy = PrivacyPolicy()
    cohort: CohortPolicy = CohortPolicy()
    exchange: ExchangePolicy = ExchangePolicy()
    limits: LimitsPolicy = LimitsPolicy()
    tasks: dict[Name, TaskPolicy] = Field(default={})
