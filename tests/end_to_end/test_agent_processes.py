"""Agents as processes: killed, ended, paused, refused, and cut off from their server."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flwr.proto import fab_pb2, node_pb2, run_pb2
from sites import PATIENCE, RECORDED, Sites, released, until

from fedsus.reporting import summary
from fedsus_client import identity
from fedsus_client.failures import ConnectionLost
from fedsus_client.flower import FleetConnection
from fedsus_server import certificates

GATED = """
exchange = "clear_sum"
rounds = {rounds}
spare_attempts = 40
deadline = {deadline}
[plan.cohort]
size = 3
minimum = {minimum}
[plan.training]
local_epochs = {epochs}
batch_size = 1
"""
pytestmark = pytest.mark.timeout(400)


def gated(sites: Sites, name: str, *, rounds: int, minimum: int = 2, task: str = "gated") -> Path:
    """A run whose trainings can be held past its deadline."""
    plan = GATED.format(rounds=rounds, deadline=sites.deadline, epochs=epochs(sites), minimum=minimum)
    return sites.open(task, plan, name=name)


def epochs(sites: Sites) -> int:
    """Of one batch each, which takes a second while it is held."""
    return round(3 * sites.deadline)


def number_of(sites: Sites, name: str) -> int:
    with sites.control() as control:
        return next(device.node_id for device in control.devices() if device.name == name)


def test_a_device_killed_while_training_is_survived_and_comes_back_with_its_key(sites: Sites) -> None:
    sites.hold("va")
    folder = gated(sites, "killed-device", rounds=300)
    node = number_of(sites, "va")
    attempt = sites.trained(folder, "va")
    sites.kill("va")
    sites.let_go("va")
    sites.start_agent("va")
    until(lambda: any(one.attempt == attempt for one in released(folder)), "the round of the survivors")
    (first,) = (one for one in released(folder) if one.attempt == attempt)
    assert (first.survivors, first.lost) == (2, 1)
    until(lambda: released(folder)[-1].survivors == 3, "all three")
    back = next(one.attempt for one in released(folder) if one.survivors == 3 and one.attempt > attempt)
    assert number_of(sites, "va") == node
    spent = sites.spent("va", folder)
    assert [what for what in spent if what[1] == attempt] == [("reserved", attempt)]  # no answer, no refund
    assert ("released", back) in spent


def test_sigterm_while_training_sends_nothing(sites: Sites) -> None:
    name, push = RECORDED, "POST /v1/fleet/push-messages"
    pushed = sites.recorder.asked[push]
    sites.hold(name)
    folder = gated(sites, "ended-device", rounds=1)
    attempt = sites.trained(folder, name)
    code, seconds = sites.terminate(name)
    assert (code, seconds < epochs(sites)) == (0, True), seconds  # a second each, as long as it is held
    status = sites.status(name)
    assert status is not None
    assert status.state == "stopped"
    assert status.run != folder.name
    spent = [what for what in sites.spent(name, folder) if what[1] == attempt]
    # A first batch may import for longer than an owner should wait: the attempt then counts as spent.
    assert spent in ([("reserved", attempt), ("refunded", attempt)], [("reserved", attempt)])
    sites.wait_for_run(folder, PATIENCE)
    assert [one.survivors for one in released(folder)] == [2]
    assert sites.recorder.asked[push] == pushed


def test_a_refusal_and_a_pause_are_only_counted_at_the_server(sites: Sites) -> None:
    asked, paused = "va", "hungary"
    refused, answered = counts(sites, asked)
    marker = sites.clients[paused].state / "paused"
    marker.touch()
    try:
        # A task that all three have installed, and one policy alone allows.
        folder = gated(sites, "refused", task="reserved", rounds=1, minimum=1)
        sites.wait_for_run(folder, PATIENCE)
    finally:
        marker.unlink()
    entry = released(folder)[0]
    assert (entry.survivors, entry.refused, entry.lost) == (1, 2, 0)
    assert not any(sites.seen(name).exists() for name in (asked, paused))
    assert sites.spent(asked, folder) == sites.spent(paused, folder) == []
    assert "refused: task 'reserved' is not allowed: policy.toml allows" in sites.log(asked)
    assert "refused: the owner paused this device" in sites.log(paused)
    assert b"is not allowed" not in (folder / "server.log").read_bytes() + (folder / "journal.jsonl").read_bytes()
    until(lambda: counts(sites, asked) == (refused + 1, answered), "the owner's status")
    until(lambda: last(sites, "cleveland") == (folder.name, 1, 1), "the owner's status")


def counts(sites: Sites, name: str) -> tuple[int, int]:
    """Refused and answered requests, as the owner's status says."""
    status = sites.status(name)
    assert status is not None
    return status.refused, status.answered


def last(sites: Sites, name: str) -> tuple[str | None, int | None, int | None]:
    """Run, round and rounds of the last answer, as the owner's status says."""
    status = sites.status(name)
    assert status is not None
    return status.run, status.round, status.rounds


def test_an_admitted_device_cannot_ask_for_bundle_or_run(sites: Sites) -> None:
    key, _ = identity.load(sites.clients["cleveland"].folder / "node.key")
    connection = FleetConnection(f"127.0.0.1:{sites.port}", str(sites.home.tls / "ca.pem"), key, time.time)
    node = node_pb2.Node(node_id=connection.connect())
    try:
        for path, request in (
            ("get-fab", fab_pb2.GetFabRequest(node=node, run_id=1)),
            ("get-run", run_pb2.GetRunRequest(node=node, run_id=1)),
        ):
            with pytest.raises(ConnectionLost, match=f"answered {path} with HTTP 404"):
                connection._call(path, request, None)
        connection.heartbeat()  # the same key and signature are good for what is allowed
    finally:
        connection._http.close()


def test_a_server_restart_is_waited_for_and_the_run_goes_on(sites: Sites) -> None:
    sites.hold("va")
    before = len(sites.log("cleveland"))
    folder = gated(sites, "restarted-server", rounds=2)
    sites.trained(folder, "va")
    sites.stop("server")
    sites.let_go("va")
    down = f"server: the server cannot be reached at 127.0.0.1:{sites.port}: "

    def said() -> list[str]:
        """What cleveland's agent said of it since ``before``."""
        return [line for line in sites.log("cleveland")[before:].splitlines() if down in line]

    until(said, "the agent to notice")
    line = said()[0]
    assert line.endswith(("; training goes on", "; the answer is sent again")) or "; next try in 0." in line
    code, _ = sites.terminate("cleveland")
    assert code == 0
    status = sites.status("cleveland")
    assert status is not None
    assert status.state == "stopped"

    before = len(sites.log("cleveland"))
    sites.start_agent("cleveland")  # the server is down at its start
    until(lambda: len(said()) >= 2, "the agent to wait for the server")
    assert all("; next try in 0." in line for line in said())
    sites.serve()
    sites.wait_for_run(folder, PATIENCE)
    assert summary(folder).status == "completed"
    assert len(summary(folder).rounds) == 2
    for name in sites.clients:
        assert sites.process(name).poll() is None, f"{name} went away"


def test_wrong_authority_expired_certificate_and_unknown_key_are_told_apart(sites: Sites, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = certificates.own(tmp_path / "other", ["127.0.0.1"], time.time)
    with expired_server(tmp_path) as (port, authority):
        server = f'address = "127.0.0.1:{sites.port}"'
        names = {"stranger": "", "wrong-ca": "", "expired": ""}
        try:
            for name in names:
                files = sites.add(name)
                text = files.agent.read_text(encoding="utf-8")
                if name == "wrong-ca":
                    text = text.replace(str(sites.home.tls / "ca.pem"), str(other.ca))
                elif name == "expired":
                    text = text.replace(server, f'address = "127.0.0.1:{port}"')
                    text = text.replace(str(sites.home.tls / "ca.pem"), str(authority))
                files.agent.write_text(text, encoding="utf-8")
                sites.start_agent(name)
            expected = {
                "stranger": f"key: 127.0.0.1:{sites.port} does not",
                "wrong-ca": f"tls: the certificate of 127.0.0.1:{sites.port} is not accepted: ",
                "expired": f"tls: the certificate of 127.0.0.1:{port} is not accepted: certificate has expired",
            }
            for name, line in expected.items():
                until(lambda name=name, line=line: sites.log(name).count(line) >= 2, f"{name}: {line}")  # type: ignore[misc]
                found = next(text for text in sites.log(name).splitlines() if line in text)
                assert "; next try in 0." in found
                status = sites.status(name)
                assert status is not None
                assert (status.state, status.answered) == ("connecting", 0)
            sites.admit("stranger")
            try:
                until(lambda: "INFO connected to" in sites.log("stranger"), "the key to be admitted")
            finally:
                sites.dismiss("stranger")
        finally:
            for name in names:
                sites.kill(name)
                del sites.clients[name]


@contextmanager
def expired_server(folder: Path) -> Iterator[tuple[int, Path]]:
    """A TLS server whose certificate, its own authority, expired yesterday; its port and that file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=9))
        .not_valid_after(now - datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "expired.pem", folder / "expired.key"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    no_password = serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    stream, _ = listener.accept()
                except OSError:
                    return
                try:
                    context.wrap_socket(stream, server_side=True).close()
                except OSError:
                    stream.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], pem
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)
