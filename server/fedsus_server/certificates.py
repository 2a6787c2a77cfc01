"""TLS: certificates that the operator gives, or an authority made on first start.

P-256 keys, SHA-256. The authority signs server certificates and nothing else; its key stays in the server's
folder. Validity of the server's: 825 days, the longest that common clients accept (Apple HT210176).
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedsus.errors import ConfigError, EnvironmentFault
from fedsus.types import Clock

DAYS: Final = 825
_AUTHORITY_DAYS: Final = 3650
_RENEW_DAYS: Final = 30
_PEM: Final = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files that the gateway serves with; ``ca`` is what owners need, None for a public authority."""

    certificate: Path
    key: Path
    ca: Path | None


def given(certificate: Path, key: Path, ca: Path | None, clock: Clock) -> Certificates:
    """The operator's own files, checked.

    Raises:
        ConfigError: a file is missing or is something else, or key, certificate and authority do not fit.
        EnvironmentFault: the certificate is not valid now.
    """
    leaf = _certificate(certificate)
    if _key(key).public_key() != leaf.public_key():
        raise ConfigError(f"{key}: not the key of {certificate}")
    _valid(certificate, leaf, clock)
    if ca is not None:
        authority = _certificate(ca)
        _valid(ca, authority, clock)
        chain = [authority, *x509.load_pem_x509_certificates(certificate.read_bytes())[1:]]
        if not any(_issued(leaf, issuer) for issuer in chain) and leaf != authority:
            raise ConfigError(f"{ca}: did not sign {certificate}; give the authority that did")
    return Certificates(certificate.resolve(), key.resolve(), ca.resolve() if ca else None)


def own(folder: Path, names: Sequence[str], clock: Clock) -> Certificates:
    """The authority and server certificate in ``folder``: made when missing, re-issued for new names or before
    they expire. Owners keep the same ``ca.pem``.

    Args:
        folder: private to the server.
        names: host names and IP addresses that devices will dial; loopback is always among them.

    Raises:
        ConfigError: a name is none, or a file there is not what it should be.
        EnvironmentFault: the authority expired.
    """
    ca, ca_key = folder / "ca.pem", folder / "ca.key"
    files = Certificates(folder / "server.pem", folder / "server.key", ca)
    now = datetime.fromtimestamp(clock(), UTC)
    if not ca.exists() or not ca_key.exists():
        _make_authority(ca, ca_key, now)
    authority = _certificate(ca)
    _valid(ca, authority, clock, f"; move {folder} away, start again, and give the new ca.pem to all owners")
    wanted = _general_names(names)
    if files.certificate.exists() and files.key.exists():
        leaf = _certificate(files.certificate)
        wanted = list(dict.fromkeys([*wanted, *_names_of(leaf)]))
        fresh = leaf.not_valid_after_utc - now > timedelta(days=_RENEW_DAYS)
        if _issued(leaf, authority) and set(wanted) <= set(_names_of(leaf)) and fresh:
            if _key(files.key).public_key() != leaf.public_key():
                raise ConfigError(f"{files.key}: not the key of {files.certificate}; remove both and start again")
            return files
    _make_server(files, wanted, authority, _key(ca_key), now)
    return files


def fingerprint(path: Path) -> str:
    """SHA-256 of a certificate, for two people to compare by voice."""
    digest = _certificate(path).fingerprint(hashes.SHA256())[:16].hex()
    return ":".join(digest[i : i + 4] for i in range(0, len(digest), 4))


def authority_hash(path: Path) -> str:
    """SHA-256 (hex) of the authority that devices pin: sessions of secure aggregation name it as their server."""
    return _certificate(path).fingerprint(hashes.SHA256()).hex()


def host_names(host: str) -> list[str]:
    """What devices may call a server that listens on ``host``: for all interfaces, this machine's names."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 (compared, not bound)
        return list(dict.fromkeys([socket.gethostname(), socket.getfqdn()]))
    return [host]


def _make_authority(ca: Path, ca_key: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"fedsus server {os.urandom(4).hex()}")])
    usage = _usage(digital_signature=False, signs=True)
    certificate = (
        _builder(name, name, key.public_key(), now, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(ca_key, _private(key), 0o600)
    _write(ca, certificate.public_bytes(_PEM), 0o644)


def _make_server(
    files: Certificates,
    names: Sequence[x509.GeneralName],
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedsus server")])
    certificate = (
        _builder(subject, authority.subject, key.public_key(), now, DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True, signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    _write(files.key, _private(key), 0o600)
    _write(files.certificate, certificate.public_bytes(_PEM), 0o644)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        # Devices' clocks may be a little behind.
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, digital_signature: bool, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    """Names for the certificate: addresses as addresses, the rest as DNS names."""
    found: list[x509.GeneralName] = []
    for name in ["localhost", "127.0.0.1", "::1", *names]:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name.strip("[]"))))
        except ValueError:
            try:
                found.append(x509.DNSName(name))
            except ValueError:
                raise ConfigError(f"'{name}' is no host name or IP address") from None
            if not name or any(c.isspace() or c in "/:@" for c in name):
                raise ConfigError(f"'{name}' is no host name or IP address") from None
    return list(dict.fromkeys(found))


def _names_of(certificate: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def _certificate(path: Path) -> x509.Certificate:
    raw = _bytes(path)
    if b"PRIVATE KEY" in raw:
        raise ConfigError(f"{path}: a private key, where a certificate was expected")
    try:
        return x509.load_pem_x509_certificate(raw)
    except ValueError:
        raise ConfigError(f"{path}: not a certificate in PEM form") from None


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A private key of any type that TLS takes; those made here are on P-256."""
    try:
        key = serialization.load_pem_private_key(_bytes(path), password=None)
    except TypeError:
        raise ConfigError(f"{path}: protected by a password; give a key without one, mode 0600") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: not a private key in PEM form") from None
    return key  # type: ignore[return-value]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _valid(path: Path, certificate: x509.Certificate, clock: Clock, hint: str = "; renew it") -> None:
    now = datetime.fromtimestamp(clock(), UTC)
    if now > certificate.not_valid_after_utc:
        raise EnvironmentFault(f"{path}: the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d}{hint}")
    if now < certificate.not_valid_before_utc:
        start = certificate.not_valid_before_utc
        raise EnvironmentFault(f"{path}: the certificate is valid only from {start:%Y-%m-%d}; is this clock right?")


def _issued(leaf: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file; a key is never readable by others, not even for a moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise EnvironmentFault(f"{path}: cannot be written: {error.strerror}") from None
