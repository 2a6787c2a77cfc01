"""What the entries of a ledger tell: runs, their attempts, and what was granted. Neither disk nor clock.

    granted     caps of accounts of a data set, and the order of their filters, once fixed
    opened      a run: what an attempt of it charges to each account, or the whole run
    reserved    an attempt, before anything is trained
    released    its answer leaves the device
    committed   the survivors of its sum are certified: charged for those from here on
    refunded    nothing of it left, nor will

Entries of version 1 knew one account, examples against anyone, and charged runs whole; they are read as that.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fedsus.errors import BudgetExhausted, CorruptionError, Refusal
from fedsus.owner.caps import KEYS, Account, Cap
from fedsus.owner.charges import UNPROTECTED, Charge, Turns, epsilon_of
from fedsus.owner.filters import NON_PRIVATE

RESERVED, RELEASED, COMMITTED, REFUNDED = "reserved", "released", "committed", "refunded"

_OLD_GOAL: Final = "example/server"
"""Of version 1."""


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
        texts = tuple(events[key] for key in KEYS)
        if texts not in self._numbers:
            self._numbers[texts] = len(self.variants)
            self.variants.append(events)
        return self._numbers[texts]


@dataclass(slots=True)
class Granted:
    """What was granted of one account.

    Attributes:
        order: of its filter; None until a run is let pass by one. It never changes.
        cap: the last one that was granted; None until then.
        owner: the cap that the owner granted in the ledger itself, which stands before the policy's; None: the
            policy's counts.
        since: when the last was written, seconds since the epoch.
    """

    order: int | None = None
    cap: Cap | None = None
    owner: Cap | None = None
    since: float = 0.0


@dataclass(slots=True)
class History:
    """All entries, folded."""

    runs: dict[tuple[str, str], Run] = field(default_factory=dict)
    granted: dict[Account, Granted] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)

    def data_ids(self) -> list[str]:
        """Data sets of which anything is known."""
        return sorted({data for data, _ in self.runs} | {account.data for account in self.granted})

    def of(self, data: str) -> Iterator[Run]:
        """The runs on a data set, oldest first."""
        return (run for (where, _), run in self.runs.items() if where == data)

    def grant(self, account: Account) -> Granted:
        """What was granted of an account until now."""
        return self.granted.get(account) or Granted()

    def take(self, entry: dict[str, Any]) -> None:
        """Take one entry in.

        Raises:
            CorruptionError: a type that this version does not know, or a field missing or wrong.
        """
        try:
            match entry["type"]:
                case "granted":
                    self._grant(entry)
                case "opened":
                    self._open(entry)
                case "reserved":
                    run = self.runs[entry["data"], entry["run"]]
                    if entry["v"] == 1:
                        run.variants[0] = {**run.variants[0], _OLD_GOAL: entry["event"]}
                    run.take(entry["attempt"], RESERVED, entry.get("events"))
                    run.rounds[entry["attempt"]] = entry.get("round", 0)
                case "released" | "committed" | "refunded" as state:
                    self.runs[entry["data"], entry["run"]].take(entry["attempt"], state, entry.get("events"))
                case other:
                    raise CorruptionError(f"ledger: row {entry['seq']}: unknown entry '{other}'")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptionError(f"ledger: row {entry.get('seq')}: {error} is missing or wrong") from None
        self.log.append(entry)

    def _grant(self, entry: dict[str, Any]) -> None:
        for key, given in entry["accounts"].items():
            unit, adversary = key.split("/")
            found = self.granted.setdefault(Account(entry["data"], unit, adversary), Granted())
            found.since = entry["time"]
            cap = None
            if given is not None:
                cap = Cap(math.inf if given["epsilon"] is None else given["epsilon"], given["delta"])
                found.order = found.order if given["order"] is None else given["order"]
                found.cap = cap
            if entry["by"] == "owner":
                found.owner = cap

    def _open(self, entry: dict[str, Any]) -> None:
        data, name, old = entry["data"], entry["run"], entry["v"] == 1
        epsilon = math.inf if entry["epsilon"] is None else entry["epsilon"]
        private = math.isfinite(epsilon)
        turns = None if old or entry["turns"] is None else Turns(*entry["turns"])
        events = UNPROTECTED if old else entry["events"] or UNPROTECTED
        if events.keys() != set(KEYS):
            raise ValueError(f"events of {sorted(events)}")
        self.runs[data, name] = Run(
            data=data,
            name=name,
            specification=entry["specification"],
            goal=(_OLD_GOAL if private else None) if old else entry["goal"],
            epsilon=epsilon,
            delta=entry["delta"],
            attempts=entry["attempts"],
            opened=entry["time"],
            once=not old and entry["once"],
            turns=turns,
            filtered=frozenset(
                key
                for account, given in self.granted.items()
                if account.data == data and given.order is not None
                for key in (account.key,)
            ),
            variants=[events],
            old=old,
        )


def opened_entry(data_id: str, run: str, charge: Charge) -> dict[str, Any]:
    """How a run is written."""
    private = charge.goal is not None
    turns = charge.turns
    return {
        "type": "opened",
        "data": data_id,
        "run": run,
        "specification": charge.specification,
        "goal": charge.goal,
        "epsilon": float(charge.epsilon) if private else None,
        "delta": float(charge.delta) if private else 0.0,
        "attempts": charge.attempts,
        "once": charge.once,
        "turns": None if turns is None else [turns.bands, turns.participations],
        "events": dict(charge.events) if private else None,
    }


def granted_entry(cap: Cap, order: int | None) -> dict[str, Any]:
    """How a cap is written; an epsilon that is infinite as null."""
    return {"epsilon": cap.epsilon if cap.finite else None, "delta": cap.delta, "order": order}


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
