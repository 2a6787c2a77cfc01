"""``policy.toml``: what a data owner allows. Whatever is not written there is refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from fedsus.errors import ConfigError
from fedsus.owner.caps import Cap as Cap
from fedsus.owner.caps import PrivacyPolicy as PrivacyPolicy
from fedsus.owner.days import zone_of
from fedsus.plan import Hash, Name, Scalar, Strict
from fedsus.secagg.roster import MAX_SIGNERS, Pins, check_signers, majority
from fedsus.settings.budgets import Budget


class CohortPolicy(Strict):
    """``[cohort]``: ``minimum`` is the smallest number of clients, after dropouts, whose sum this device joins."""

    minimum: Annotated[int, Field(ge=1, le=1_000_000)] = 3


class FederationPolicy(Strict):
    """``[federation]``: the pins. Whose signatures make the list of members, whatever a server or a roster says.

    Attributes:
        name: the federation; rosters of another one are refused.
        signers: public keys (64 hex digits) of the owners who sign the roster; `fedsus federation show` prints them.
        needed: how many of them must sign; more than half when not given. With more than half, two different rosters
            of one number need an owner who signs twice; with all, one lost key stops every change.
    """

    name: Name
    signers: Annotated[list[Hash], Field(min_length=1, max_length=MAX_SIGNERS)]
    needed: Annotated[int, Field(ge=1, le=MAX_SIGNERS)] | None = None

    @model_validator(mode="after")
    def _possible(self) -> FederationPolicy:
        if len(set(self.signers)) < len(self.signers):
            raise ValueError("signers: each key once")
        check_signers(sorted(self.signers), self.pins.needed)
        return self

    @property
    def pins(self) -> Pins:
        """As `fedsus.secagg.roster.SignedRoster.verified` takes them."""
        return Pins(self.name, frozenset(self.signers), self.needed or majority(len(self.signers)))


class ExchangePolicy(Strict):
    """``[exchange]``: how this device's update may be summed.

    Attributes:
        secure_sum: the server sees the sum of a cohort and no single update. Needs ``[federation]``, for the cohort
            is checked against the signed roster.
        clear_sum: the server sees this device's own encoded update.
    """

    secure_sum: bool = True
    clear_sum: bool = False


class SecureSumPolicy(Strict):
    """``[secure_sum]``: what a masked sum must withstand.

    The server picks who is asked, so a cohort is joined only if it is the whole roster, or was drawn by the roster's
    own randomness (``draws``), or holds enough members that this owner names. Any one of the three suffices.

    Attributes:
        colluders: how many members of the roster, at least, may work together with the server (A) without opening an
            update; when not given the rule of the protocol, a quarter (a tenth from 200 on), at least 1.
        dropout: largest share of a cohort that may be planned to drop out. It bounds how few may be summed; a third
            lets 4 or 5 members lose one, 6 to 8 two.
        named: members whose presence makes a cohort trustworthy to this owner.
        named_minimum: how many of them must be there; all when not given.
        draws: whether a cohort that was drawn is joined.
    """

    colluders: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    dropout: Annotated[float, Field(ge=0, le=0.5)] = 0.34
    named: Annotated[list[Name], Field(max_length=1000)] = Field(default=[])
    named_minimum: Annotated[int, Field(ge=1, le=1000)] | None = None
    draws: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> SecureSumPolicy:
        if len(set(self.named)) < len(self.named):
            raise ValueError("named: each member once")
        if self.named_minimum is not None and self.named_minimum > len(self.named):
            raise ValueError(f"named_minimum {self.named_minimum}: named has {len(self.named)} members")
        return self

    @property
    def named_needed(self) -> int:
        """How many of ``named`` must be in a cohort that is neither the whole roster nor drawn; 0 names nobody."""
        return len(self.named) if self.named_minimum is None else self.named_minimum


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


class DayBudget(Budget):
    """``[budget]``: the most energy and carbon of one day. Who could not do another round of it sits rounds out.

    Attributes:
        missing: what happens where a cap cannot be kept by a figure that was measured or modelled: joules that are
            only assumed, grams without a known intensity. "assume" goes on by what is assumed; "refuse" takes no part.
        zone: whose days they are, as 'Europe/Berlin'.
        tell_until: whether a refusal for want of it says in which hour this device takes part again.
    """

    missing: Literal["assume", "refuse"] = "assume"
    zone: str = "UTC"
    tell_until: bool = True

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        try:
            zone_of(zone)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return zone

    @property
    def capped(self) -> bool:
        """Whether there is any cap."""
        return self.most_joules is not None or self.grams is not None


class ReportsPolicy(Strict):
    """``[reports]``: ``costs`` adds what this device used to the sum of a round, where a plan asks for it.

    The server learns the cohort's sum alone, under differential privacy with noise. False adds zeros.
    """

    costs: bool = True


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
    federation: FederationPolicy | None = None
    exchange: ExchangePolicy = ExchangePolicy()
    secure_sum: SecureSumPolicy = SecureSumPolicy()
    limits: LimitsPolicy = LimitsPolicy()
    budget: DayBudget = DayBudget()
    reports: ReportsPolicy = ReportsPolicy()
    tasks: dict[Name, TaskPolicy] = Field(default={})
