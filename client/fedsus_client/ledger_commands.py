"""``fedsus client ledger``: what was spent on each data set, what is granted, and whether the file is whole."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from fedsus.commands.asking import agreed
from fedsus.errors import ConfigError, CorruptionError, EnvironmentFault, UserError
from fedsus_client.options import agent_option, beside, policy_option

if TYPE_CHECKING:
    from fedsus.owner.caps import Cap
    from fedsus.owner.ledger import Ledger
    from fedsus_client.config import AgentConfig

_UNITS: Final = ("example", "patient", "client")
_ADVERSARIES: Final = ("server", "clients", "recipients")


@click.group(invoke_without_command=True)
@agent_option
@policy_option
@click.option("--json", "as_json", is_flag=True, help="Everything, for a program.")
@click.pass_context
def ledger(ctx: click.Context, agent_file: Path, policy_file: Path | None, as_json: bool) -> None:
    """What was spent on each data set, and what is granted.

    Alone it shows everything, as `show` does.
    """
    if ctx.invoked_subcommand is None:
        _show(agent_file, policy_file, as_json, None)


@ledger.command()
@agent_option
@policy_option
@click.option("--json", "as_json", is_flag=True, help="Everything, for a program.")
@click.option("--data", "data_id", metavar="ID", help="Of one data set alone.")
@click.pass_context
def show(ctx: click.Context, agent_file: Path, policy_file: Path | None, as_json: bool, data_id: str | None) -> None:
    """Show what was spent, what is left, and each run."""
    above = ctx.parent.params if ctx.parent else {}
    _show(*_files(ctx, agent_file, policy_file), as_json or bool(above.get("as_json")), data_id)


def _show(agent_file: Path, policy_file: Path | None, as_json: bool, data_id: str | None) -> None:
    from fedsus_client import ledger_views

    agent, privacy = _owned(agent_file, policy_file)
    path = agent.ledger
    if not _there(path):
        if data_id is not None:
            _check_data(data_id, agent, [])
        click.echo('{"data": {}, "entries": []}' if as_json else f"{path}: none yet: nothing was spent")
        return
    book = _opened(path)
    try:
        if data_id is not None:
            _check_data(data_id, agent, book.data_ids())
        names = book.data_ids() if data_id is None else [data_id]
        if as_json:
            click.echo(json.dumps(ledger_views.plain(book, privacy, names), indent=1, allow_nan=False))
        else:
            ledger_views.show(book, privacy, names)
    finally:
        book.close()


@ledger.command()
@agent_option
@policy_option
@click.option("--data", "data_id", metavar="ID", required=True, help="The data set, as agent.toml names it.")
@click.option("--unit", type=click.Choice((*_UNITS, "all")), help="Who is capped; needed with --epsilon.")
@click.option("--adversary", type=click.Choice(_ADVERSARIES), help="Against one adversary alone.  [default: all]")
@click.option("--epsilon", type=float, help="The cap, over all runs, ever.")
@click.option("--delta", type=float, help="The cap's delta.")
@click.option("--unlimited", is_flag=True, help="No cap: epsilon may be infinite; for all, also runs without DP.")
@click.option("--as-policy", is_flag=True, help="Withdraw such a grant: policy.toml counts again.")
@click.option("--order", type=int, help="Of the Renyi filter, where no run fixed it yet.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def grant(
    ctx: click.Context,
    agent_file: Path,
    policy_file: Path | None,
    data_id: str,
    unit: str | None,
    adversary: str | None,
    epsilon: float | None,
    delta: float | None,
    unlimited: bool,
    as_policy: bool,
    order: int | None,
    yes: bool,
) -> None:
    """Grant a cap in the ledger itself; it stands before policy.toml's.

    The agent must not run: it alone writes its ledger.
    """
    from fedsus.owner.caps import accounts
    from fedsus_client import ledger_views

    agent, privacy = _owned(*_files(ctx, agent_file, policy_file))
    cap = _cap(epsilon, delta, unlimited, as_policy, order)
    _check_data(data_id, agent, [])
    _check_unit(unit, cap, privacy.units)
    units = _UNITS if unit in (None, "all") else (unit,)
    some = [one for one in accounts(data_id) if one.unit in units and adversary in (None, one.adversary)]
    book = _writable(agent.ledger)
    try:
        for account in some:
            click.echo(f"{account}: {_named(book.cap(account, privacy))} -> {_named(cap) if cap else 'as the policy'}")
        for line in ledger_views.spent_already(book, some, cap):
            click.echo(line)
        if not yes and not agreed("Grant this?", "nothing was granted"):
            raise click.Abort
        book.grant(some, cap, order)
    finally:
        book.close()
    what = _named(cap) if cap else "as the policy says"
    click.echo(
        f"granted: {what}, for {', '.join(units)} against {adversary or 'each adversary'} ({len(some)} of "
        f"{len(accounts(data_id))} accounts of data '{data_id}'), in force from the next request on"
    )


@ledger.command()
@agent_option
@click.pass_context
def verify(ctx: click.Context, agent_file: Path) -> None:
    """Check chain, head and sums; the exit code is 0 if all hold."""
    from fedsus.owner.verification import verified
    from fedsus_client.config import load_agent

    path = load_agent(_files(ctx, agent_file, None)[0]).ledger
    if not _there(path):
        click.echo(f"{path}: none yet: nothing was spent")
        return
    book = _opened(path)
    try:
        entries = book.export()
    finally:
        book.close()
    click.echo(f"{path}: {len(entries)} entries: hash chain and head hold")
    broken = []
    for line, holds in verified(entries):
        click.echo(f"{'✓' if holds else '✗'} {line}")
        broken += [] if holds else [line]
    if broken:
        raise CorruptionError(f"{path}: {broken[0]}")


@ledger.command()
@agent_option
@policy_option
@click.option("--csv", "as_csv", is_flag=True, help="The entries, a row each.")
@click.option("--json", "as_json", is_flag=True, help="Everything.  [default]")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_context
def export(
    ctx: click.Context, agent_file: Path, policy_file: Path | None, as_csv: bool, as_json: bool, file: Path
) -> None:
    """Write all entries into a new FILE, for an auditor."""
    from fedsus_client import ledger_views

    if as_csv and as_json:
        raise ConfigError("--csv and --json exclude each other")
    agent, privacy = _owned(*_files(ctx, agent_file, policy_file))
    book = _opened(agent.ledger)
    try:
        with file.open("x", encoding="utf-8", newline="") as out:
            if as_csv:
                csv.writer(out).writerows(ledger_views.rows(book.export()))
            else:
                json.dump(ledger_views.plain(book, privacy, book.data_ids()), out, indent=1, allow_nan=False)
        click.echo(f"{file}: {len(book.export())} entries")
    except FileExistsError:
        raise ConfigError(f"{file}: exists already; name a new file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}") from None
    finally:
        book.close()


def _files(ctx: click.Context, agent_file: Path, policy_file: Path | None) -> tuple[Path, Path | None]:
    """The files of a subcommand: its own options, else those given to the group."""
    above = ctx.parent.params if ctx.parent else {}
    given = ctx.get_parameter_source("agent_file") is not click.core.ParameterSource.DEFAULT
    return (agent_file if given else above.get("agent_file", agent_file)), policy_file or above.get("policy_file")


def _owned(agent_file: Path, policy_file: Path | None) -> tuple[AgentConfig, Any]:
    """The agent's file and ``[privacy]`` of the policy."""
    from fedsus.config import load
    from fedsus.owner.policy import Policy
    from fedsus_client.config import load_agent

    agent = load_agent(agent_file)
    return agent, load(beside(agent_file, policy_file), Policy).privacy


def _there(path: Path) -> bool:
    return path.exists() or path.with_name(path.name + ".head").exists()


def _opened(path: Path, *, read_only: bool = True) -> Ledger:
    from fedsus.owner.ledger import Ledger

    return Ledger(path, time.time, read_only=read_only)


def _writable(path: Path) -> Ledger:
    try:
        return _opened(path, read_only=False)
    except EnvironmentFault as error:
        if "in use" not in str(error):
            raise
        raise EnvironmentFault(
            f"{path}: the agent is running, and alone writes it: stop it, grant, start it again"
        ) from None


def _check_data(data_id: str, agent: AgentConfig, more: list[str]) -> None:
    known = sorted({*agent.data, *more})
    if data_id not in known:
        raise ConfigError(f"--data {data_id}: not a data set of this device; there are: {', '.join(known) or 'none'}")


def _cap(epsilon: float | None, delta: float | None, unlimited: bool, as_policy: bool, order: int | None) -> Cap | None:
    """What the options grant; None withdraws.

    Raises:
        ConfigError: none of the three, more than one, or out of range.
    """
    from fedsus.owner.caps import UNLIMITED, Cap
    from fedsus.privacy.rdp import HIGHEST

    capped = epsilon is not None or delta is not None
    if capped + unlimited + as_policy != 1:
        raise ConfigError("give --epsilon and --delta, or --unlimited, or --as-policy: one of the three")
    if order is not None and not (capped and 2 <= order <= HIGHEST):
        raise ConfigError(f"--order {order}: expected 2 to {HIGHEST}, with --epsilon and --delta")
    if not capped:
        return UNLIMITED if unlimited else None
    if epsilon is None or not 0 <= epsilon <= 1000:
        raise ConfigError(f"--epsilon {epsilon}: expected 0 to 1000, with --delta")
    if delta is None or not 0 < delta < 1:
        raise ConfigError(f"--delta {delta}: expected more than 0 and less than 1, with --epsilon")
    return Cap(epsilon, delta)


def _check_unit(unit: str | None, cap: Cap | None, protected: list[str]) -> None:
    """Refuse a cap that does not say whose: runs are refused by an account that was capped by mistake.

    Raises:
        ConfigError: see above.
    """
    if unit is None and cap is not None and cap.finite:
        raise ConfigError(
            f"--unit: say whom the cap protects: {', '.join(_UNITS)}, or all; "
            f"the policy protects: {', '.join(protected)}"
        )


def _named(cap: Cap | None) -> str:
    return "no cap" if cap is None else str(cap)
