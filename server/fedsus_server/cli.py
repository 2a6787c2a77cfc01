"""``fedsus server``: run and look after the aggregation server, and its runs."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedsus.errors import ConfigError

if TYPE_CHECKING:
    from fedsus_server.home import Home


def _home(path: Path | None) -> Home:
    from fedsus_server.home import DEFAULT, VARIABLE, Home

    return Home((path or Path(os.environ.get(VARIABLE) or DEFAULT)).expanduser().resolve())


home_option = click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="The server's folder. Default: FEDSUS_SERVER_HOME, else .fedsus/server.",
)

runs_option = click.option(
    "--runs",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Where runs are kept.",
)


@click.group()
def server() -> None:
    """Run and look after the aggregation server, and its runs."""


@server.command()
@home_option
def init(home: Path | None) -> None:
    """Make the server's folder, and the operator's key, which signs receipts.

    `start` does so too. Give owners the public key, so that they can pin it.
    """
    from fedsus.secagg.keys import fingerprint
    from fedsus_server import receipts

    folder = _home(home)
    folder.make()
    key, path = receipts.key_of(folder.folder), folder.folder / receipts.KEY
    click.echo(f"operator's key: {path}; keep it, and give owners {path}.pub")
    click.echo(f"fingerprint: {fingerprint(key.public)}")


@server.command()
@home_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Interface to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8443, show_default=True, type=click.IntRange(0, 65535), help="0 chooses a free one.")
@click.option("--health-host", default="127.0.0.1", show_default=True, help="Interface of the gRPC health service.")
@click.option("--health-port", default=0, show_default=True, type=click.IntRange(0, 65535), help="Its port; 0: any.")
@click.option("--name", "names", multiple=True, help="Host name or IP that devices dial; may be repeated.")
@click.option("--certificate", type=click.Path(path_type=Path), help="Your own certificate, PEM; needs --key.")
@click.option("--key", type=click.Path(path_type=Path), help="Its private key, PEM.")
@click.option("--ca", type=click.Path(path_type=Path), help="The authority that signed it, PEM; none: a public one.")
@click.option(
    "--max-upload",
    default=512,
    show_default=True,
    type=click.IntRange(1, 2047),
    help="Longest answer of a device, MiB; the server may hold a few. A model has 4 bytes a parameter.",
)
def start(home: Path | None, names: tuple[str, ...], **asked: Any) -> None:
    """Start the server, in the foreground, until Ctrl-C or SIGTERM.

    Without --certificate, an authority and a certificate are made in the server's folder on first start.
    Listens on this machine alone unless --host says otherwise.
    """
    if bool(asked["certificate"]) != bool(asked["key"]):
        raise ConfigError("--certificate and --key go together")
    if asked["ca"] and not asked["certificate"]:
        raise ConfigError("--ca needs --certificate and --key")
    from fedsus_server import banner, receipts
    from fedsus_server.supervisor import Options, Supervisor

    folder, options = _home(home), Options(names=names, **asked)
    folder.make()
    with folder.lock():
        receipts.key_of(folder.folder)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        banner.log_to(folder)
        Supervisor(folder, options, stop).run(lambda running: banner.show(folder, running))


@server.command()
@home_option
@runs_option
@click.argument("run_toml", type=click.Path(path_type=Path), required=False)
@click.option("--resume", "resumed", metavar="RUN", help="Go on with a run that is not closed, instead of a new one.")
@click.option("--detach", is_flag=True, help="Do not follow it.")
def run(home: Path | None, runs: Path, run_toml: Path | None, resumed: str | None, detach: bool) -> None:
    """Start the run of RUN_TOML, and follow it. Ctrl-C leaves it running."""
    import time

    from fedsus_server import following
    from fedsus_server import runs as known
    from fedsus_server.home import ActiveRun

    if (run_toml is None) == (resumed is None):
        raise click.UsageError("give RUN_TOML, or --resume RUN")
    folder = _home(home)
    running = folder.connectable()
    if run_toml is not None:
        active = known.open_new(run_toml, runs, time.time, running.ca)
    else:
        found = known.find(folder, runs, resumed or "")
        known.check_open(found)
        active = ActiveRun(found.name, str(found))
    folder.activate(active)
    click.echo(f"run {active.run} in {active.folder}")
    made = Path(active.folder)
    for line in (known.exchange_line(made), *known.caution_lines(made), *known.cost_lines(made)):
        click.echo(line)
    if detach:
        click.echo(following.how_to(folder, active.run, Path(active.folder)))
    else:
        _follow(folder, Path(active.folder))


def _follow(home: Home, folder: Path) -> None:
    """Show a run until it ends, however it ends, and where its receipt is."""
    from fedsus_server import following

    try:
        following.follow_run(home, folder)
    finally:
        _receipt(home, folder)


def _receipt(home: Home, folder: Path) -> None:
    """Where the receipt of a run is that is over; why there is none does not hide how the run ended."""
    from fedsus.errors import FedsusError
    from fedsus_server import receipts

    try:
        path = receipts.leave(folder, home.folder)
    except FedsusError as error:
        click.echo(f"no receipt: {error}; make it: fedsus receipt make {folder}", err=True)
        return
    if path is not None:
        click.echo(f"receipt: fedsus receipt verify {folder}")


@server.command()
@home_option
@runs_option
@click.argument("run", metavar="RUN")
def follow(home: Path | None, runs: Path, run: str) -> None:
    """Show a run's progress until it ends. Ctrl-C leaves it running.

    RUN is its name, the beginning of that, or its folder.
    """
    from fedsus_server import runs as known

    folder = _home(home)
    _follow(folder, known.find(folder, runs, run))


@server.command()
@home_option
@runs_option
@click.argument("run", metavar="RUN")
def stop(home: Path | None, runs: Path, run: str) -> None:
    """End a run for good; its newest model stays.

    Its journal is closed.

    RUN is its name, the beginning of that, or its folder.
    """
    import time

    from fedsus_server import runs as known

    folder = _home(home)
    found = known.find(folder, runs, run)
    ended = known.stop(folder, found, time.time)
    click.echo(f"run {found.name} {'is stopped' if ended else 'was over already'}")
    _receipt(folder, found)


@server.command()
@home_option
def status(home: Path | None) -> None:
    """Whether the server runs, where, and what it works on."""
    from fedsus_server import following

    click.echo(following.status_text(_home(home)))


@server.command("runs")
@home_option
@runs_option
def list_runs(home: Path | None, runs: Path) -> None:
    """All runs, oldest first."""
    from fedsus_server import following

    following.print_runs(_home(home), runs)


@server.group()
def devices() -> None:
    """The devices that may connect: their names and public keys."""


@devices.command("add")
@home_option
@click.argument("name")
@click.argument("key", type=click.Path(path_type=Path))
def add(home: Path | None, name: str, key: Path) -> None:
    """Let a device connect.

    NAME is what the roster calls it ('fedsus federation show'): secure sums go by it. KEY is its node.key.pub, which
    'fedsus client enroll' makes.
    """
    from fedsus_server import devices as known
    from fedsus_server.flower import control

    public = known.read_key(key)
    with control.connect(_home(home).connectable().loopback_port) as connected:
        known.add(connected, name, public)
    click.echo(f"{name} may connect: key {known.fingerprint(public)}")


@devices.command("list")
@home_option
def list_devices(home: Path | None) -> None:
    """All devices, and whether they are connected."""
    from rich.console import Console
    from rich.table import Table

    from fedsus_server import devices as known
    from fedsus_server.flower import control

    with control.connect(_home(home).connectable().loopback_port) as connected:
        found = connected.devices()
    table = Table("device", "connected", "key", box=None, header_style="bold")
    for device in found:
        table.add_row(device.name, "yes" if device.online else "no", known.fingerprint_of(device.public_key))
    Console().print(table if found else "no devices; add one: fedsus server devices add NAME KEY.pub")


@devices.command("remove")
@home_option
@click.argument("name")
def remove(home: Path | None, name: str) -> None:
    """Refuse a device from now on.

    Its key is never accepted again, under no name: to come back, the device needs a new one (move node.key and
    node.key.pub away, then 'fedsus client enroll').
    """
    from fedsus_server import devices as known
    from fedsus_server.flower import control

    with control.connect(_home(home).connectable().loopback_port) as connected:
        known.remove(connected, name)
    click.echo(f"{name} is refused from now on")
