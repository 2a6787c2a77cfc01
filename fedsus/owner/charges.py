"""What a run charges to the accounts of its data set: events, recomputed from its plan, never believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from fedsus.errors import Refusal
from fedsus.owner.caps import KEYS
from fedsus.owner.filters import NON_PRIVATE
from fedsus.plan import decode, encode
from fedsus.privacy.adversaries import spent
from fedsus.protection import ClientCentral, Distributed, NoPrivacy

if TYPE_CHECKING:
    from fedsus.plan import Plan

UNPROTECTED: Final[Mapping[str, str]] = dict.fromkeys(KEYS, NON_PRIVATE)
"""Events of one attempt without differential privacy."""


@dataclass(frozen=True, slots=True)
class Turns:
    """When a device takes part in a run whose noise is correlated over rounds.

    Attributes:
        bands: rounds from one part to the next, at least.
        participations: rounds, at most.
    """

    bands: int
    participations: int


@dataclass(frozen=True, slots=True)
class Charge:
    """What a run charges.

    Attributes:
        specification: hash of all in its plan that must stay the same.
        goal: the account, by its key, that the run's own epsilon is for; None without differential privacy.
        epsilon: of the whole run for that account, at ``delta``; infinity without differential privacy.
        delta: of the run; 0 without differential privacy.
        attempts: of the whole run.
        events: account key -> event of one attempt; of the whole run where ``once``.
        once: the run is one release, charged whole at its first attempt.
        turns: see `Turns`; None: in every round.
        rows: most rows of a patient, by which ``events`` were computed.
    """

    specification: str
    goal: str | None
    epsilon: float
    delta: float
    attempts: int
    events: Mapping[str, str] = field(repr=False)
    once: bool = False
    turns: Turns | None = None
    rows: int | None = None

    @property
    def times(self) -> int:
        """How often ``events`` happen in the whole run."""
        return 1 if self.once else self.attempts

    def whole(self, key: str) -> float:
        """Epsilon of the whole run for an account, at its delta; infinity where nothing protects.

        Raises:
            Refusal: it cannot be computed.
        """
        return self.epsilon if key == self.goal else epsilon_of({self.events[key]: self.times}, self.delta)


def goal_of(plan: Plan) -> str | None:
    """The account that a plan's epsilon is for: the strongest adversary that its placement protects from."""
    privacy = plan.privacy
    if isinstance(privacy, NoPrivacy):
        return None
    adversary = "recipients" if isinstance(privacy, ClientCentral) else "server"
    return f"{privacy.unit}/{adversary}"


def events_of(plan: Plan, rows: int | None, survivors: int | None = None) -> Mapping[str, str]:
    """Account key -> the event of one attempt, of the whole run where `released_once`.

    Args:
        rows: most rows of a patient; None where nothing bounds them.
        survivors: clients in the sum; None for the least that the plan allows.

    Raises:
        Refusal: fewer survivors than the plan allows, or an event that cannot be written.
    """
    if isinstance(plan.privacy, NoPrivacy):
        return UNPROTECTED
    if not isinstance(plan.privacy, Distributed):
        survivors = None  # no other noise depends on them
    return _events(_whole(plan), rows, survivors)


def released_once(plan: Plan) -> bool:
    """Whether a run is one release: noise correlated over rounds."""
    return isinstance(plan.privacy, ClientCentral) and plan.privacy.banded is not None


def turns_of(plan: Plan) -> Turns | None:
    """When one device takes part; None: in every round."""
    if isinstance(plan.privacy, ClientCentral) and plan.privacy.banded is not None:
        return Turns(plan.privacy.banded.bands, plan.privacy.banded.participations)
    return None


def epsilon_of(events: Mapping[str, int], delta: float) -> float:
    """Epsilon of events and how often each happened, at ``delta``; infinity where nothing protects.

    Raises:
        Refusal: it cannot be computed.
    """
    counted = {event: count for event, count in events.items() if count}
    if not counted:
        return 0.0
    if NON_PRIVATE in counted or delta <= 0:
        return math.inf
    return _epsilon(tuple(sorted(counted.items())), delta)


def epsilon_so_far(events: Mapping[str, int], delta: float) -> float:
    """As `epsilon_of`, by Renyi divergence, for an owner to read: infinity also where it cannot be computed."""
    counted = {event: count for event, count in events.items() if count}
    if not counted:
        return 0.0
    try:
        return _epsilon(tuple(sorted(counted.items())), delta, rdp=True)
    except Refusal:
        return math.inf


@lru_cache(maxsize=512)
def _epsilon(events: tuple[tuple[str, int], ...], delta: float, rdp: bool = False) -> float:
    import dp_accounting as dpa

    from fedsus.privacy import accounting
    from fedsus.privacy.events import from_json

    whole = dpa.ComposedDpEvent([dpa.SelfComposedDpEvent(from_json(event), count) for event, count in events])
    return accounting.epsilon_rdp(whole, delta) if rdp else accounting.epsilon(whole, delta)


@lru_cache(maxsize=64)
def _events(plan: bytes, rows: int | None, survivors: int | None) -> Mapping[str, str]:
    from fedsus.privacy.events import to_json

    found = spent(decode(plan), 1, survivors, rows)
    texts = {f"{unit}/{adversary}": to_json(event) for (unit, adversary), event in found.items()}
    if texts.keys() != set(KEYS):
        raise Refusal(f"the plan's events are for {sorted(texts)}: expected one for each account")
    return texts


def _whole(plan: Plan) -> bytes:
    """A plan without what changes from round to round: what is computed once for a run."""
    session = None if plan.session is None else "0" * 64
    clip = plan.privacy.clip if plan.clip is not None and isinstance(plan.privacy, ClientCentral) else None
    return encode(
        plan.model_copy(update={"round": 1, "attempt": 1, "model": "0" * 64, "session": session, "clip": clip})
    )
