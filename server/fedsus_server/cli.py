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


@click.group()
def server() -> None:
    """Run and look after the aggregation server, and its runs."""


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
def start(home: Path | None, names: tuple[str, ...], **asked: Any) -> None:
    """Start the server, in the foreground, until Ctrl-C or SIGTERM.

    Without --certificate, an authority and a certificate are made in the server's folder on first start.
    Listens on this machine alone unless --host says otherwise.
    """
    if bool(asked["certificate"]) != bool(asked["key"]):
        raise ConfigError("--certificate and --key go together")
    if asked["ca"] and not asked["certificate"]:
        raise ConfigError("--ca needs --certificate and --key")
    from fedsus_server import banner
    from fedsus_server.supervisor import Options, Supervisor

    folder, options = _home(home), Options(names=names, **asked)
    folder.make()
    with folder.lock():
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        banner.log_to(folder)
        Supervisor(folder, options, stop).run(lambda running: banner.show(folder, running))


@server.group()
def devices() -> None:
    """The devices that may connect: their names and public keys."""


@devices.command("add")
@home_option
@click.argument("name")
@click.argument("key", type=click.Path(path_type=Path))
def add(home: Path | None, name: str, key: Path) -> None:
    """Let a device connect: NAME is yours to choose, KEY its public key ('fedsus client enroll' makes it)."""
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
    """Refuse a device from now on."""
    from fedsus_server import devices as known
    from fedsus_server.flower import control

    with control.connect(_home(home).connectable().loopback_port) as connected:
        known.remove(connected, name)
    click.echo(f"{name} is refused from now on")
