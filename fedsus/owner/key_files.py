"""Ed25519 keys on a disk: a device's identity, an owner's key for signing rosters, an operator's for signing receipts.

The private half is PKCS #8 PEM, mode 0600. The public half lies beside it with ``.pub``: one line, the key's purpose
and 64 hex digits. The purpose is part of the line because a key has one: a device that signs its messages with the
key that signs rosters would make each of its messages a chance to forge a roster.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final, Literal, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fedsus.errors import ConfigError, EnvironmentFault
from fedsus.secagg.keys import Identity
from fedsus.secagg.points import fault

Purpose: TypeAlias = Literal["identity", "signer", "operator"]
MAKERS: Final = {
    "identity": "fedsus client enroll",
    "signer": "fedsus federation key",
    "operator": "fedsus server init",
}
"""Which command makes a key of each purpose."""

_A: Final = {"identity": "an identity key", "signer": "a signer key", "operator": "an operator's key"}
_LONGEST: Final = 4096
_PEM: Final = b"-----BEGIN PRIVATE KEY-----"
_LINE: Final = re.compile(rb"fedsus-(identity|signer|operator) ([0-9a-f]{64})\s*")


def public_file(path: Path) -> Path:
    """Where the public half of the key at ``path`` lies."""
    return path.with_name(path.name + ".pub")


def create(path: Path, purpose: Purpose) -> Identity:
    """Make a key at ``path`` and its public half beside it.

    Raises:
        ConfigError: one of the files exists; a key is never overwritten.
        EnvironmentFault: the folder cannot be written.
    """
    for file in (path, public_file(path)):
        if file.exists() or file.is_symlink():
            raise ConfigError(f"{file}: exists already; a key is never overwritten, move it away first")
    key = Ed25519PrivateKey.generate()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise EnvironmentFault(f"{path.parent}: cannot be made: {error.strerror}") from None
    write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    made = Identity(key)
    write_public(path, made.public.hex(), purpose)
    return made


def load(path: Path, purpose: Purpose) -> Identity:
    """The key at ``path``.

    Raises:
        ConfigError: missing, not an Ed25519 key in PEM form without a password, or usable by others.
    """
    what = f"the {purpose} key"
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:  # one file for both questions, also while somebody swaps it
            found = os.fstat(handle)
            raw = os.read(handle, _LONGEST) if stat.S_ISREG(found.st_mode) else b""
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no {purpose} key; make one with '{MAKERS[purpose]}'") from None
    except OSError as error:
        raise ConfigError(f"{path}: {what} cannot be read: {error.strerror}") from None
    if found.st_mode & 0o077:
        mode = found.st_mode & 0o777
        raise ConfigError(f"{path}: other users may use {what} (mode {mode:04o}); run: chmod 600 {path}")
    try:
        if not raw.lstrip().startswith(_PEM):  # neither 32 raw bytes nor another file by mistake
            raise ConfigError("not PEM")
        return Identity.load(raw)
    except ConfigError:
        raise ConfigError(f"{path}: not an Ed25519 private key in PEM form without a password") from None


def write_public(path: Path, key: str, purpose: Purpose) -> None:
    """Write the public half of the private key at ``path``; ``key`` in hex.

    Raises:
        ConfigError: the file exists.
        EnvironmentFault: it cannot be written.
    """
    write_new(public_file(path), f"fedsus-{purpose} {key}\n".encode(), 0o644)


_NODE: Final = b"ecdsa-sha2-"


def read_public(file: Path, purpose: Purpose) -> str:
    """The public key (hex) of a ``.pub`` file.

    Raises:
        ConfigError: missing, of another form or purpose, or not a key that can vouch for somebody.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        try:
            raw = os.read(handle, _LONGEST)
        finally:
            os.close(handle)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    line = _LINE.fullmatch(raw)
    if line is None:
        hint = "; it is a private key: send and name the file with .pub" if _PEM in raw else ""
        if raw.startswith(_NODE):
            hint = "; it is the node key, which the operator registers: give identity.key.pub"
        raise ConfigError(f"{file}: not one line 'fedsus-{purpose} <64 hex digits>'{hint}")
    found, key = line[1].decode(), line[2].decode()
    if found != purpose:
        raise ConfigError(f"{file}: {_A[found]}, not {_A[purpose]}; '{MAKERS[purpose]}' makes one")
    if why := fault(bytes.fromhex(key)):
        raise ConfigError(f"{file}: {why}")
    return key


def write_new(path: Path, content: bytes, mode: int) -> None:
    """A new key file, on the disk when this returns.

    Raises:
        ConfigError: the file exists.
        EnvironmentFault: it cannot be written.
    """
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise ConfigError(f"{path}: exists already; a key is never overwritten, move it away first") from None
    except OSError as error:
        raise EnvironmentFault(f"{path}: cannot be written: {error.strerror}") from None
