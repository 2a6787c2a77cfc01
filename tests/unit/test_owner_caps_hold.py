"""Whatever is asked, granted, committed, refunded or killed: what the entries say was let pass is within each cap.

The sums are made again from the exported entries, by the accountant of ``dp_accounting``.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dp_accounting as dpa
import pytest
from charges import banded_charge, central_charge, charge, client_charge, made, policy
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.errors import FedsusError
from fedsus.owner.caps import Account, Cap, PrivacyPolicy, accounts
from fedsus.owner.charges import Charge
from fedsus.owner.ledger import Ledger
from fedsus.owner.verification import verified

POLICIES = [
    policy(4.0, 1e-4),
    policy(2.0, 1e-4),
    policy(4.0, 4e-5, composition="runs"),
    policy(6.0, 1e-4, units=["client", "example"], trusted=["server"]),
    policy(5.0, 1e-4, units=["client"], trusted=["server"], composition="runs"),
    policy(5.0, 1e-4, units=["example"], caps=[{"adversary": "recipients", "epsilon": 1.0, "delta": 1e-6}]),
]
CHARGES = {
    **{f"e{number}": charge(noise, 4) for number, noise in enumerate((2.0, 4.0, 8.0))},
    **{f"c{number}": client_charge(noise, 4) for number, noise in enumerate((3.0, 9.0))},
    "s": central_charge(6.0, 4),
    "b": banded_charge(3.0, 6),
}
BETTER = {name: made(dict(one.events), str(one.goal), 4, "spec") for name, one in CHARGES.items()} | {
    f"c{number}": client_charge(1.2 * noise, 4) for number, noise in enumerate((3.0, 9.0))
}

runs, policies = st.sampled_from(sorted(CHARGES)), st.sampled_from(POLICIES)
steps = st.one_of(
    st.tuples(st.just("ask"), runs, policies, st.integers(1, 4), st.integers(1, 6)),
    st.tuples(st.sampled_from(["release", "commit", "refund"]), runs, st.integers(1, 6)),
    st.tuples(st.just("grant"), st.integers(0, 8), st.sampled_from([Cap(1.0, 1e-5), Cap(7.0, 1e-4), None])),
    st.just(("crash",)),
)


def take(ledger: Ledger, step: tuple[Any, ...], count: dict[str, int]) -> None:
    """One thing that happens; whatever is refused leaves the ledger as it was."""
    match step:
        case "ask", run, granted, attempts, round:
            ledger.open_run("clinic", run, CHARGES[run], granted)
            for _ in range(attempts):
                count[run] += 1
                ledger.reserve("clinic", run, count[run], round, b"", CHARGES[run], granted)
        case "release", run, attempt:
            ledger.release("clinic", run, attempt)
        case "refund", run, attempt:
            ledger.refund("clinic", run, attempt)
        case "commit", run, attempt:
            ledger.commit("clinic", run, attempt, 6, BETTER[run].events)
        case "grant", account, cap:
            ledger.grant(accounts("clinic")[account : account + 1], cap)


@settings(deadline=None, max_examples=120)
@given(st.lists(steps, max_size=25))
def test_no_sequence_exceeds_a_cap(sequence: list[tuple[Any, ...]]) -> None:
    count: dict[str, int] = defaultdict(int)
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder) / "ledger.sqlite"
        ledger = Ledger(path, lambda: 1.0)
        for step in sequence:
            if step == ("crash",):
                ledger.close()
                ledger = Ledger(path, lambda: 1.0)
                continue
            try:
                take(ledger, step, count)
            except FedsusError:
                continue
        ledger.close()
        entries = Ledger(path, lambda: 1.0, read_only=True).export()
    for account in accounts("clinic"):
        check(entries, account)
    assert all(holds for _, holds in verified(entries))


def check(entries: list[dict[str, Any]], account: Account) -> None:
    """At each entry, the account's sums are within the cap that was granted last."""
    order, cap, key = None, None, account.key
    opened: dict[str, Any] = {}
    whole: dict[str, tuple[Fraction, Fraction]] = {}
    charged: dict[tuple[str, int], str] = {}
    for entry in entries:
        match entry["type"]:
            case "granted":
                if key in entry["accounts"]:
                    given = entry["accounts"][key]
                    cap = None if given is None or given["epsilon"] is None else (given["epsilon"], given["delta"])
                    order = order if given is None else given["order"] or order
                continue
            case "opened":
                if "non_private" in entry["events"][key]:
                    continue
                opened[entry["run"]] = entry
                if order is None:
                    epsilon = CHARGES[entry["run"]].whole(key)
                    whole[entry["run"]] = Fraction(repr(epsilon)), Fraction(repr(entry["delta"]))
            case "refunded":
                charged.pop((entry["run"], entry["attempt"]), None)
            case "reserved" | "committed" as state if entry["run"] in opened and entry["run"] not in whole:
                events = entry["events"] or opened[entry["run"]]["events"]
                charged[entry["run"], entry["attempt"]] = events[key]
                assert state == "reserved" or "events" in entry
        debits = entry["type"] == "opened" if entry["run"] in whole else entry["type"] == "reserved"
        if cap is not None and debits and entry["run"] in opened:
            within(whole, charged, opened, order, Cap(*cap))


def within(whole: Any, charged: Any, opened: Any, order: int | None, cap: Cap) -> None:
    epsilon = Fraction(repr(cap.epsilon)) - sum(one for one, _ in whole.values())
    delta = Fraction(repr(cap.delta)) - sum(one for _, one in whole.values())
    assert epsilon >= 0 <= delta
    once: Counter[str] = Counter()
    for (run, _), event in charged.items():
        once[event] += 0 if opened[run]["once"] else 1
    once.update({event for (run, _), event in charged.items() if opened[run]["once"]})
    if not any(once.values()):
        return
    assert order is not None
    accountant = RdpAccountant([order])
    for event, times in once.items():
        accountant.compose(dpa.GaussianDpEvent(json.loads(event)["noise_multiplier"]), times)
    found, _ = compute_epsilon([order], accountant._rdp, float(delta))
    assert found <= float(epsilon) * (1 + 1e-9)


def test_the_check_finds_what_was_let_pass_beyond_a_cap() -> None:
    """A negative control: a ledger that counts a third of each release is found out."""

    class Cheap(Ledger):
        def reserve(self, data_id: str, run: str, attempt: int, round: int, plan_digest: bytes, *rest: Any) -> None:
            asked: Charge
            granted: PrivacyPolicy
            asked, granted = rest
            cheap = charge(8.0 * math.sqrt(3), 4)
            super().reserve(data_id, run, attempt, round, plan_digest, cheap, granted)
            self._history.log[-1]["events"] = dict(asked.events)

    run, granted = charge(8.0, 4), policy(4.0, 1e-4)
    ledger = Cheap(None, lambda: 1.0)
    CHARGES["cheap"] = run
    try:
        for number in range(400):
            name = f"cheap{number}"
            ledger.open_run("clinic", name, run, granted)
            ledger.reserve("clinic", name, 1, 1, b"", run, granted)
    except FedsusError:
        pass
    with pytest.raises(AssertionError):
        check(ledger.export(), accounts("clinic")[0])
