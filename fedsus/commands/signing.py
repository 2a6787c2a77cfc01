"""What an owner sees before signing a roster, and the signing itself."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsus.commands.rosters import Opened, may_sign, remember, was_signed
from fedsus.errors import ConfigError
from fedsus.owner.pinning import write
from fedsus.secagg.roster import Roster, SignedRoster, differences, digest, encode, fingerprint

if TYPE_CHECKING:
    from fedsus.secagg.keys import Identity


def check(found: Opened, base: SignedRoster | None, key_file: Path, identity: Identity) -> None:
    """Raise unless this key may sign this roster.

    Raises:
        ConfigError: not a signer of this version or the one before, no successor of what it signed before, or keys
            that were revoked are no longer: devices would refuse it.
    """
    roster, mine = found.roster, identity.public.hex()
    before = base.roster if base else None
    if mine not in roster.signers and (before is None or mine not in before.signers):
        raise ConfigError(
            f"{key_file}: not the key of an owner who signs this roster (fingerprint {fingerprint(mine)}); "
            f"'fedsus federation show {found.file.name}' lists them"
        )
    if before is not None and not set(before.revoked) <= set(roster.revoked):
        raise ConfigError(f"{found.file}: it forgets keys that were revoked; devices refuse it")
    if found.signed.signatures and not _signers_so_far(found, base):
        why = "of nobody who signs this roster"
        if any(key in roster.signers for key in found.signed.signatures):
            why = "of another content: the file was changed after it was signed"
        way = "ask for the draft without them"
        if roster.number > 1:
            way += f", or put {found.version(roster.number - 1).name} beside it"
        raise ConfigError(f"{found.file}: the signatures in it are {why}; {way}")
    may_sign(key_file, roster)


def _signers_so_far(found: Opened, base: SignedRoster | None) -> frozenset[str]:
    """Who signed validly, of those that this version or the one before lists."""
    return found.signed.valid_signatures({*found.roster.signers, *(base.roster.signers if base else ())})


def offer(found: Opened, base: SignedRoster | None) -> Iterator[str]:
    """What would be signed: every change against the version before, if it is at hand."""
    roster = found.roster
    yield f"federation '{roster.federation}', number {roster.number}, {len(roster.members)} members"
    yield f"to be signed by {roster.needed} of {len(roster.signers)} owners"
    if base is not None:
        have = len(base.valid_signatures())
        yield f"changes against number {base.roster.number}, which {have} of {len(base.roster.signers)} owners signed:"
    elif roster.number > 1:
        yield f"! {found.version(roster.number - 1).name} is not at hand, so that all is shown as new:"
    lines = differences(base.roster if base else None, roster)
    yield from (f"  {line}" for line in lines or ["no change of members"])


def put_signature(found: Opened, key_file: Path, identity: Identity) -> SignedRoster:
    """Sign, and write the file; returns what it holds now.

    The first signer draws the seed anew: cohorts are drawn by it, and whoever prepared the draft must not choose it.

    Raises:
        ConfigError: this key signed another roster of the number, or a newer one.
    """
    signed = found.signed
    if not signed.signatures and not was_signed(key_file, signed.roster):
        signed = SignedRoster(roster=signed.roster.model_copy(update={"seed": secrets.token_hex(32)}))
        write(found.file, encode(signed), 0o644)
    remember(key_file, signed.roster)
    signed = signed.signed(identity)
    write(found.file, encode(signed), 0o644)
    return signed


def told(signed: SignedRoster) -> Iterator[str]:
    """A roster for people."""
    roster, valid = signed.roster, signed.valid_signatures()
    yield f"federation  {roster.federation}"
    yield f"number      {roster.number}"
    yield f"digest      {digest(roster).hex()}"
    yield f"signed by   {len(valid)} of {len(roster.signers)}; {roster.needed} needed"
    for key in roster.signers:
        yield f"  {'signed' if key in valid else 'not yet':<8}  {fingerprint(key)}"
    others = set(signed.signatures) - set(roster.signers)
    for key in sorted(others):
        word = "signed" if signed.valid_signatures({key}) else "invalid"
        yield f"  {word:<8}  {fingerprint(key)}, no signer of this version"
    for key in sorted((set(signed.signatures) & set(roster.signers)) - valid):
        yield f"  invalid signature of {fingerprint(key)}"
    yield f"members     {len(roster.members)}"
    width = max((len(member.name) for member in roster.members), default=0)
    for member in roster.members:
        yield f"  {member.name:<{width}}  {fingerprint(member.key)}"
    yield f"revoked     {len(roster.revoked)}"
    for key in roster.revoked:
        yield f"  {fingerprint(key)}"


def exported(signed: SignedRoster) -> dict[str, Any]:
    """As plain data."""
    roster = signed.roster
    return {
        **roster.model_dump(mode="json"),
        "digest": digest(roster).hex(),
        "signed_by": sorted(signed.valid_signatures(signed.signatures)),
        "complete": len(signed.valid_signatures()) >= roster.needed,
        "fingerprints": {member.name: fingerprint(member.key) for member in roster.members},
    }


def pins_lines(roster: Roster) -> Iterator[str]:
    """The table for policy.toml."""
    yield "[federation]"
    yield f'name = "{roster.federation}"'
    yield "signers = ["
    yield from (f'  "{key}",  # {fingerprint(key)}' for key in roster.signers)
    yield "]"
    yield f"needed = {roster.needed}"
