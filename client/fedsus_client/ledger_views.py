"""The ledger as its owner reads it: a table, plain data, and rows for a spreadsheet."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from fedsus.owner.accounts import Standing
from fedsus.owner.caps import ADJACENCY, Account, Cap, PrivacyPolicy, accounts
from fedsus.owner.charges import epsilon_so_far
from fedsus.privacy.adversaries import ADVERSARIES
from fedsus.privacy.stated import shown

if TYPE_CHECKING:
    from fedsus.owner.ledger import Ledger, RunSpent

COLUMNS = ("seq", "time", "type", "data", "run", "attempt", "round", "survivors", "epsilon", "delta", "rest", "prev")
"""Of the rows; ``rest`` is JSON of all other fields."""


_WIDEST = 1000
_WHICH = """
spent: of the cap, at its delta and by the filter's order; another cap changes it a little.
epsilon: what all attempts of a run may spend; so far: what it did; each run by itself, at its own delta.
They are counted differently: they neither equal nor add up to each other, nor to a receipt's."""
"""Why there is more than one epsilon, under the tables."""


def show(book: Ledger, privacy: PrivacyPolicy, names: Sequence[str]) -> None:
    """Print accounts and runs of these data sets."""
    from rich.console import Console

    ran = any(book.runs(name) for name in names)
    tables = [_accounts_table(book, privacy, names), *([_runs_table(book, names)] if ran else [])]
    console = Console()
    # Never folded, not even where there is no room: a run's name is what owner and operator have in common.
    console.width = max(console.width, *(Console(width=_WIDEST).measure(table).maximum for table in tables))
    for at, table in enumerate(tables):
        console.print(*[""] * at, table, sep="\n")
    if ran:
        click.echo(_WHICH)
    for line in _remarks(book, privacy, names):
        click.echo(line)


def plain(book: Ledger, privacy: PrivacyPolicy, names: Sequence[str]) -> dict[str, Any]:
    """As plain data; what is infinite is null, and ``private`` or ``unlimited`` says so."""
    data = {
        name: {
            "accounts": [_plain_account(book, privacy, account) for account in accounts(name)],
            "runs": [_plain_run(run) for run in book.runs(name)],
        }
        for name in names
    }
    return {"data": data, "entries": [entry for entry in book.export() if entry["data"] in data]}


def rows(entries: Sequence[dict[str, Any]]) -> Iterator[list[Any]]:
    """The entries, a row each, after the titles."""
    yield list(COLUMNS)
    for entry in entries:
        rest = {name: value for name, value in entry.items() if name not in COLUMNS}
        fields = {**entry, "rest": json.dumps(rest, sort_keys=True)}
        yield ["" if fields.get(name) is None else fields[name] for name in COLUMNS]


def spent_already(book: Ledger, some: Sequence[Account], cap: Cap | None) -> list[str]:
    """A warning where what was spent leaves nothing of a cap that is not 0."""
    if cap is None or not cap.finite or not cap.epsilon:
        return []
    spent = {one: book.standing(one).spent(cap) for one in some if book.standing(one).left(cap) <= 0}
    if not any(spent.values()):
        return []
    most = max(spent, key=lambda one: spent[one])
    others = f" ({len(spent) - 1} more likewise)" if len(spent) > 1 else ""
    return [f"warning: {most}: epsilon {shown(spent[most])} is spent already, so that no run passes{others}"]


def _accounts_table(book: Ledger, privacy: PrivacyPolicy, names: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for title in ("data", "unit", "against", "cap", "spent", "left", "charged"):
        table.add_column(title, overflow="fold", no_wrap=title != "data")
    for name in names:
        for account in accounts(name):
            now, cap = book.standing(account), book.cap(account, privacy)
            finite = cap is not None and cap.finite
            table.add_row(
                name,
                account.unit,
                account.adversary,
                "none" if cap is None else str(cap),
                _epsilon(_spent(now, cap, privacy)),
                f"{now.left(cap):.0%}" if finite and cap is not None else "",
                _rule(now, cap, privacy),
            )
    return table


def _runs_table(book: Ledger, names: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    table.add_column("data", overflow="fold")
    for title in ("run", "attempts", "epsilon", "so far", "delta"):
        table.add_column(title, no_wrap=True)
    for name in names:
        for run in book.runs(name):
            numbers = (_epsilon(run.epsilon), _epsilon(run.epsilon_so_far), f"{run.delta:.4g}")
            table.add_row(name, run.run, f"{run.used} of {run.attempts}", *numbers)
    return table


def _remarks(book: Ledger, privacy: PrivacyPolicy, names: Sequence[str]) -> Iterator[str]:
    """What stands outside the caps, and what the owner granted here."""
    for name in names:
        open_to: dict[str, list[Account]] = {}
        for account in accounts(name):
            for run in book.standing(account).outside:
                why = "without differential privacy" if run.goal is None else "whose noise does not protect them"
                open_to.setdefault(f"run '{run.name}', {why}, since {_day(run.opened)}", []).append(account)
        for run_said, some in open_to.items():
            yield f"{name}: {_said(some)}: infinite through {run_said}; it stands outside the caps"
        for account in accounts(name):
            owner = book.granted(account).owner
            if owner is not None:
                policy = privacy.cap_of(account)
                yield (
                    f"{account}: {owner} granted on {_day(book.granted(account).since)}; "
                    f"the policy says {'no cap' if policy is None else policy}"
                )


def _said(some: Sequence[Account]) -> str:
    """Accounts by their units; a unit alone stands for all of its three."""
    found = []
    for unit in dict.fromkeys(one.unit for one in some):
        against = [one.adversary for one in some if one.unit == unit]
        found.append(unit if len(against) == len(ADVERSARIES) else f"{unit} against {' and '.join(against)}")
    return ", ".join(found)


def _spent(now: Standing, cap: Cap | None, privacy: PrivacyPolicy) -> float:
    """What counts against a cap; without one, what all runs amount to at the policy's delta, to be read."""
    if cap is not None and cap.finite:
        return now.spent(cap)
    if now.outside:
        return math.inf
    return epsilon_so_far(now.used, privacy.delta)


def _rule(now: Standing, cap: Cap | None, privacy: PrivacyPolicy) -> str:
    if now.order is not None:
        return f"renyi {now.order}" + (" + runs" if now.epsilon else "")
    return privacy.composition if cap is not None and cap.finite else ""


def _plain_account(book: Ledger, privacy: PrivacyPolicy, account: Account) -> dict[str, Any]:
    now, cap = book.standing(account), book.cap(account, privacy)
    finite = cap is not None and cap.finite
    spent = _spent(now, cap, privacy)
    given = book.granted(account)
    return {
        "unit": account.unit,
        "adjacency": ADJACENCY[account.unit],
        "adversary": account.adversary,
        "cap": {"epsilon": cap.epsilon, "delta": cap.delta} if finite and cap is not None else None,
        "unlimited": cap is not None and not finite,
        "granted_by": None if cap is None else "policy" if given.owner is None else "ledger",
        "spent": spent if math.isfinite(spent) else None,
        "left": now.left(cap) if finite and cap is not None else None,
        "composition": "renyi" if now.order is not None else privacy.composition,
        "order": now.order,
        "charged_whole": {"epsilon": _or_none(float(now.epsilon)), "delta": float(now.delta)},
        "outside": [run.name for run in now.outside],
    }


def _plain_run(run: RunSpent) -> dict[str, Any]:
    fields = {key: None if value == math.inf else value for key, value in asdict(run).items()}
    return {**fields, "private": math.isfinite(run.epsilon)}


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _epsilon(value: float) -> str:
    return "infinite" if math.isinf(value) else shown(value)


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))
