"""What `fedsus server start` says."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import click
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from fedsus_server.certificates import fingerprint
from fedsus_server.home import Home, Running, home_option


def show(home: Home, running: Running) -> None:
    """Where the server is, what owners need, and what to do next."""
    option = home_option(home)
    rows = [("address", f"{running.address}  (TLS; the devices' paths and nothing else)")]
    if running.ca is not None:
        rows += [("give to owners", running.ca), ("", f"fingerprint {fingerprint(Path(running.ca))}")]
    rows += [("health (gRPC)", f"port {running.health_port}"), ("logs", str(home.logs))]
    if running.host in ("127.0.0.1", "::1", "localhost"):
        rows.append(("note", "only this machine can connect; --host 0.0.0.0 --name DNS-NAME lets devices in"))
    rows += [
        ("next", f"fedsus server devices add NAME KEY.pub{option}"),
        ("", f"fedsus server run run.toml{option}"),
        ("stop", f"Ctrl-C, or kill {running.pid}; runs go on at the next start"),
    ]
    text = "\n".join(f"{name:<14}  {value}" for name, value in rows)
    console = Console()
    if console.is_terminal:
        console.print(Panel(Text(text), title="fedsus server", expand=False))
    else:
        click.echo(text)


def log_to(home: Home) -> None:
    """Send the server's own log to ``logs/server.log``, and to the terminal as it happens."""
    logger = logging.getLogger("fedsus.server")
    logger.setLevel(logging.INFO)
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    for handler in (logging.FileHandler(home.logs / "server.log", encoding="utf-8"), logging.StreamHandler()):
        handler.setFormatter(formatter)
        logger.addHandler(handler)
