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

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fedsus.errors import CorruptionError
from fedsus.owner.caps import KEYS, Account, Cap
from fedsus.owner.charges import UNPROTECTED, Charge, Turns
from fedsus.owner.runs import OLD_GOAL, RESERVED, Run


@dataclass(slots=True)
class Granted:
    """What was granted of one account.

    Attributes:
        order: of its filter; None until a run is let pass by one. It never changes.
        cap: the last one that was granted; None until then, and where it was taken back.
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
                        run.variants[0] = {**run.variants[0], OLD_GOAL: entry["event"]}
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
            found.since, found.cap = entry["time"], None
            if given is not None:
                found.cap = Cap(math.inf if given["epsilon"] is None else given["epsilon"], given["delta"])
                found.order = found.order if given["order"] is None else given["order"]
            if entry["by"] == "owner":
                found.owner = found.cap

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
            goal=(OLD_GOAL if private else None) if old else entry["goal"],
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
