"""``fedsus client``: what a data owner does with the agent on a device. Nothing here loads torch or flwr at import."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from fedsus.errors import EnvironmentFault, UserError

if TYPE_CHECKING:
    from fedsus.owner.ledger import Ledger, RunSpent

F = TypeVar("F", bound=Callable[..., Any])
_LEAVE_SECONDS: Final = 10.0


def _agent_option(command: F) -> F:
    return click.option(
        "--agent",
        "agent_file",
        type=click.Path(path_type=Path),
        default=Path("agent.toml"),
        show_default=True,
        help="The device's configuration.",
    )(command)


def _policy_option(command: F) -> F:
    return click.option(
        "--policy",
        "policy_file",
        type=click.Path(path_type=Path),
        default=None,
        help="What the owner allows.  [default: policy.toml beside the agent's file]",
    )(command)


def _beside(agent_file: Path, policy_file: Path | None) -> Path:
    return policy_file or agent_file.with_name("policy.toml")


@click.group()
def client() -> None:
    """Run and look after the device agent."""


@client.command()
@_agent_option
@_policy_option
@click.pass_context
def start(ctx: click.Context, agent_file: Path, policy_file: Path | None) -> None:
    """Run the agent until SIGTERM or Ctrl-C."""
    from fedsus_client.agent import run

    run(agent_file, _beside(agent_file, policy_file), bool(ctx.find_root().params.get("debug", False)))


@client.command()
@_agent_option
@click.option("--server", "address", metavar="HOST:PORT", help="The operator's server, for a new agent.toml.")
def enroll(agent_file: Path, address: str | None) -> None:
    """Write commented files, make the device's keys.

    Says what to send to whom, and what to ask for.
    """
    from fedsus_client import enrolment
    from fedsus_client.config import load_agent
    from fedsus_client.templates import write_templates

    for file in write_templates(agent_file, address):
        click.echo(f"wrote {file}: read it, it is yours to decide")
    for line in enrolment.keys(load_agent(agent_file)):
        click.echo(line)
    click.echo(f"\nThen: fedsus client check --agent {agent_file}")


@client.command()
@_agent_option
@_policy_option
@click.argument("file", required=False, type=click.Path(path_type=Path))
def roster(agent_file: Path, policy_file: Path | None, file: Path | None) -> None:
    """Check and install the signed list of members, or show it.

    FILE is what the owners signed ('fedsus federation'). It is checked against the pins, [federation] of policy.toml,
    and against the rosters accepted before. A running agent reads it at once.
    """
    from fedsus.config import load
    from fedsus.owner.policy import Policy
    from fedsus_client import membership
    from fedsus_client.config import load_agent

    agent, policy = load_agent(agent_file), load(_beside(agent_file, policy_file), Policy)
    lines = membership.installed(agent, policy) if file is None else membership.install(agent, policy, file)
    for line in lines:
        click.echo(line)


@client.command()
@_agent_option
@_policy_option
def check(agent_file: Path, policy_file: Path | None) -> None:
    """Look at everything beforehand: a tick or a fix a line.

    The exit code is 2 if a line fails.
    """
    from fedsus_client.preflight import preflight

    colours = {"fine": "green", "warn": "yellow", "fail": "red"}
    failed = 0
    for finding in preflight(agent_file, _beside(agent_file, policy_file), time.time):
        click.secho(str(finding), fg=colours[finding.grade])
        failed += finding.grade == "fail"
    if failed:
        raise UserError(f"{failed} {'check' if failed == 1 else 'checks'} failed; the lines marked ✗ say what to do")


@client.command()
@_agent_option
@_policy_option
@click.option("--json", "as_json", is_flag=True, help="Everything, for a program.")
def ledger(agent_file: Path, policy_file: Path | None, as_json: bool) -> None:
    """What was spent on each data set."""
    from fedsus.config import load
    from fedsus.owner.ledger import Ledger
    from fedsus.owner.policy import Policy
    from fedsus_client.config import load_agent

    path = load_agent(agent_file).ledger
    cap = load(_beside(agent_file, policy_file), Policy).privacy.cap
    if not path.exists() and not path.with_name(path.name + ".head").exists():
        click.echo('{"data": {}, "entries": []}' if as_json else f"{path}: none yet: nothing was spent")
        return
    book = Ledger(path, time.time, read_only=True)
    try:
        if as_json:
            click.echo(json.dumps(_exported(book, cap.epsilon), indent=1, allow_nan=False))
        else:
            _print_ledger(book, cap.epsilon)
    finally:
        book.close()


def _exported(book: Ledger, cap: float) -> dict[str, Any]:
    """As plain data; an infinite epsilon is null, and ``private`` false."""
    from dataclasses import asdict

    def plain(run: RunSpent) -> dict[str, Any]:
        fields = {key: None if value == math.inf else value for key, value in asdict(run).items()}
        return {**fields, "private": math.isfinite(run.epsilon)}

    data = {
        name: {
            "epsilon_charged": book.charged(name).epsilon,
            "delta_charged": book.charged(name).delta,
            "epsilon_cap": cap,
            "runs": [plain(run) for run in book.runs(name)],
        }
        for name in book.data_ids()
    }
    return {"data": data, "entries": book.export()}


def _print_ledger(book: Ledger, cap: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    table.add_column("data", overflow="fold")
    table.add_column("run", overflow="fold")  # never cut: the name is what owner and operator have in common
    for title in ("attempts", "epsilon", "so far", "delta"):
        table.add_column(title, no_wrap=True)
    for name in book.data_ids():
        for run in book.runs(name):
            attempts = f"{run.used} of {run.attempts}"
            numbers = (_number(run.epsilon), _number(run.epsilon_so_far), _number(run.delta))
            table.add_row(name, run.run, attempts, *numbers)
    Console().print(table)
    for name in book.data_ids():
        left = max(cap - book.charged(name).epsilon, 0.0)
        click.echo(f"{name}: epsilon {left:.3f} of {cap:g} left")


def _number(value: float) -> str:
    return "infinite" if math.isinf(value) else f"{value:.4g}"


@client.command()
@_agent_option
@click.option("--json", "as_json", is_flag=True, help="For a program.")
def status(agent_file: Path, as_json: bool) -> None:
    """What the agent is doing."""
    from dataclasses import asdict

    from fedsus_client.config import load_agent
    from fedsus_client.status import paused, read_status, running

    folder = load_agent(agent_file).state.folder
    last = read_status(folder)
    alive = last is not None and running(last)
    if as_json:
        fields = asdict(last) if last else {}
        click.echo(json.dumps({**fields, "running": alive, "paused": paused(folder)}, indent=1))
        return
    click.echo(f"agent:        {_state(last.state, last.detail) if last and alive else 'not running'}")
    if last:
        click.echo(f"server:       {last.server}")
        click.echo(f"last written: {_when(last.updated)}")
        if last.run:
            click.echo(f"last round:   {last.round} of {last.rounds} of run '{last.run}'")
        click.echo(f"requests:     {last.answered} answered, {last.refused} refused")
        if last.last_refusal:
            click.echo(f"last refusal: {last.last_refusal}")
        if alive and last.memory:
            click.echo(f"memory:       {last.memory / 2**20:.0f} MiB")
    if paused(folder):
        click.echo("paused:       every request is refused; 'fedsus client resume' ends that")


def _state(state: str, detail: str) -> str:
    return f"{state} ({detail})" if detail else state


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


@client.command()
@_agent_option
def pause(agent_file: Path) -> None:
    """Refuse every request until `resume`, also after a restart."""
    from fedsus_client import status as states
    from fedsus_client.config import load_agent

    states.pause(load_agent(agent_file).state.folder)
    click.echo("paused: every new request is refused; 'fedsus client resume' ends that")


@client.command()
@_agent_option
def resume(agent_file: Path) -> None:
    """Take requests again, as the policy allows."""
    from fedsus_client import status as states
    from fedsus_client.config import load_agent

    states.resume(load_agent(agent_file).state.folder)
    click.echo("resumed: requests are answered as the policy allows")


@client.command()
@_agent_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def leave(agent_file: Path, yes: bool) -> None:
    """Leave the federation: stop the agent and refuse what still comes. Key and ledger stay."""
    from fedsus_client import status as states
    from fedsus_client.config import load_agent

    agent = load_agent(agent_file)
    if not yes:
        click.confirm(f"Stop the agent and leave {agent.server.address}?", abort=True)
    states.pause(agent.state.folder)
    last = states.read_status(agent.state.folder)
    if last is not None and states.running(last):
        _stop(last.pid, lambda: states.running(last))
        click.echo("the agent has stopped")
    else:
        click.echo("the agent was not running")
    click.echo("if started again it refuses every request ('fedsus client resume' ends that)")
    click.echo(f"kept: {agent.ledger}, what was spent stays spent")
    click.echo("tell the operator to remove this device's key: fedsus server devices remove NAME")


def _stop(pid: int, alive: Callable[[], bool]) -> None:
    """SIGTERM, and wait until the process is gone."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise EnvironmentFault(f"the agent (process {pid}) belongs to another user: run this as that user") from None
    end = time.monotonic() + _LEAVE_SECONDS
    while alive():
        if time.monotonic() > end:
            raise EnvironmentFault(f"the agent (process {pid}) did not stop within {_LEAVE_SECONDS:.0f} s")
        time.sleep(0.05)
