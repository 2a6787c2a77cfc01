"""The node key: made once, read only if it is safe, and in the form that Flower registers."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fedsus.errors import ConfigError
from fedsus_client import identity


def test_a_key_is_made_and_read_back(tmp_path: Path) -> None:
    made = identity.create(tmp_path / "keys" / "node.key")
    private, public = identity.load(tmp_path / "keys" / "node.key")
    assert public.public_numbers() == made.public_numbers() == private.public_key().public_numbers()
    assert isinstance(private.curve, ec.SECP384R1)
    assert stat.S_IMODE((tmp_path / "keys" / "node.key").stat().st_mode) == 0o600


def test_the_public_file_is_what_flower_registers(tmp_path: Path) -> None:
    made = identity.create(tmp_path / "node.key")
    read = serialization.load_ssh_public_key((tmp_path / "node.key.pub").read_bytes())
    assert isinstance(read, ec.EllipticCurvePublicKey)
    assert read.public_numbers() == made.public_numbers()
    assert b"PRIVATE" not in (tmp_path / "node.key.pub").read_bytes()


@pytest.mark.parametrize("name", ["node.key", "node.key.pub"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(ConfigError, match="never overwritten"):
        identity.create(tmp_path / "node.key")
    assert (tmp_path / name).read_bytes() == b"precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_fingerprints_differ(tmp_path: Path) -> None:
    one, other = identity.create(tmp_path / "a"), identity.create(tmp_path / "b")
    assert identity.fingerprint(one) == identity.fingerprint(identity.load(tmp_path / "a")[1])
    assert identity.fingerprint(one) != identity.fingerprint(other)
    assert len(identity.fingerprint(one)) == 39


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    identity.create(tmp_path / "node.key")
    (tmp_path / "node.key").chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        identity.load(tmp_path / "node.key")


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fedsus client enroll"):
        identity.load(tmp_path / "node.key")


@pytest.mark.parametrize(
    ("kind", "line"), [("text", "PEM"), ("ed25519", "P-384"), ("p256", "P-384"), ("password", "without a password")]
)
def test_another_kind_of_key_is_refused(tmp_path: Path, kind: str, line: str) -> None:
    hidden = serialization.BestAvailableEncryption(b"secret")
    clear = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    content: dict[str, Callable[[], bytes]] = {
        "text": lambda: b"a key, honestly",
        "ed25519": lambda: ed25519.Ed25519PrivateKey.generate().private_bytes(pem, pkcs8, clear),
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()).private_bytes(pem, pkcs8, clear),
        "password": lambda: ec.generate_private_key(ec.SECP384R1()).private_bytes(pem, pkcs8, hidden),
    }
    (tmp_path / "node.key").write_bytes(content[kind]())
    (tmp_path / "node.key").chmod(0o600)
    with pytest.raises(ConfigError, match=line) as caught:
        identity.load(tmp_path / "node.key")
    assert "\n" not in str(caught.value)
