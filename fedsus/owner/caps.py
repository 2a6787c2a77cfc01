"""``[privacy]`` of ``policy.toml``: who is protected from whom, and up to what.

What is spent is kept in accounts, one for each data set, unit and adversary. Each release debits all nine accounts of
its data set; those of protected units have a cap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

from pydantic import Field, model_validator

from fedsus.privacy.adversaries import ADVERSARIES, UNITS, Adversary, Unit
from fedsus.strict import Name, Strict


class Account(NamedTuple):
    """What somebody may learn: about one unit of a data set, as one adversary."""

    data: str
    unit: Unit
    adversary: Adversary

    @property
    def key(self) -> str:
        """As the ledger writes it."""
        return f"{self.unit}/{self.adversary}"

    def __str__(self) -> str:
        return f"data '{self.data}', {self.unit} against {self.adversary}"


ADJACENCY: Final[Mapping[Unit, str]] = {
    "example": "one row more or less",
    "patient": "all rows of one person more or less",
    "client": "the integers of this device replaced by zeros",
}
"""What may differ between two data sets that are hardly told apart."""

KEYS: Final = tuple(f"{unit}/{adversary}" for unit, adversary in product(UNITS, ADVERSARIES))
"""Of the nine accounts of a data set."""


def accounts(data: str) -> list[Account]:
    """The nine accounts of a data set."""
    return [Account(data, unit, adversary) for unit, adversary in product(UNITS, ADVERSARIES)]


class Cap(NamedTuple):
    """The most that all runs with differential privacy may spend of one account together."""

    epsilon: float
    delta: float

    @property
    def finite(self) -> bool:
        """Whether it bounds anything."""
        return math.isfinite(self.epsilon)

    def __str__(self) -> str:
        return f"{self.epsilon:g} (delta {self.delta:g})" if self.finite else "unlimited"


UNLIMITED: Final = Cap(math.inf, 0.0)
"""What an owner grants who trusts an adversary, or gives up a unit."""

Composition: TypeAlias = Literal["renyi", "runs"]
EpsilonCap = Annotated[float, Field(ge=0, le=1000)]
DeltaCap = Annotated[float, Field(ge=0, lt=1)]


class CapEntry(Strict):
    """``[[privacy.caps]]``: the cap of the accounts that it fits; what is left out fits all.

    Attributes:
        epsilon, delta: both, or ``unlimited = true``.
    """

    data: Name | None = None
    unit: Unit | None = None
    adversary: Adversary | None = None
    epsilon: EpsilonCap | None = None
    delta: DeltaCap | None = None
    unlimited: bool = False

    @model_validator(mode="after")
    def _one_or_the_other(self) -> CapEntry:
        given = [name for name in ("epsilon", "delta") if getattr(self, name) is not None]
        if self.unlimited and given:
            raise ValueError(f"unlimited = true and {given[0]} exclude each other")
        if not self.unlimited and len(given) < 2:
            raise ValueError("give epsilon and delta, or unlimited = true")
        return self

    @property
    def cap(self) -> Cap:
        """What it grants."""
        if self.epsilon is None or self.delta is None:
            return UNLIMITED
        return Cap(self.epsilon, self.delta)

    def covers(self, other: Account | CapEntry) -> bool:
        """Whether it fits an account, or all that another entry fits."""
        mine = (self.data, self.unit, self.adversary)
        theirs = (other.data, other.unit, other.adversary)
        return all(one in (None, two) for one, two in zip(mine, theirs, strict=True))


class PrivacyPolicy(Strict):
    """``[privacy]``: how much may be learned.

    Attributes:
        epsilon: cap of each account of a protected unit, over all runs with differential privacy, ever; 0, the
            default, grants nothing.
        delta: likewise; 0, the default, grants nothing.
        units: who is protected: "example": one row of the data; "patient": all rows of one person in this data set;
            "client": all that this device has. A run must protect one of them.
        placements: where noise is added; "local": on this device, before anything leaves it; "distributed": in shares
            under a secure sum; "central": at the server, against which nothing protects then.
        without_dp: True also allows runs without differential privacy. Their epsilon is infinity: they stand
            outside the caps, and the ledger lists them.
        rows_per_patient: most rows that one patient has, which the owner answers for; without it nothing that protects
            rows protects a patient.
        trusted: adversaries against whom epsilon may be infinite; "server" is needed for placement "central".
        composition: "renyi": each attempt is charged by a Renyi filter; "runs": each run is charged whole when it
            begins, at its own epsilon, and epsilons add up.
        caps: exceptions; the first that fits an account counts.
    """

    epsilon: EpsilonCap = 0.0
    delta: DeltaCap = 0.0
    units: list[Unit] = Field(default=["example"])
    placements: list[Literal["local", "distributed", "central"]] = Field(default=["local"])
    without_dp: bool = False
    rows_per_patient: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    trusted: list[Adversary] = Field(default=[])
    composition: Composition = "renyi"
    caps: Annotated[list[CapEntry], Field(max_length=1000)] = Field(default=[])

    @model_validator(mode="after")
    def _each_counts(self) -> PrivacyPolicy:
        for later, entry in enumerate(self.caps):
            for earlier, before in enumerate(self.caps[:later]):
                if before.covers(entry):
                    raise ValueError(
                        f"caps: entry {later + 1} never counts, for entry {earlier + 1} fits all that it fits"
                    )
        return self

    @property
    def cap(self) -> Cap:
        """The default."""
        return Cap(self.epsilon, self.delta)

    def cap_of(self, account: Account) -> Cap | None:
        """What the policy grants of an account; None where it protects nobody by it."""
        for entry in self.caps:
            if entry.covers(account):
                return entry.cap
        if account.unit not in self.units:
            return None
        return UNLIMITED if account.adversary in self.trusted else self.cap
