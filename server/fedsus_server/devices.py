"""Node keys: who may connect, by the operator's names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedsus.errors import ConfigError, UserError

if TYPE_CHECKING:
    from fedsus_server.flower.control import Control

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def read_key(path: Path) -> ec.EllipticCurvePublicKey:
    """A device's public key: an OpenSSH line or PEM, ECDSA on P-384.

    Raises:
        ConfigError: missing, something else, or a private key.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if b"PRIVATE KEY" in raw:
        raise ConfigError(
            f"{path}: a private key, which must never leave its device; give the public one, {path.name}.pub"
        )
    pem = raw.lstrip().startswith(b"-----BEGIN")
    load = serialization.load_pem_public_key if pem else serialization.load_ssh_public_key
    try:
        key = load(raw.strip())
    except (ValueError, UnsupportedAlgorithm):
        hint = "'fedsus client enroll' makes one on the device: node.key.pub, not identity.key.pub"
        raise ConfigError(f"{path}: not a public key of a node; {hint}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError(f"{path}: not an ECDSA key on curve P-384; 'fedsus client enroll' makes one on the device")
    return key


def add(control: Control, name: str, key: ec.EllipticCurvePublicKey) -> int:
    """Register a key under a name; Flower's number for it.

    Raises:
        ConfigError: the name is none, or the name or the key is taken.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"device name '{name}': letters, digits, '_', '.' and '-', at most 64, not '-' first")
    for device in control.devices():
        if device.name == name:
            raise ConfigError(f"device name '{name}' is taken; choose another, or: fedsus server devices remove {name}")
        if fingerprint_of(device.public_key) == fingerprint(key):
            raise ConfigError(f"this key is taken by device '{device.name}'; each device needs a key of its own")
    try:
        return control.add(name, _pem(key))
    except UserError as error:
        if "already in use" in str(error).lower():
            raise ConfigError(
                "this key was removed before and is refused for good; the device makes a new one: move node.key and "
                "node.key.pub away, then: fedsus client enroll"
            ) from None
        raise


def remove(control: Control, name: str) -> None:
    """Forget the key of a name.

    Raises:
        ConfigError: no device has it.
    """
    found = next((device for device in control.devices() if device.name == name), None)
    if found is None:
        raise ConfigError(f"no device is named '{name}'; see: fedsus server devices list")
    control.remove(found.node_id)


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of the key (DER), first 16 bytes in hex: for two people to compare by voice."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    )
    text = digest.finalize()[:16].hex()
    return ":".join(text[i : i + 4] for i in range(0, len(text), 4))


def fingerprint_of(pem: bytes) -> str:
    """As `fingerprint`, of a registered key in PEM; a dash where it is none."""
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        return "-"
    return fingerprint(key) if isinstance(key, ec.EllipticCurvePublicKey) else "-"


def _pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
