"""`fedsus federation`: the owners' list of who belongs, made, signed and shown."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from fedsus.errors import ConfigError

if TYPE_CHECKING:
    from fedsus.commands.rosters import Opened
    from fedsus.secagg.roster import Roster, SignedRoster

_FILE: Final = click.Path(path_type=Path)
_SIGNER_HELP: Final = "An owner's public key (FILE.pub of 'key'); repeatable."
_NEEDED_HELP: Final = "How many owners must sign.  [default: more than half, so all of 1 or 2]"
_SEED_BYTES: Final = 32


@click.group()
def federation() -> None:
    """Make and sign the roster: who belongs to a federation.

    The owners sign it, with keys that the operator does not hold: whoever signs alone can invent members. An edit
    after a signature makes the next number; the signed file stays beside it as ROSTER.<number>.
    """


@federation.command()
@click.argument("file", type=_FILE)
def key(file: Path) -> None:
    """Make an owner's key for signing rosters: FILE and FILE.pub."""
    from fedsus.owner.key_files import create, public_file
    from fedsus.secagg.roster import fingerprint

    made = create(file, "signer")
    click.echo(f"made {file}: it never leaves its owner; keep it off the operator's machine, and keep a copy")
    click.echo(f"  fingerprint, to compare by voice: {fingerprint(made.public.hex())}")
    click.echo(f"Then: fedsus federation new NAME --signer {public_file(file)} --signer ...")


@federation.command()
@click.argument("name")
@click.option("--signer", "signers", type=_FILE, multiple=True, required=True, help=_SIGNER_HELP)
@click.option("--needed", type=click.IntRange(min=1), help=_NEEDED_HELP)
@click.option("-o", "--out", type=_FILE, default=Path("roster.json"), show_default=True)
def new(name: str, signers: tuple[Path, ...], needed: int | None, out: Path) -> None:
    """Begin the roster of the federation NAME, with no members yet."""
    from fedsus.config import validate
    from fedsus.owner.pinning import write
    from fedsus.secagg.roster import Roster, SignedRoster, encode

    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out}: exists already; a roster is never overwritten, give --out or move it away")
    values = {"federation": name, "number": 1, "previous": None, "seed": secrets.token_hex(_SEED_BYTES)}
    roster = validate({**values, **_signing(signers, needed)}, Roster, str(out))
    write(out, encode(SignedRoster(roster=roster)), 0o644)
    click.echo(f"wrote {out}: '{name}', {roster.needed} of {len(roster.signers)} owners sign")
    if 2 * roster.needed <= len(roster.signers):
        click.echo("! half of the owners or fewer can sign alone: two groups could publish different rosters")
    click.echo(f"Then: fedsus federation admit {out} NAME identity.key.pub")


@federation.command()
@click.argument("roster_file", metavar="ROSTER", type=_FILE)
@click.argument("name")
@click.argument("key_file", metavar="KEY.pub", type=_FILE)
def admit(roster_file: Path, name: str, key_file: Path) -> None:
    """Add the member NAME with the identity of its device.

    KEY.pub is its identity.key.pub, not the node.key.pub, which goes to the operator, who registers the device under
    the same NAME.
    """
    from fedsus.commands.rosters import member, opened
    from fedsus.owner.key_files import read_public
    from fedsus.secagg.roster import fingerprint

    joining = member(name, read_public(key_file, "identity"))
    with opened(roster_file) as found:
        for one in found.roster.members:
            if one.name.casefold() == name.casefold():
                raise ConfigError(f"{roster_file}: '{one.name}' is a member already; revoke it first, for a new key")
            if one.key == joining.key:
                raise ConfigError(f"{key_file}: the key of member '{one.name}' already; each device has its own")
        if joining.key in found.roster.revoked:
            raise ConfigError(f"{key_file}: this key was revoked for ever; the device needs a new one")
        if joining.key in found.roster.signers:
            raise ConfigError(f"{key_file}: an owner signs rosters with this key; a device needs its own")
        members = sorted((*found.roster.members, joining), key=lambda one: one.name)
        draft = found.edit(members=tuple(members))
    click.echo(f"admitted '{name}', fingerprint {fingerprint(joining.key)}: compare it with the device's owner")
    _next(roster_file, draft)


@federation.command()
@click.argument("roster_file", metavar="ROSTER", type=_FILE)
@click.argument("name")
def revoke(roster_file: Path, name: str) -> None:
    """Remove the member NAME; its key is never admitted again."""
    from fedsus.commands.rosters import opened
    from fedsus.secagg.roster import fingerprint

    with opened(roster_file) as found:
        roster = found.roster
        place = roster.index(name)
        if place is None:
            raise ConfigError(f"{roster_file}: no member '{name}'; there are: {_names(roster)}")
        leaving = roster.members[place]
        members = tuple(one for one in roster.members if one != leaving)
        if _only_drafted(found, leaving.key):
            draft = found.edit(members=members)
            click.echo(f"took '{name}' out of the draft: no version with its key was signed, so it is not revoked")
        else:
            draft = found.edit(members=members, revoked=tuple(sorted((*roster.revoked, leaving.key))))
            click.echo(f"revoked '{name}', fingerprint {fingerprint(leaving.key)}, for ever")
    _next(roster_file, draft)


@federation.command()
@click.argument("roster_file", metavar="ROSTER", type=_FILE)
@click.option("--signer", "signers", type=_FILE, multiple=True, help="Instead of the owners so far; repeatable.")
@click.option("--needed", type=click.IntRange(min=1), help=_NEEDED_HELP)
def renew(roster_file: Path, signers: tuple[Path, ...], needed: int | None) -> None:
    """Make the next number of the same members, or for other owners."""
    from fedsus.commands.rosters import opened

    with opened(roster_file) as found:
        changes = _signing(signers, needed) if signers else {"needed": needed} if needed else {}
        if not found.signed.signatures and not changes:
            raise ConfigError(
                f"{roster_file}: nobody signed number {found.roster.number} yet; there is nothing to renew"
            )
        draft = found.edit(**changes)
    if changes:
        click.echo("devices go by the pins in policy.toml until their owners change them")
    _next(roster_file, draft)


@federation.command()
@click.argument("roster_file", metavar="ROSTER", type=_FILE)
@click.option("--key", "key_file", type=_FILE, required=True, help="Your own key ('fedsus federation key').")
@click.option("--yes", is_flag=True, help="Do not ask.")
def sign(roster_file: Path, key_file: Path, yes: bool) -> None:
    """Show what changes, ask, and sign."""
    from fedsus.commands.asking import agreed
    from fedsus.commands.rosters import opened
    from fedsus.commands.signing import check, offer, put_signature
    from fedsus.owner.key_files import load

    identity = load(key_file, "signer")
    with opened(roster_file) as found:
        base = found.base()
        if identity.public.hex() in found.signed.valid_signatures({identity.public.hex()}):
            click.echo(f"{roster_file}: this key signed number {found.roster.number} already")
            result = found.signed
        else:
            check(found, base, key_file, identity)
            for line in offer(found, base):
                click.echo(line)
            question = f"Sign number {found.roster.number} of '{found.roster.federation}'?"
            if not yes and not agreed(question, f"{roster_file}: not signed"):
                click.echo(f"{roster_file}: not signed; the file is as it was")
                raise click.exceptions.Exit(1)
            result = put_signature(found, key_file, identity)
    _signatures(roster_file, result)


@federation.command()
@click.argument("roster_file", metavar="ROSTER", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Everything, for a program.")
def show(roster_file: Path, as_json: bool) -> None:
    """Members, signatures, and the lines for policy.toml."""
    from fedsus.commands.signing import exported, pins_lines, told
    from fedsus.owner.pinning import read_roster

    signed = read_roster(roster_file)
    if as_json:
        click.echo(json.dumps(exported(signed), indent=1))
        return
    for line in told(signed):
        click.echo(line)
    click.echo("\nFor policy.toml of each device, once its owner compared the signers' fingerprints with theirs:\n")
    click.echo("\n".join(pins_lines(signed.roster)))


def _signing(files: tuple[Path, ...], needed: int | None) -> dict[str, object]:
    """Signers and how many of them, from their files."""
    from fedsus.owner.key_files import read_public
    from fedsus.secagg.roster import majority

    keys = [read_public(file, "signer") for file in files]
    for place, found in enumerate(keys):
        if found in keys[:place]:
            raise ConfigError(f"--signer {files[place]}: the same key as {files[keys.index(found)]}")
    if needed is not None and needed > len(keys):
        raise ConfigError(f"--needed {needed}: expected 1 to {len(keys)}, the number of signers")
    return {"signers": tuple(sorted(keys)), "needed": needed or majority(len(keys))}


def _only_drafted(found: Opened, key: str) -> bool:
    """Whether a key is known to be in no version that anybody signed."""
    if found.signed.signatures:
        return False
    base = found.base()
    if base is None:
        return found.roster.number == 1
    return base.roster.name_of(key) is None


def _names(roster: Roster) -> str:
    names = [one.name for one in roster.members]
    return ", ".join(names[:8]) + (f", and {len(names) - 8} more" if len(names) > 8 else "") or "none"


def _next(roster_file: Path, draft: Roster) -> None:
    """What a draft is now, and what is to be done with it."""
    count = len(draft.members)
    click.echo(f"{roster_file}: draft of number {draft.number}, {count} member{'' if count == 1 else 's'}, not signed")
    click.echo(f"Then, when it is complete: fedsus federation sign {roster_file} --key FILE")


def _signatures(roster_file: Path, signed: SignedRoster) -> None:
    """Whether there are enough signatures, and what is to be done."""
    roster, have = signed.roster, len(signed.valid_signatures())
    click.echo(
        f"{roster_file}: number {roster.number}, signed by {have} of {len(roster.signers)}; {roster.needed} needed"
    )
    if have < roster.needed:
        click.echo(
            f"Send it to the next owner, who signs this very file: fedsus federation sign {roster_file.name} --key FILE"
        )
    else:
        click.echo(f"Send it to the operator and to every device, where: fedsus client roster {roster_file.name}")
