"""The device's node key: ECDSA on P-384, which Flower's node authentication wants.

The private half is PKCS#8 PEM, mode 0600; the public half lies beside it as an OpenSSH line (``.pub``), the form in
which an operator registers it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedsus.errors import ConfigError
from fedsus.owner.key_files import write_new

_LONGEST: Final = 65_536

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


def public_file(path: Path) -> Path:
    """Where the public half of the key at ``path`` lies."""
    return path.with_name(path.name + ".pub")


def create(path: Path) -> PublicKey:
    """Make a node key at ``path`` and its public half beside it.

    Raises:
        ConfigError: one of the files exists; a key is never overwritten.
        EnvironmentFault: the folder cannot be written.
    """
    for file in (path, public_file(path)):
        if file.exists():
            raise ConfigError(f"{file}: exists already; a key is never overwritten, move it away first")
    key = ec.generate_private_key(ec.SECP384R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_new(path, secret, 0o600)
    write_new(public_file(path), public_line(key.public_key()), 0o644)
    return key.public_key()


def load(path: Path) -> tuple[PrivateKey, PublicKey]:
    """The key at ``path``.

    Raises:
        ConfigError: missing, not a P-384 key, protected by a password, or readable by other users.
    """
    try:
        with path.open("rb") as file:  # one file for both questions, also while somebody swaps it
            mode, raw = os.fstat(file.fileno()).st_mode, file.read(_LONGEST)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no node key; make one with 'fedsus client enroll'") from None
    except OSError as error:
        raise ConfigError(f"{path}: the node key cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise ConfigError(f"{path}: other users may read the node key (mode {mode & 0o777:04o}); run: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(raw, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: not a private key in PEM form without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError(f"{path}: not an ECDSA key on curve P-384; make one with 'fedsus client enroll'")
    return key, key.public_key()


def public_line(public: PublicKey) -> bytes:
    """The OpenSSH form of a public key: one line."""
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH) + b"\n"


def fingerprint(public: PublicKey) -> str:
    """SHA-256 of the public key (DER), first 16 bytes in hex: for two people to compare by voice."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    text = digest.finalize()[:16].hex()
    return ":".join(text[i : i + 4] for i in range(0, len(text), 4))
