"""Machines with networks of their own, on this one: namespaces that meet at a server's address and nowhere else.

Each site has one line to the server and no other: no route leads to another site, to this machine or beyond. Names are
made anew for each run, and nothing outside of the namespaces is changed. A guard, which is a process of its own, waits
for the end of the test however that comes, then ends what is still in the namespaces and removes them by name.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

REQUIRE = "FEDSUS_REQUIRE_NAMESPACES"
"""Set to 1 where the tests that need namespaces must not be skipped: in .ci/run."""
ADDRESS = "192.0.2.1"  # RFC 5737: for documentation
_PATIENCE = 20.0
_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'  # seen by this process alone: "ip netns exec" has its own mounts
_GUARD = """
read -r _
for name in "$@"; do
  for look in $(seq 100); do
    found=$(ip netns pids "$name") && [ -n "$found" ] || break
    kill -s KILL $found 2>/dev/null
    sleep 0.1
  done
  ip netns del "$name"
done
"""


@cache
def missing() -> str | None:
    """Why there can be no namespaces here; None where there can."""
    tools = [tool for tool in ("ip", "unshare", "mount", "bash") if shutil.which(tool) is None]
    if tools:
        return f"no command {', '.join(repr(tool) for tool in tools)}"
    name = f"fedsus-{secrets.token_hex(4)}"
    try:
        _ip("netns", "add", name)
        try:
            _ip(*_wrapped(name, Path("/etc/hosts"), ["true"])[1:])
            _ip("-n", name, "link", "add", "probe", "type", "veth", "peer", "name", "other")
        finally:
            _ip("netns", "del", name)
    except subprocess.CalledProcessError as error:
        return str(error.stderr.strip().splitlines()[-1] if error.stderr.strip() else error)
    return None


class Network:
    """A server's namespace and one for each site; see `network`.

    Args:
        folder: where the table of host names goes.
        server: name of the server's machine.
        sites: names of the others.
        host: DNS name of the server, which the sites know.
    """

    def __init__(self, folder: Path, server: str, sites: Sequence[str], host: str) -> None:
        run = secrets.token_hex(4)
        self.server, self.sites = server, tuple(sites)
        self.names = {machine: f"fedsus-{run}-{machine}" for machine in (server, *sites)}
        self._hosts = folder / "hosts"
        self._hosts.write_text(f"127.0.0.1 localhost\n{ADDRESS} {host}\n", encoding="utf-8")

    def command(self, machine: str, arguments: Sequence[str]) -> list[str]:
        """What runs ``arguments`` on a machine; the process becomes them, so that its id is theirs."""
        return _wrapped(self.names[machine], self._hosts, arguments)

    def make(self) -> None:
        """Namespaces, one line from each site to the server, and the server's address."""
        server = self.names[self.server]
        for name in self.names.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", server, "addr", "add", f"{ADDRESS}/32", "dev", "lo")
        for number, site in enumerate(self.sites):
            name, line, near, far = self.names[site], f"site{number}", f"{4 * number + 1}", f"{4 * number + 2}"
            _ip("link", "add", "uplink", "netns", name, "type", "veth", "peer", "name", line, "netns", server)
            _ip("-n", server, "addr", "add", f"198.51.100.{near}/30", "dev", line)  # RFC 5737 too
            _ip("-n", server, "link", "set", line, "up")
            _ip("-n", name, "addr", "add", f"198.51.100.{far}/30", "dev", "uplink")
            _ip("-n", name, "link", "set", "uplink", "up")
            _ip("-n", name, "route", "add", f"{ADDRESS}/32", "via", f"198.51.100.{near}")

    def addresses(self, machine: str) -> list[str]:
        """Its IPv4 addresses besides loopback's own."""
        lines = _ip("-n", self.names[machine], "-4", "-o", "addr").splitlines()
        found = [line.split()[3].partition("/")[0] for line in lines]
        return [address for address in found if not address.startswith("127.")]


@contextlib.contextmanager
def network(folder: Path, server: str, sites: Sequence[str], host: str) -> Iterator[Network]:
    """A network, and nothing of it afterwards."""
    made = Network(folder, server, sites, host)
    with subprocess.Popen(
        ["bash", "-c", _GUARD, "guard", *made.names.values()],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as guard:
        try:
            made.make()
            yield made
        finally:
            assert guard.stdin is not None
            guard.stdin.close()
            guard.wait(_PATIENCE)


def offline(arguments: Sequence[str]) -> list[str]:
    """What runs ``arguments`` without any network."""
    return ["unshare", "--net", *arguments]


def existing() -> set[str]:
    """Names of all namespaces of this machine."""
    return {line.split()[0] for line in _ip("netns", "list").splitlines() if line}


def required() -> bool:
    """Whether the tests that need namespaces must run."""
    return os.environ.get(REQUIRE) == "1"


def _wrapped(name: str, hosts: Path, arguments: Sequence[str]) -> list[str]:
    return ["ip", "netns", "exec", name, "sh", "-c", _HOSTS, str(hosts), *arguments]


def _ip(*arguments: str) -> str:
    """Run ``ip``; what it printed."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=_PATIENCE).stdout
