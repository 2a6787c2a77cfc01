"""Signed statements: an in-toto payload in a DSSE envelope (Dead Simple Signing Envelope, version 1), Ed25519.

What is signed is DSSE's pre-authentication encoding of payload and type: no other signature of fedsus is over bytes
that begin like it. A signature's ``keyid`` is its public key, hex, so that a file needs no other to be checked; who
the keys belong to, the reader must know.

A file is the canonical JSON of its envelope and nothing else: each byte counts, and none can be changed unseen.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field

from fedsus.errors import ProtocolViolation
from fedsus.plan import Hash, canonical, strictly
from fedsus.secagg.points import fault
from fedsus.strict import Strict

if TYPE_CHECKING:
    from fedsus.secagg.keys import Identity

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
MAX_BYTES: Final = 64 * 2**20
MOST_SIGNATURES: Final = 50_001
"""The operator's, and one of each member of the largest roster."""


class _Signature(Strict):
    keyid: Hash
    sig: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]


class _File(Strict):
    payload: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$")]
    payloadType: Literal["application/vnd.in-toto+json"]  # noqa: N815 - DSSE's name
    signatures: Annotated[tuple[_Signature, ...], Field(min_length=1, max_length=MOST_SIGNATURES)]


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload and who signed it.

    Attributes:
        payload: the statement's bytes.
        signatures: public key (hex) -> signature (64 bytes): the author's first, then others in the order of keys.
    """

    payload: bytes
    signatures: dict[str, bytes]

    @property
    def author(self) -> str:
        """The key (hex) of the first signature."""
        return next(iter(self.signatures))

    @property
    def others(self) -> list[str]:
        """The keys (hex) of all further signatures."""
        return list(self.signatures)[1:]

    def statement(self) -> Any:
        """The payload as plain data.

        Raises:
            ProtocolViolation: it is not JSON, or not the canonical encoding of what it says.
        """
        try:
            data = json.loads(self.payload)
            same = canonical(data) == self.payload
        except RecursionError:
            raise ProtocolViolation("payload: nested too deeply") from None
        except ValueError as error:  # also what Python says of a number of 5000 digits
            raise ProtocolViolation(f"payload: not JSON: {str(error)[:80]}") from None
        if not same:
            raise ProtocolViolation("payload: the bytes are not the canonical encoding")
        return data

    def signed(self, identity: Identity) -> Envelope:
        """The same with one more signature; an equal one where that key signed before."""
        author, key = next(iter(self.signatures), None), identity.public.hex()
        made = {**self.signatures, key: identity.sign(self._dsse().pae())}
        others = sorted(made.keys() - {author}) if author else [key]
        return replace(self, signatures={name: made[name] for name in ([author] if author else []) + others})

    def invalid(self) -> str | None:
        """The first key (hex) whose signature does not fit payload, type and key; None where all do.

        A key of low order is refused: one signature of it would fit any message.
        """
        from securesystemslib.exceptions import UnverifiedSignatureError
        from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined] # it lists no exports

        whole = self._dsse()
        message = whole.pae()
        for key in self.signatures:
            try:
                if fault(bytes.fromhex(key)):
                    return key
                public = SSlibKey(key, "ed25519", "ed25519", {"public": key})
                public.verify_signature(whole.signatures[key], message)
            except UnverifiedSignatureError:
                return key
        return None

    def encode(self) -> bytes:
        """The bytes of its file."""
        return canonical(self._dsse().to_dict())

    def _dsse(self) -> Any:
        from securesystemslib.dsse import Envelope as Dsse
        from securesystemslib.signer import Signature  # type: ignore[attr-defined] # as above

        return Dsse(
            self.payload, PAYLOAD_TYPE, {key: Signature(key, sig.hex()) for key, sig in self.signatures.items()}
        )


def decode(raw: bytes) -> Envelope:
    """The envelope of a file's bytes. Nothing is verified yet: see `Envelope.invalid`.

    Raises:
        ProtocolViolation: longer than 64 MiB, not JSON, unknown or missing fields, values out of range, a key twice or
            out of order, or not the canonical encoding.
    """
    file = strictly(raw, _File, "envelope", MAX_BYTES)
    signatures = {one.keyid: _decoded(one.sig, f"signature of {one.keyid[:16]}...") for one in file.signatures}
    names = [one.keyid for one in file.signatures]
    if len(signatures) < len(names):
        raise ProtocolViolation("envelope: two signatures of one key")
    if names[1:] != sorted(names[1:]):
        raise ProtocolViolation("envelope: the countersignatures are not in the order of their keys")
    return Envelope(_decoded(file.payload, "payload"), signatures)


def _decoded(text: str, what: str) -> bytes:
    """Base64 to bytes; the unused bits of its last character must be zero, or two texts would mean the same."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ProtocolViolation(f"envelope: {what}: not base64") from None
    if base64.b64encode(raw).decode() != text:
        raise ProtocolViolation(f"envelope: {what}: not the canonical base64")
    return raw
