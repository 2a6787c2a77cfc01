"""``fedsus client``: what a data owner does with the agent on a device. Nothing here loads torch or flwr at import."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fedsus.commands.asking import agreed
from fedsus.errors import EnvironmentFault, FedsusError, UserError
from fedsus_client.energy_command import energy
from fedsus_client.ledger_commands import ledger
from fedsus_client.options import agent_option, beside, policy_option

if TYPE_CHECKING:
    from fedsus_client.config import AgentConfig

_LEAVE_SECONDS: Final = 10.0


@click.group()
def client() -> None:
    """Run and look after the device agent."""


client.add_command(ledger)
client.add_command(energy)


@client.command()
@agent_option
@policy_option
@click.pass_context
def start(ctx: click.Context, agent_file: Path, policy_file: Path | None) -> None:
    """Run the agent until SIGTERM or Ctrl-C."""
    from fedsus_client.agent import run

    run(agent_file, beside(agent_file, policy_file), bool(ctx.find_root().params.get("debug", False)))


@client.command()
@agent_option
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
@agent_option
@policy_option
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

    agent, policy = load_agent(agent_file), load(beside(agent_file, policy_file), Policy)
    lines = membership.installed(agent, policy) if file is None else membership.install(agent, policy, file)
    for line in lines:
        click.echo(line)


@client.command()
@agent_option
@click.argument("receipt", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write it.  [default: RECEIPT itself]")
def countersign(agent_file: Path, receipt: Path, output: Path | None) -> None:
    """Compare a receipt with this device's ledger, and sign it too.

    RECEIPT is the operator's receipt.json, or the run's folder. Plans, attempts and epsilon must be those that this
    device knows of.
    """
    from fedsus_client import countersigning
    from fedsus_client.config import load_agent

    for line in countersigning.countersign(load_agent(agent_file), receipt, output):
        click.echo(line)


@client.command()
@agent_option
@policy_option
def check(agent_file: Path, policy_file: Path | None) -> None:
    """Look at everything beforehand: a tick or a fix a line.

    The exit code is 2 if a line fails.
    """
    from fedsus_client.preflight import preflight

    # What is wrong is a line here: the agent's log says it, and a warning without a handler stands on stderr as well.
    logging.getLogger("fedsus").addHandler(logging.NullHandler())
    colours = {"fine": "green", "warn": "yellow", "fail": "red"}
    failed = 0
    for finding in preflight(agent_file, beside(agent_file, policy_file), time.time):
        click.secho(str(finding), fg=colours[finding.grade])
        failed += finding.grade == "fail"
    if failed:
        raise UserError(f"{failed} {'check' if failed == 1 else 'checks'} failed; the lines marked ✗ say what to do")


@client.command()
@agent_option
@policy_option
@click.option("--json", "as_json", is_flag=True, help="For a program.")
def status(agent_file: Path, policy_file: Path | None, as_json: bool) -> None:
    """What the agent is doing."""
    from dataclasses import asdict

    from fedsus_client.config import load_agent
    from fedsus_client.status import paused, read_status, running

    agent = load_agent(agent_file)
    folder = agent.state.folder
    last = read_status(folder)
    alive = last is not None and running(last)
    today = _today(agent, beside(agent_file, policy_file))
    if as_json:
        fields = asdict(last) if last else {}
        click.echo(json.dumps({**fields, "running": alive, "paused": paused(folder), **today}, indent=1))
        return
    click.echo(f"agent:        {_state(last.state, last.detail) if last and alive else 'not running'}")
    if last:
        click.echo(f"server:       {last.server}")
        click.echo(f"last written: {_when(last.updated)}")
        if last.run:
            click.echo(f"last round:   {last.round} of {last.rounds} of run '{last.run}'")
        click.echo(f"requests:     {last.answered} answered, {last.refused} refused")
        if last.last_refusal:
            at = "" if last.last_refused is None else f"{_when(last.last_refused)}: "
            click.echo(f"last refusal: {at}{last.last_refusal}")
        if alive and last.memory:
            click.echo(f"memory:       {last.memory / 2**20:.0f} MiB")
    click.echo(f"energy:       {today['energy']}")
    if today["sits_out"]:
        click.echo(f"sits out:     {today['sits_out']}")
    if paused(folder):
        click.echo("paused:       every request is refused; 'fedsus client resume' ends that")


def _today(agent: AgentConfig, policy_file: Path) -> dict[str, str | None]:
    """What was used today, and why the day's budget covers no other round, in a line each."""
    from fedsus.config import load
    from fedsus.owner.policy import Policy
    from fedsus_client.energy_views import Book, today

    try:
        standing = Book(agent.energy_record, load(policy_file, Policy).budget, time.time).standing
    except FedsusError as error:  # what the agent does is said whatever else is broken
        return {"energy": str(error), "sits_out": None}
    return {"energy": today(standing), "sits_out": standing.too_little()}


def _state(state: str, detail: str) -> str:
    return f"{state} ({detail})" if detail else state


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


@client.command()
@agent_option
def pause(agent_file: Path) -> None:
    """Refuse every request until `resume`, also after a restart."""
    from fedsus_client import status as states
    from fedsus_client.config import load_agent

    states.pause(load_agent(agent_file).state.folder)
    click.echo("paused: every new request is refused; 'fedsus client resume' ends that")


@client.command()
@agent_option
def resume(agent_file: Path) -> None:
    """Take requests again, as the policy allows."""
    from fedsus_client import status as states
    from fedsus_client.config import load_agent

    states.resume(load_agent(agent_file).state.folder)
    click.echo("resumed: requests are answered as the policy allows")


@client.command()
@agent_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def leave(agent_file: Path, yes: bool) -> None:
    """Leave the federation: stop the agent and refuse what still comes. Key and ledger stay."""
    from fedsus_client import status as states
    from fedsus_client.config import load_agent

    agent = load_agent(agent_file)
    if not yes and not agreed(f"Stop the agent and leave {agent.server.address}?", "the device has not left"):
        raise click.Abort
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
