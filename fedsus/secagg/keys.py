"""Keys and what is done with them: identities sign, agreements give secrets, secrets give keys, keys seal.

Every primitive is `cryptography`'s. Everything that is signed, hashed or derived starts with a tag and a version and
is encoded so that two different inputs never have the same bytes.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from typing import Any, Final, NoReturn

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedsus.errors import ConfigError, ProtocolViolation
from fedsus.secagg import points
from fedsus.secagg.secret import Secret

VERSION: Final = 1
KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
HASH_BYTES: Final = 32
SEAL_BYTES: Final = 16
"""What sealing adds to the length of a plain text."""

_TAG: Final = b"fedsus secagg"
_PREFIX: Final = _TAG + bytes([VERSION])
_STATEMENT: Final = struct.Struct(f">{len(_PREFIX)}sB{HASH_BYTES}sI{HASH_BYTES}s")
_SHA256: Final = hashes.SHA256()
_NONCE: Final = bytes(12)


class Identity:
    """A client's long-lived Ed25519 signing key (RFC 8032). Shows its fingerprint only."""

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Identity:
        """A fresh identity from the operating system's generator."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, stored: bytes | Secret) -> Identity:
        """The identity of 32 raw private bytes, or of an unencrypted PEM file (PKCS #8).

        Raises:
            ConfigError: neither of both.
        """
        try:
            return cls(_signing_key(stored.reveal() if isinstance(stored, Secret) else stored))
        except (ValueError, TypeError, UnsupportedAlgorithm):
            pass
        del stored  # a traceback that shows local values shows no key
        raise ConfigError(
            "identity: not an Ed25519 private key: 32 raw bytes or an unencrypted PEM file are needed; "
            "`fedsus client enroll` makes one"
        )

    def sign(self, message: bytes) -> bytes:
        """The signature (64 bytes) of ``message``."""
        return self._key.sign(message)

    def private_bytes(self) -> Secret:
        """The 32 raw private bytes, for the command that writes a device's identity file."""
        return Secret(self._key.private_bytes_raw())

    def __repr__(self) -> str:
        return f"Identity({fingerprint(self.public)})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("an identity cannot be copied or pickled")


def fingerprint(public: bytes) -> str:
    """SHA-256 of a public key, its first 16 bytes, in groups of four digits: to compare by voice."""
    text = hashlib.sha256(public).hexdigest()[:32]
    return ":".join(text[i : i + 4] for i in range(0, len(text), 4))


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is ``public``'s over ``message`` (Ed25519); False for malformed ones too.

    A public key of low order is refused: under one, a single signature fits any message (Chalkias, Garillot,
    Nikolaenko, "Taming the many EdDSAs", 2020), so it would say nothing about who signed what.
    """
    if len(signature) != SIGNATURE_BYTES or points.fault(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class Signatures:
    """Verifies signatures and counts; can remember good ones, so that an identical check is not done twice.

    A device needs no cache. A process that plays many clients checks the same signatures once a client. Safe to share
    between threads.

    Attributes:
        verified: checks that were computed.
        cached: checks that were answered from memory.
    """

    def __init__(self, cache: int = 0) -> None:
        """Remember at most ``cache`` good checks, the oldest forgotten first; 0 remembers none."""
        self.verified = 0
        self.cached = 0
        self._limit = cache
        self._good: dict[tuple[bytes, bytes, bytes], None] = {}
        self._lock = threading.Lock()

    def check(self, public: bytes, message: bytes, signature: bytes) -> bool:
        """As `verify`."""
        # Messages are kept as a hash, for they may be long; the two others are short, or `verify` refuses them.
        key = (public, hashlib.sha256(message).digest(), signature) if self._limit else None
        with self._lock:
            if key is not None and key in self._good:
                self.cached += 1
                return True
            self.verified += 1
        good = verify(public, message, signature)
        if good and key is not None:  # a bad one is not kept: a sender of rubbish could push out the good ones
            with self._lock:
                if len(self._good) >= self._limit:
                    del self._good[next(iter(self._good))]
                self._good[key] = None
        return good


class Agreement:
    """One fresh X25519 key (RFC 7748). OpenSSL clears it when the last reference is dropped, as `wipe` does."""

    __slots__ = ("_key", "public")

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key: X25519PrivateKey | None = key
        self.public = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Agreement:
        """A fresh key from the operating system's generator."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def rebuild(cls, raw: bytes | Secret, public: bytes) -> Agreement:
        """The key of a rebuilt 32-byte secret, checked against the public key that was advertised.

        Raises:
            ProtocolViolation: another length, or the secret of another key.
        """
        secret = raw if isinstance(raw, Secret) else Secret(raw)
        del raw  # a traceback that shows local values shows no key
        try:
            key = X25519PrivateKey.from_private_bytes(secret.reveal())
        except ValueError:
            raise ProtocolViolation("rebuilt key: not 32 bytes") from None
        rebuilt = cls(key)
        if rebuilt.public != public:
            raise ProtocolViolation("rebuilt key: it does not belong to the advertised public key")
        return rebuilt

    def exchange(self, peer: bytes) -> Secret:
        """The 32 secret bytes shared with the public key ``peer``: derived from X25519's output and both public keys.

        The public keys must go in: X25519 ignores the top bit, reduces mod p, and clears points of order 8, so anybody
        can make other public keys that have the same output as a given one (RFC 7748, section 7). No comparison of
        public keys finds them, and a client could copy another's masks so as to cancel them.

        Raises:
            ProtocolViolation: not 32 bytes, not reduced mod p, a point of low order (the output would be zero
                whatever our key), or this key was wiped.
        """
        key = self._alive()
        if len(peer) != KEY_BYTES or int.from_bytes(peer, "little") >= points.FIELD:
            raise ProtocolViolation("advertised key: not the canonical encoding of an X25519 key")
        try:
            output = Secret(key.exchange(X25519PublicKey.from_public_bytes(peer)))
        except ValueError:
            raise ProtocolViolation("advertised key: a point of low order") from None
        return derive(output, "agreement", *sorted((self.public, peer)))

    def secret(self) -> Secret:
        """The 32 raw bytes, to be shared out.

        Raises:
            ProtocolViolation: it was wiped.
        """
        return Secret(self._alive().private_bytes_raw())

    def wipe(self) -> None:
        """Drop the key; the public half stays."""
        self._key = None

    def _alive(self) -> X25519PrivateKey:
        if self._key is None:
            raise ProtocolViolation("agreement key: it was wiped, and answers nothing more")
        return self._key

    def __repr__(self) -> str:
        return f"Agreement({fingerprint(self.public)}{', wiped' if self._key is None else ''})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("an agreement key cannot be copied or pickled")


def derive(secret: Secret | bytes, label: str, *context: bytes, length: int = KEY_BYTES) -> Secret:
    """HKDF-SHA256 (RFC 5869) of ``secret``, without salt; ``label`` and ``context`` say what for.

    Extraction is not skipped, although it takes a third of the time: an X25519 output is no uniform string.
    """
    kdf = HKDF(_SHA256, length, None, _encode(label, context))
    return Secret(kdf.derive(secret.reveal() if isinstance(secret, Secret) else secret))


def commitment(label: str, *parts: bytes) -> bytes:
    """SHA-256 (32 bytes) of tag, version, label and parts: no two different lists have the same bytes."""
    return hashlib.sha256(_encode(label, parts)).digest()


def statement(phase: int, context: bytes, sender: int, payload: bytes) -> bytes:
    """What a sender signs, 83 bytes: tag, version, phase, context (sid or tid, 32 bytes), sender, SHA-256(payload).

    Raises:
        ProtocolViolation: a phase beyond one byte, a sender beyond four, or another length of the context.
    """
    if not 0 <= phase <= 255 or not 0 <= sender < 2**32 or len(context) != HASH_BYTES:
        raise ProtocolViolation("statement: phase, sender or context is out of range")
    return _STATEMENT.pack(_PREFIX, phase, context, sender, hashlib.sha256(payload).digest())


def seal(key: Secret, plain: bytes, bound: bytes) -> bytes:
    """AES-256-GCM under ``key`` (32 bytes): cipher text and 16-byte tag; ``bound`` is authenticated, not sent.

    The nonce is zero. That is sound only because a key seals once: keys are derived per session, pair and direction.
    Sealing two plain texts under one key would give away their difference and forge tags.

    Raises:
        ProtocolViolation: the key has another length, or was wiped.
    """
    return _cipher(key).encrypt(_NONCE, plain, bound)


def open_sealed(key: Secret, sealed: bytes, bound: bytes) -> bytes:
    """The plain text of `seal`.

    Raises:
        ProtocolViolation: another key, another ``bound``, or changed bytes.
    """
    try:
        return _cipher(key).decrypt(_NONCE, sealed, bound)
    except InvalidTag:
        raise ProtocolViolation("sealed message: it was changed, or sealed for another place") from None


def _cipher(key: Secret) -> AESGCM:
    if key.size != KEY_BYTES:  # AESGCM would take 16 bytes for AES-128
        raise ProtocolViolation(f"sealing key: {key.size} bytes, expected {KEY_BYTES}")
    return AESGCM(key.reveal())


def _encode(label: str, parts: tuple[bytes, ...]) -> bytes:
    """Tag, version, then label and parts, each after its length (4 bytes, big-endian)."""
    pieces = [_PREFIX]
    for part in (label.encode(), *parts):
        pieces.append(len(part).to_bytes(4, "big"))
        pieces.append(part)
    return b"".join(pieces)


def _signing_key(stored: bytes) -> Ed25519PrivateKey:
    if len(stored) == KEY_BYTES:
        return Ed25519PrivateKey.from_private_bytes(stored)
    key = load_pem_private_key(stored, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError("a key of another kind")
    return key
