"""Whether a ledger's entries kept every cap at every moment, and its sums again from nothing, for owner or auditor.

The chain of hashes is `fedsus.owner.chain`'s; this looks at what the entries say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedsus.owner import filters
from fedsus.owner.accounts import Standing, exact, standing
from fedsus.owner.caps import Account, Cap, accounts
from fedsus.owner.history import History


def verified(entries: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, bool]]:
    """For each account of which a cap was granted, a line, and whether all holds.

    Raises:
        CorruptionError, Refusal: an entry cannot be read.
    """
    history, broken = History(), dict[Account, str]()
    for entry in entries:
        history.take(dict(entry))
        if entry["type"] not in ("opened", "reserved"):
            continue
        run = history.runs[entry["data"], entry["run"]]
        for account in accounts(entry["data"]):
            cap, key = history.grant(account).cap, account.key
            if cap is None or not cap.finite or not run.protects(key):
                continue
            charged = "reserved" if key in run.filtered else "opened"
            if entry["type"] == charged and not _within(standing(history, account), cap):
                broken.setdefault(account, f"row {entry['seq']}: beyond the cap {cap} that stood then")
    for account, given in sorted(history.granted.items()):
        if given.cap is None:
            continue
        now = standing(history, account)
        if Counter(now.tally) != _recounted(entries, account):
            broken.setdefault(account, "its attempts do not add up to what is charged")
        yield f"{account}: {broken.get(account) or _told(now, given.cap)}", account not in broken


def _within(now: Standing, cap: Cap) -> bool:
    """Whether a cap holds, for runs that are charged whole and for the filter."""
    if now.epsilon > exact([cap.epsilon]) or now.delta > exact([cap.delta]):
        return False
    if now.order is None or not any(now.tally.values()):
        return True
    left = filters.allowance(now.left_to_filter(cap), now.order)
    return filters.divergence(now.tally, now.order) <= left.divergence and filters.releases(now.tally) <= left.releases


def _recounted(entries: Sequence[Mapping[str, Any]], account: Account) -> Counter[str]:
    """The events that an account's filter let pass, counted from the entries alone."""
    mine = [entry for entry in entries if entry["data"] == account.data]
    found: Counter[str] = Counter()
    for run in _filtered(mine, account.key):
        charged: dict[int, str] = {}
        for entry in mine:
            if entry.get("run") != run["run"] or entry["type"] in ("opened", "released"):
                continue
            charged.pop(entry["attempt"], None)
            if entry["type"] != "refunded":
                charged[entry["attempt"]] = (entry["events"] or run["events"])[account.key]
        if filters.NON_PRIVATE not in (run["events"][account.key], *charged.values()):
            found.update(set(charged.values()) if run["once"] else charged.values())
    return found


def _filtered(entries: Sequence[Mapping[str, Any]], key: str) -> Iterator[Mapping[str, Any]]:
    """Where runs opened, of those that opened when the account had a filter."""
    ordered = False
    for entry in entries:
        if entry["type"] == "granted":
            ordered = ordered or (entry["accounts"].get(key) or {}).get("order") is not None
        elif entry["type"] == "opened" and ordered and entry["events"]:
            yield entry


def _told(now: Standing, cap: Cap) -> str:
    if not cap.finite:
        return "unlimited"
    how = "runs charged whole" if now.order is None else f"Renyi filter of order {now.order}"
    return f"{now.spent(cap):.4g} of the cap {cap} is spent, {how}"
