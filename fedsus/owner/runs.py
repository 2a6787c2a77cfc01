"""One run on one data set, as the entries of a ledger tell it: its attempts, and what they charge to whom."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fedsus.errors import BudgetExhausted, Refusal
from fedsus.owner.caps import KEYS
from fedsus.owner.charges import Turns, epsilon_of
from fedsus.owner.filters import NON_PRIVATE

RESERVED, RELEASED, COMMITTED, REFUNDED = "reserved", "released", "committed", "refunded"

OLD_GOAL: Final = "example/server"
"""Of version 1."""


@dataclass(frozen=True, slots=True)
class RunSpent:
    """One run on one data set.

    Attributes:
        goal: the account, as unit/adversary, that its own epsilon is for; None without differential privacy.
        epsilon: of the whole run for that account; infinity without differential privacy.
        delta: likewise; 0 without differential privacy.
        attempts: of the whole run.
        used: attempts that counted: all but the refunded ones.
        released: attempts whose answer left the device.
        epsilon_so_far: what the used attempts amount to, at ``delta``; for the owner to read, never to grant by.
        opened: when, seconds since the epoch.
    """

    data_id: str
    run: str
    specification: str
    goal: str | None
    epsilon: float
    delta: float
    attempts: int
    used: int
    released: int
    epsilon_so_far: float
    opened: float


@dataclass(slots=True)
class Run:
    """A run as the entries tell it.

    Attributes:
        filtered: accounts, by key, that were under a filter when it opened: each attempt is charged there; to all
            others the run is charged whole, at its own epsilon.
        variants: the events that its attempts charge, account key -> text; the first is the one that it opened with.
        tally: variant, by its number -> how many attempts charge it; refunded ones charge nothing.
        old: of version 1, whose events are of one account alone.
    """

    data: str
    name: str
    specification: str
    goal: str | None
    epsilon: float
    delta: float
    attempts: int
    opened: float
    once: bool
    turns: Turns | None
    filtered: frozenset[str]
    variants: list[Mapping[str, str]]
    old: bool = False
    tally: Counter[int] = field(default_factory=Counter)
    states: dict[int, str] = field(default_factory=dict)
    variant: dict[int, int] = field(default_factory=dict)
    rounds: dict[int, int] = field(default_factory=dict)
    _numbers: dict[tuple[str, ...], int] = field(default_factory=dict)

    @property
    def private(self) -> bool:
        """Whether it has differential privacy."""
        return self.goal is not None

    @property
    def used(self) -> int:
        """Attempts that count."""
        return sum(self.tally.values())

    def events(self, key: str) -> Counter[str]:
        """What its attempts charged to one account until now."""
        found: Counter[str] = Counter()
        for number, count in self.tally.items():
            if count:
                found[self.variants[number][key]] += 1 if self.once else count
        return found

    def protects(self, key: str) -> bool:
        """Whether anything bounds what it tells an account's adversary."""
        if self.old:
            return self.private and key.startswith("example/")
        return all(events[key] != NON_PRIVATE for events in self.variants)

    def whole(self, key: str) -> float:
        """Epsilon of the whole run for an account, at its delta; infinity where it cannot be computed."""
        if not self.protects(key):
            return math.inf
        if key == self.goal or self.old:
            return self.epsilon
        try:
            times = 1 if self.once else self.attempts
            return max(epsilon_of({events[key]: times}, self.delta) for events in self.variants)
        except Refusal:
            return math.inf

    def spent(self) -> RunSpent:
        """As its owner reads it."""
        return RunSpent(
            data_id=self.data,
            run=self.name,
            specification=self.specification,
            goal=self.goal,
            epsilon=self.epsilon,
            delta=self.delta,
            attempts=self.attempts,
            used=self.used,
            released=sum(state in (RELEASED, COMMITTED) for state in self.states.values()),
            epsilon_so_far=self.so_far(),
            opened=self.opened,
        )

    def so_far(self) -> float:
        """Epsilon of the attempts that count, for its own goal at its delta; infinity where it cannot be computed."""
        if not self.used:
            return 0.0
        if self.goal is None:
            return math.inf
        events = self.events(self.goal)
        try:
            return epsilon_of({_readable(event): count for event, count in events.items()}, self.delta)
        except Refusal:
            return math.inf

    def check_turn(self, round: int) -> None:
        """Refuse a round too near to another of this device's, or one too many.

        Correlated noise is accounted for parts that do not overlap (`fedsus.privacy.factorisation`).

        Raises:
            Refusal, BudgetExhausted: see above.
        """
        if self.turns is None:
            return
        where, bands, most = f"data '{self.data}': run '{self.name}'", self.turns.bands, self.turns.participations
        taken = {self.rounds[attempt] for attempt, state in self.states.items() if state != REFUNDED} - {round}
        near = next((other for other in sorted(taken) if abs(other - round) < bands), None)
        if near is not None:
            raise Refusal(
                f"{where}: this device took part in round {near}, and noise is correlated over {bands} rounds: round "
                f"{round} is too near"
            )
        if len(taken) >= most:
            raise BudgetExhausted(f"{where}: round {round} would be this device's part {len(taken) + 1} of {most}")

    def take(self, attempt: int, state: str, events: Mapping[str, str] | None) -> None:
        """An attempt reaches a state, and charges ``events`` from here on; None: as before."""
        before = self.variant.get(attempt, 0)
        if attempt in self.states and self.states[attempt] != REFUNDED:
            self.tally[before] -= 1
        now = before if events is None else self._numbered(events)
        self.states[attempt], self.variant[attempt] = state, now
        if state != REFUNDED:
            self.tally[now] += 1

    def _numbered(self, events: Mapping[str, str]) -> int:
        if not self._numbers:
            self._numbers[_texts(self.variants[0])] = 0
        texts = _texts(events)
        if texts not in self._numbers:
            self._numbers[texts] = len(self.variants)
            self.variants.append(events)
        return self._numbers[texts]


def _texts(events: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(events[key] for key in KEYS)


def _readable(event: str) -> str:
    """An event as it is written now; the first ledgers wrote the numbers of DP-SGD alone."""
    if '"kind"' in event:
        return event
    try:
        numbers = json.loads(event)
        from fedsus.privacy.accounting import dp_sgd_event
        from fedsus.privacy.events import to_json

        return to_json(dp_sgd_event(numbers["noise_multiplier"], numbers["sampling_rate"], numbers["steps"]))
    except (ValueError, KeyError, TypeError):
        raise Refusal(f"privacy event {event[:80]}: not one that a ledger holds") from None
