"""The roster: who belongs to a federation, as its owners signed it. Pure: no disk, no clock.

(!) A device counts signatures of the keys that its own policy pins, never of the keys that a roster names: a roster
that swaps its signers or lowers ``needed`` would else admit whom it likes. An operator who signed the roster alone
could invent clients (Sybils) and sum a victim with them; so the signing keys belong to the data owners.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from fedsus.errors import Refusal
from fedsus.plan import Hash, Name, Strict, canonical, strictly
from fedsus.secagg.keys import Identity, verify
from fedsus.secagg.keys import fingerprint as fingerprint_of
from fedsus.secagg.points import fault

VERSION: Final = 1
MAX_BYTES: Final = 16 * 2**20
MAX_MEMBERS: Final = 50_000
MAX_SIGNERS: Final = 64
_DIGEST_TAG: Final = b"fedsus roster" + bytes([VERSION])
_SIGNATURE_TAG: Final = b"fedsus roster signature" + bytes([VERSION])

Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Keys = tuple[Hash, ...]


class RosterMember(Strict):
    """One client: its name, and its Ed25519 identity key (32 bytes, hex)."""

    name: Name
    key: Hash


class Roster(Strict):
    """One version of the list. A member's index is its position in ``members``.

    Attributes:
        number: rises with each version that anybody signed.
        previous: digest (hex) of the version before, None for number 1.
        signers: the keys that were to sign this version, sorted; for people to read, a device has pins.
        needed: how many of them.
        seed: 32 random bytes, hex, new in each version: cohorts are drawn by it.
        members: sorted by name; no two with names that differ in upper and lower case alone, or with one key.
        revoked: keys that are never admitted again, sorted.
    """

    version: Literal[1] = 1
    federation: Name
    number: Annotated[int, Field(ge=1, le=2**31)]
    previous: Hash | None
    signers: Annotated[Keys, Field(min_length=1, max_length=MAX_SIGNERS)]
    needed: Annotated[int, Field(ge=1, le=MAX_SIGNERS)]
    seed: Hash
    members: Annotated[tuple[RosterMember, ...], Field(max_length=MAX_MEMBERS)] = ()
    revoked: Annotated[Keys, Field(max_length=MAX_MEMBERS)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Roster:
        if (self.number == 1) != (self.previous is None):
            raise ValueError(f"number {self.number}: the first version alone has no previous one")
        check_signers(self.signers, self.needed)
        _ascending("revoked keys", self.revoked)
        names, keys = [member.name for member in self.members], [member.key for member in self.members]
        _ascending("members", names)
        _distinct("members' names", [name.casefold() for name in names])
        _distinct("members' keys", keys)
        for member in self.members:
            if why := fault(bytes.fromhex(member.key)):
                raise ValueError(f"member '{member.name}': its key is {why}")
        for word, others in (("also a signer's", self.signers), ("revoked", self.revoked)):
            if both := set(keys) & set(others):
                name = next(member.name for member in self.members if member.key in both)
                raise ValueError(f"member '{name}': its key is {word}")
        return self

    def index(self, name: str) -> int | None:
        """Position of the member of that name; None if there is none."""
        place = bisect_left(self.members, name, key=lambda member: member.name)
        return place if place < len(self.members) and self.members[place].name == name else None

    def name_of(self, key: str) -> str | None:
        """Name of the member with that key (hex); None if there is none."""
        return next((member.name for member in self.members if member.key == key), None)


@dataclass(frozen=True, slots=True)
class Pins:
    """What a device trusts, from its owner's policy: ``needed`` of ``keys`` sign the rosters of ``federation``."""

    federation: str
    keys: frozenset[str]
    needed: int


class SignedRoster(Strict):
    """A roster and what was signed of it: signer's key (hex) -> signature (hex). The content of a roster file."""

    roster: Roster
    signatures: Annotated[dict[Hash, Signature], Field(max_length=2 * MAX_SIGNERS)] = Field(default={})

    def valid_signatures(self, keys: Iterable[str] | None = None) -> frozenset[str]:
        """Which of ``keys`` (hex; the roster's own signers by default) signed this version."""
        message = statement(self.roster)
        return frozenset(
            key
            for key in set(self.roster.signers if keys is None else keys) & self.signatures.keys()
            if verify(bytes.fromhex(key), message, bytes.fromhex(self.signatures[key]))
        )

    def verified(self, pins: Pins) -> Roster:
        """The roster, if it is of the pinned federation and enough pinned keys signed it.

        Raises:
            Refusal: it is not, or a member's key is a pinned one.
        """
        if self.roster.federation != pins.federation:
            raise Refusal(f"roster of federation '{self.roster.federation}': '{pins.federation}' is pinned")
        signed = len(self.valid_signatures(pins.keys))
        if not 1 <= pins.needed <= len(pins.keys) or signed < pins.needed:
            raise Refusal(
                f"roster {self.roster.number} of '{pins.federation}': {signed} of the {len(pins.keys)} pinned keys "
                f"signed it, {pins.needed} must"
            )
        for member in self.roster.members:
            if member.key in pins.keys:
                raise Refusal(f"roster {self.roster.number}: the key of member '{member.name}' is a pinned signer's")
        return self.roster

    def signed(self, identity: Identity) -> SignedRoster:
        """The same with one more signature."""
        mark = identity.sign(statement(self.roster)).hex()
        return SignedRoster(roster=self.roster, signatures={**self.signatures, identity.public.hex(): mark})


def digest(roster: Roster) -> bytes:
    """SHA-256 over tag, version and canonical bytes: 32 bytes."""
    return hashlib.sha256(_DIGEST_TAG + canonical(roster.model_dump(mode="json"))).digest()


def statement(roster: Roster) -> bytes:
    """The bytes that a signer signs; their tag fits no message of the protocol."""
    return _SIGNATURE_TAG + digest(roster)


def encode(signed: SignedRoster) -> bytes:
    """The canonical bytes of a roster file."""
    return canonical(signed.model_dump(mode="json"))


def decode(raw: bytes) -> SignedRoster:
    """The signed roster of canonical bytes. Nothing is verified yet: see `SignedRoster.verified`.

    Raises:
        ProtocolViolation: longer than 16 MiB, unknown fields, values out of range, or not the canonical encoding.
    """
    return strictly(raw, SignedRoster, "roster", MAX_BYTES)


def majority(signers: int) -> int:
    """The default of ``needed``: with more than half, two different rosters of one number need a double signer."""
    return signers // 2 + 1


def check_signers(keys: Sequence[str], needed: int) -> None:
    """Raise ValueError unless m of n good, distinct, sorted keys."""
    _ascending("signers", keys)
    for key in keys:
        if why := fault(bytes.fromhex(key)):
            raise ValueError(f"signer {key[:16]}...: {why}")
    if not 1 <= needed <= len(keys):
        raise ValueError(f"needed {needed}: expected 1 to {len(keys)}, the number of signers")


def fingerprint(key: str) -> str:
    """As `fedsus.secagg.keys.fingerprint`, of a public key in hex."""
    return fingerprint_of(bytes.fromhex(key))


def differences(old: Roster | None, new: Roster) -> list[str]:
    """What changes from one version to another, a line each; a member whose key changes goes and comes."""
    before = {(member.name, member.key) for member in old.members} if old else set()
    after = {(member.name, member.key) for member in new.members}
    gone = {key for key in new.revoked if old is None or key not in old.revoked}
    lines = [f"- {name}  {fingerprint(key)}" for name, key in sorted(before - after)]
    lines += [f"+ {name}  {fingerprint(key)}" for name, key in sorted(after - before)]
    lines += [f"revoked for ever: {fingerprint(key)}" for key in sorted(gone)]
    owners = set(old.signers) if old else set()
    lines += [f"- signer {fingerprint(key)}" for key in sorted(owners - set(new.signers))]
    lines += [f"+ signer {fingerprint(key)}" for key in sorted(set(new.signers) - owners)]
    if old is not None and old.needed != new.needed:
        lines.append(f"signatures needed: {old.needed} -> {new.needed}")
    return lines


def _ascending(what: str, values: Sequence[str]) -> None:
    if any(first >= second for first, second in pairwise(values)):
        raise ValueError(f"{what}: must be sorted, each once")


def _distinct(what: str, values: Sequence[str]) -> None:
    if len(set(values)) < len(values):
        raise ValueError(f"{what}: two are the same")
