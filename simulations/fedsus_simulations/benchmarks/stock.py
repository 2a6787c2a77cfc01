"""Stock Flower as a peer: SuperLink with TLS, node authentication and SQLite; SuperNodes with registered keys."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedsus_client import identity
from fedsus_server import certificates
from fedsus_simulations.benchmarks.processes import Child, Children, answers, free_port, tool

APP: Final = Path(__file__).with_name("stock")
SECURE_APP: Final = Path(__file__).with_name("stock_secagg")
ACTIVATED: Final = 'activate-node HTTP/1.1" 200'
"""The SuperLink prints it for each SuperNode that connects."""
_PEER: Final = "peer"


class StockFlower:
    """A SuperLink on loopback and the files around it; `children` stops everything.

    Args:
        children: where its processes are kept; their environment gets a ``FLWR_HOME`` of this folder.
        folder: empty; for certificates, keys, database and Flower's own files.
    """

    def __init__(self, children: Children, folder: Path) -> None:
        self._children, self._folder, self._port = children, folder, free_port()
        for name in ("home", "tls", "keys"):
            (folder / name).mkdir(parents=True)
        self._files = certificates.own(folder / "tls", ["127.0.0.1"], time.time)
        ca = f'root-certificates = "{self._files.ca}"'
        config = f'[superlink]\ndefault = "{_PEER}"\n\n[superlink.{_PEER}]\naddress = "127.0.0.1:{self._port}"\n{ca}\n'
        (folder / "home" / "config.toml").write_text(config, encoding="utf-8")
        self._home = {"FLWR_HOME": str(folder / "home")}

    def start(self) -> Child:
        """The SuperLink, once it listens."""
        command = [tool("flower-superlink"), "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--ssl-certfile", str(self._files.certificate), "--ssl-keyfile", str(self._files.key)]
        command += ["--ssl-ca-certfile", str(self._files.ca), "--enable-supernode-auth"]
        command += ["--database", str(self._folder / "state.db"), "--disable-runtime-dependency-installation"]
        child = self._children.start("stock-superlink", command, **self._home)
        self._children.wait("a SuperLink that listens", lambda: answers(self._port), 60)
        return child

    def register(self, name: str) -> None:
        """Make a key and register it."""
        key = self._folder / "keys" / name
        private = ec.generate_private_key(ec.SECP384R1())
        form = serialization.PrivateFormat.OpenSSH
        key.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        public = key.with_suffix(".pub")
        public.write_bytes(identity.public_line(private.public_key()))
        self._flwr("supernode", "register", str(public), _PEER)

    def launch(self, name: str, **environment: str) -> Child:
        """Start the SuperNode of a registered name."""
        key = self._folder / "keys" / name
        command = [tool("flower-supernode"), "--superlink", f"127.0.0.1:{self._port}"]
        command += ["--root-certificates", str(self._files.ca), "--auth-supernode-private-key", str(key)]
        command += ["--host", "127.0.0.1", "--port", str(free_port())]
        return self._children.start(f"stock-{name}", command, **self._home, **environment)

    def submit(self, source: Path = APP, **config: Any) -> Path:
        """Submit an app (its folder); the file that its ServerApp writes the times of rounds to."""
        app, times = self._folder / source.name, self._folder / f"times-{len(list(self._folder.glob('times-*')))}.json"
        if not app.exists():
            shutil.copytree(source, app, ignore=shutil.ignore_patterns("__pycache__"))
        values = " ".join(f"{name}={json.dumps(value)}" for name, value in {**config, "times": str(times)}.items())
        self._flwr("run", str(app), _PEER, "--run-config", values)
        return times

    def _flwr(self, *arguments: str) -> str:
        return self._children.call(f"flwr {arguments[0]}", [tool("flwr"), *arguments], **self._home)


def marks(times: Path) -> Sequence[float]:
    """Seconds since the epoch before the first round and after each, so far."""
    try:
        found: list[float] = json.loads(times.read_text(encoding="ascii"))
    except FileNotFoundError:
        return []
    return found
