"""What an operator sees of the server and its runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedsus.errors import EnvironmentFault, FedsusError, RunFailed
from fedsus.privacy.stated import shown
from fedsus.reporting import follow, summary
from fedsus.reporting import runs as all_runs
from fedsus_server import looping, progress
from fedsus_server.home import ActiveRun, Home, home_option

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger("fedsus.server")


def how_to(home: Home, run: str, folder: Path) -> str:
    """How to follow or stop a run that goes on."""
    name = run if folder.parent == Path("runs").resolve() else str(folder)
    option = home_option(home)
    return f"follow it: fedsus server follow {name}{option}\nstop it: fedsus server stop {name}{option}"


def follow_run(home: Home, folder: Path) -> None:
    """Show progress until the run is closed; Ctrl-C detaches.

    Raises:
        RunFailed: it ended without its last round, or was given up; the reason.
        EnvironmentFault: the server is gone; the run goes on when it is back.
    """
    from rich.console import Console

    finished, console = summary(folder).closed is not None, Console()
    waiting = _Waiting(folder, console)

    def over() -> bool:
        if finished:
            return False  # all of it is there to be read
        waiting.look()
        noted = _noted(home, folder)
        return home.running() is None or (noted is not None and noted.given_up is not None)

    try:
        seen = progress.show(follow(folder, over), console)
    except KeyboardInterrupt:
        click.echo(f"\nrun {folder.name} goes on\n{how_to(home, folder.name, folder)}")
        return
    if seen.closed is None:
        noted = _noted(home, folder)
        if noted is not None and noted.given_up is not None:
            raise RunFailed(f"run {folder.name} was given up: {noted.given_up}; {_resume(home, folder)}")
        raise EnvironmentFault(f"the server stopped; run {folder.name} goes on when it starts again")
    if seen.closed.reason == "failed":
        loop = looping.of(folder)
        why = seen.closed.because or (loop and loop.ended) or "see server.log in its folder"
        raise RunFailed(f"run {folder.name} failed: {why}")
    click.echo(
        f"run {folder.name} {seen.closed.reason}: {seen.round} of {seen.rounds} rounds, {progress.size(seen.bytes)}"
    )
    if seen.closed.because is not None:
        click.echo(f"why: {seen.closed.because}")
    if seen.closed.model is not None:
        click.echo(f"model: fedsus model export {folder}")


class _Waiting:
    """Says what a run waits for, each wait once, after what the journal says until then: that led to it."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder, self._console = folder, console
        self._said = self._seen = ""

    def look(self) -> None:
        """Called before each look at the journal: a wait is said at the second one that finds it."""
        waits = looping.waits(self._folder) or ""
        if waits == self._seen:
            if waits and waits != self._said:
                self._console.print(waits, soft_wrap=True, markup=False, highlight=False)
            self._said = waits
        self._seen = waits


def status_text(home: Home) -> str:
    """The server's address, devices and active runs, one fact a line.

    Raises:
        EnvironmentFault: no server runs here.
    """
    from fedsus_server.flower import control

    running = home.connectable()
    with control.connect(running.loopback_port) as connected:
        devices = connected.devices()
    lines = [
        f"server   {running.address}, process {running.pid}, version {running.version}",
        f"health   port {running.health_port}",
        f"devices  {sum(device.online for device in devices)} connected of {len(devices)} known",
    ]
    return "\n".join(lines + [f"run      {run.run}: {_progress(run)}" for run in home.active()])


def print_runs(home: Home, folder: Path) -> None:
    """A table of all runs below ``folder``."""
    from rich.console import Console
    from rich.table import Table

    found = all_runs(folder)
    if not found:
        click.echo(f"no runs in {folder}; start one: fedsus server run run.toml{home_option(home)}")
        return
    active = {run.run: run for run in home.active()}
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("run", no_wrap=True, overflow="fold")  # a name that is cut cannot be used in a command
    for title in ("state", "rounds", "attempts", "bytes", "seconds"):
        table.add_column(title)
    for one in found:
        state = _state(active[one.run]).partition(":")[0] if one.status == "open" and one.run in active else one.status
        moved = progress.size(one.bytes_sent + one.bytes_received)
        table.add_row(one.run, state, str(len(one.rounds)), str(one.attempts), moved, f"{one.seconds:.1f}")
    Console().print(table)
    for one in found:
        if one.status == "open" and one.run in active and active[one.run].given_up is not None:
            click.echo(f"{one.run} was given up: {active[one.run].given_up}")


def _state(run: ActiveRun) -> str:
    """One phrase about an active run."""
    if run.given_up is not None:
        return f"given up: {run.given_up}"
    loop = looping.of(Path(run.folder))
    if loop is None or not loop.alive:
        return "starting"
    return "running" if loop.waits is None else "waiting"


def _progress(run: ActiveRun) -> str:
    """Likewise, with the rounds of a run that is running."""
    state = _state(run)
    try:
        return _released(Path(run.folder)) if state in ("running", "waiting") else state
    except FedsusError as error:
        return str(error)


def _released(folder: Path) -> str:
    """Rounds, and what they may have spent, with the attempts that failed."""
    from fedsus.rounds.planning.specification import specification_of

    found = summary(folder)
    text = f"{looping.waits(folder) or 'running'}, {len(found.rounds)} rounds released"
    if found.opened is None or not found.attempts:
        return text
    specification = specification_of(found.opened)
    epsilon = progress.planned_epsilon(specification, found.attempts)
    if epsilon is None:
        return text
    return f"{text}, epsilon {shown(epsilon)} {progress.against(specification)} (planned)"


def _noted(home: Home, folder: Path) -> ActiveRun | None:
    return next((run for run in home.active() if Path(run.folder) == folder), None)


def _resume(home: Home, folder: Path) -> str:
    return f"mend that (run.toml is not read again), then: fedsus server run --resume {folder}{home_option(home)}"
