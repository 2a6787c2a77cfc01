"""The roster on a device: which one counts now, and how its owner installs one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fedsus.errors import ConfigError, FedsusError, Refusal
from fedsus.owner import key_files
from fedsus.owner.pinning import RosterBook, read, read_roster, write
from fedsus.owner.policy import Policy
from fedsus.secagg.roster import MAX_BYTES, Pins, Roster, SignedRoster, decode, differences, digest, fingerprint
from fedsus_client.config import AgentConfig

PIN = (
    "compare the fingerprints with the owners who sign, and paste the table [federation] that 'fedsus federation show' "
    "prints"
)
"""What an owner without pins does."""


class StandingRoster:
    """The roster as it stands now: file and pins are read again when they were changed.

    Args:
        agent: says where the file and the notes lie.
    """

    def __init__(self, agent: AgentConfig) -> None:
        self._agent = agent
        self._book: RosterBook | None = None

    def __call__(self, policy: Policy) -> Roster | None:
        """The accepted roster; None without pins in ``policy``, or without a file.

        Raises:
            UserError, Refusal, CorruptionError: as `fedsus.owner.pinning.RosterBook.accept`.
        """
        if policy.federation is None:
            return None
        if self._book is None or self._book.pins != policy.federation.pins:
            self._book = book_of(self._agent, policy)
        return self._book.current()


def book_of(agent: AgentConfig, policy: Policy) -> RosterBook:
    """The device's book, by the policy's pins.

    Raises:
        ConfigError: no signer is pinned.
    """
    if policy.federation is None:
        raise ConfigError(f"policy.toml: no signer is pinned: {PIN}")
    return RosterBook(agent.federation.roster, agent.roster_notes, policy.federation.pins)


def looked(book: RosterBook, raw: bytes, file: Path) -> Roster:
    """As `fedsus.owner.pinning.RosterBook.look`; what lacks signatures says how to come by them."""
    try:
        return book.look(raw, str(file))
    except Refusal as error:
        way = _way_out(decode(raw), book.pins)
        raise Refusal(f"{error}; {way}" if way else str(error)) from None


def _way_out(signed: SignedRoster, pins: Pins) -> str:
    """Why the pinned keys' signatures are too few, as far as the file shows; empty if they suffice."""
    if signed.roster.federation != pins.federation or len(signed.valid_signatures(pins.keys)) >= pins.needed:
        return ""
    if len(signed.valid_signatures(signed.signatures)) < len(signed.signatures):
        return "it was changed after it was signed: ask the owners who sign for their own copy"
    have, needed = len(signed.valid_signatures()), signed.roster.needed
    if have < needed:
        return f"it needs {needed} signatures and has {have}: let the other owners run 'fedsus federation sign'"
    return (
        "others than those signed it: compare the pins with the owners by voice ('fedsus federation show' lists them)"
    )


def install(agent: AgentConfig, policy: Policy, file: Path) -> Iterator[str]:
    """Check a roster and put it where the agent reads it; yields lines for the owner.

    Raises:
        UserError, Refusal, CorruptionError: as `fedsus.owner.pinning.RosterBook.accept`; nothing is changed then.
    """
    book, target = book_of(agent, policy), agent.federation.roster
    found = read(file, MAX_BYTES)
    if found is None:
        raise ConfigError(f"{file}: no such file")
    roster = looked(book, found[0], file)
    yield f"federation '{roster.federation}', number {roster.number}, {len(roster.members)} members"
    before = _before(target)
    if before is not None:
        yield f"changes against number {before.number}, installed until now:"
    yield from (f"  {line}" for line in differences(before, roster) or ["none"])
    yield from _listed(agent, roster)
    if not target.exists() or not target.samefile(file):
        write(target, found[0], 0o644)
    if _notes_are_ours(agent):
        book.accept(found[0], str(file))
        yield f"installed {target}: from now on no older one is accepted; a running agent reads it at once"
    else:  # notes that this user wrote would be closed to the agent
        yield f"installed {target}: the agent, which another user runs, accepts it when it reads it"


def installed(agent: AgentConfig, policy: Policy) -> Iterator[str]:
    """What counts now; yields lines for the owner.

    Raises:
        ConfigError: there is none, or no signer is pinned.
        UserError, Refusal, CorruptionError: it is not accepted.
    """
    found = read(agent.federation.roster, MAX_BYTES)
    if found is None:
        raise ConfigError(f"{agent.federation.roster}: no roster yet; ask the owners who sign it, then name the file")
    roster = looked(book_of(agent, policy), found[0], agent.federation.roster)
    yield f"federation '{roster.federation}', number {roster.number}, digest {digest(roster).hex()}"
    width = max((len(member.name) for member in roster.members), default=0)
    yield from (f"  {member.name:<{width}}  {fingerprint(member.key)}" for member in roster.members)
    yield from _listed(agent, roster)


def _before(target: Path) -> Roster | None:
    """What was installed until now; None where it cannot be read."""
    try:
        return read_roster(target).roster
    except FedsusError:
        return None


def _listed(agent: AgentConfig, roster: Roster) -> Iterator[str]:
    """Whether this device is a member."""
    try:
        key = key_files.load(agent.identity.signing, "identity").public.hex()
    except FedsusError as error:
        yield f"! this device: {error}"
        return
    name = roster.name_of(key)
    if name is None:
        yield f"! this device ({fingerprint(key)}) is not a member: secure sums go on without it"
    else:
        yield f"this device is '{name}'"


def _notes_are_ours(agent: AgentConfig) -> bool:
    folder = agent.state.folder
    return not folder.exists() or folder.stat().st_uid == os.geteuid()
