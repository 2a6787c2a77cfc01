"""Certificates: made, given, wrong, expired."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fedsus.errors import ConfigError, EnvironmentFault, UserError
from fedsus_server import certificates

NOW = 1_800_000_000.0
DAY = 86_400.0


def clock(days: float = 0.0) -> certificates.Clock:
    return lambda: NOW + days * DAY


def test_made_ones_carry_the_names_and_hide_the_keys(tmp_path: Path) -> None:
    files = certificates.own(tmp_path, ["hospital.example", "192.0.2.7"], clock())
    leaf = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "hospital.example"]
    assert ipaddress.ip_address("192.0.2.7") in names.get_values_for_type(x509.IPAddress)
    assert (leaf.not_valid_after_utc.timestamp() - NOW) / DAY == certificates.DAYS
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("ca.key", "server.key")} == {0o600}


def test_the_authority_stays_when_names_are_added_and_before_the_certificate_expires(tmp_path: Path) -> None:
    first = certificates.own(tmp_path, ["a.example"], clock())
    authority, leaf = (tmp_path / "ca.pem").read_bytes(), first.certificate.read_bytes()
    assert certificates.own(tmp_path, ["a.example"], clock(700)).certificate.read_bytes() == leaf
    certificates.own(tmp_path, ["b.example"], clock(700))
    renewed = x509.load_pem_x509_certificate(first.certificate.read_bytes())
    names = renewed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"a.example", "b.example"} <= set(names.get_values_for_type(x509.DNSName))
    again = first.certificate.read_bytes()
    certificates.own(tmp_path, [], clock(700 + certificates.DAYS - 10))
    assert first.certificate.read_bytes() != again
    assert (tmp_path / "ca.pem").read_bytes() == authority


def test_a_device_accepts_the_made_certificate_by_name_and_by_address(tmp_path: Path) -> None:
    files = certificates.own(tmp_path, [], time.time)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(files.certificate, files.key)
    for name in ("localhost", "127.0.0.1"):
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=lambda one: served.wrap_socket(one, server_side=True).close(), args=(theirs,))
        thread.start()
        context = ssl.create_default_context(cafile=str(files.ca))
        with context.wrap_socket(ours, server_hostname=name) as stream:
            assert stream.version() in ("TLSv1.2", "TLSv1.3")
        thread.join(60)


@pytest.mark.parametrize("name", ["", "a b", "http://host", "user@host", "häuser"])
def test_names_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no host name"):
        certificates.own(tmp_path, [name], clock())


def given(
    folder: Path, certificate: str = "server.pem", key: str = "server.key", ca: str | None = "ca.pem", days: float = 0.0
) -> certificates.Certificates:
    return certificates.given(folder / certificate, folder / key, folder / ca if ca else None, clock(days))


def test_given_files_that_fit_are_taken(tmp_path: Path) -> None:
    certificates.own(tmp_path, [], clock())
    assert given(tmp_path).ca == tmp_path / "ca.pem"
    assert given(tmp_path, ca=None).ca is None
    assert given(tmp_path, certificate="ca.pem", key="ca.key", ca="ca.pem").key == tmp_path / "ca.key"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"certificate": "absent.pem"}, "absent.pem: no such file"),
        ({"key": "absent.key"}, "absent.key: no such file"),
        ({"certificate": "server.key"}, "a private key, where a certificate"),
        ({"certificate": "text"}, "text: not a certificate"),
        ({"key": "server.pem"}, "server.pem: not a private key"),
        ({"key": "locked.key"}, "protected by a password"),
        ({"key": "ca.key"}, "ca.key: not the key of"),
        ({"key": "rsa.key"}, "rsa.key: not the key of"),
        ({"ca": "other.pem"}, "other.pem: did not sign"),
        ({"days": 900.0}, "server.pem: the certificate expired on 2029-04-"),
        ({"days": -1.0}, "is this clock right"),
    ],
)
def test_given_files_that_do_not_fit_are_one_line(tmp_path: Path, wrong: dict[str, object], reason: str) -> None:
    certificates.own(tmp_path, [], clock())
    (tmp_path / "more").mkdir()
    certificates.own(tmp_path / "more", [], clock())
    (tmp_path / "other.pem").write_bytes((tmp_path / "more" / "ca.pem").read_bytes())
    (tmp_path / "text").write_text("hello", encoding="ascii")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = serialization.BestAvailableEncryption(b"secret")
    (tmp_path / "locked.key").write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(pem, pkcs8, locked))
    plain = rsa.generate_private_key(65537, 2048).private_bytes(pem, pkcs8, serialization.NoEncryption())
    (tmp_path / "rsa.key").write_bytes(plain)
    with pytest.raises(UserError, match=reason) as caught:
        given(tmp_path, **wrong)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_expired_authority_says_what_to_do(tmp_path: Path) -> None:
    certificates.own(tmp_path, [], clock())
    with pytest.raises(EnvironmentFault, match=r"expired on .*give the new ca\.pem to all owners"):
        certificates.own(tmp_path, [], clock(3651))
