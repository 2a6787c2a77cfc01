"""Roster files: drafts, numbers, versions kept beside them, and what an owner's key has signed.

A number is one roster for ever. Until somebody signs it, a version is a draft and is edited in place; an edit after
the first signature makes the next number, keeps the signed file as ``ROSTER.<number>`` and has no signatures.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fedsus.config import validate
from fedsus.errors import ConfigError, CorruptionError, EnvironmentFault, ProtocolViolation
from fedsus.owner.pinning import read, read_roster, write
from fedsus.plan import Hash, Name, Strict, canonical, strictly
from fedsus.secagg.roster import Roster, RosterMember, SignedRoster, digest, encode

_MEMORY_BYTES = 2**20


@dataclass(frozen=True)
class Opened:
    """A roster file while no other command edits it.

    Attributes:
        file: the file itself, also where a link named it.
        signed: what it holds.
    """

    file: Path
    signed: SignedRoster

    @property
    def roster(self) -> Roster:
        """Without the signatures."""
        return self.signed.roster

    def version(self, number: int) -> Path:
        """Where a signed version is kept."""
        return self.file.with_name(f"{self.file.name}.{number}")

    def base(self) -> SignedRoster | None:
        """The version that this one follows, where it is kept beside; None where it is not, or is another."""
        if self.roster.previous is None or not self.version(self.roster.number - 1).exists():
            return None
        found = read_roster(self.version(self.roster.number - 1))
        return found if digest(found.roster).hex() == self.roster.previous else None

    def edit(self, **changes: Any) -> Roster:
        """Write the draft with these changes; the next number if anybody signed this one.

        Raises:
            ConfigError: no roster may be so, or another version of the number is kept already.
        """
        values = {**self.roster.model_dump(), **changes}
        if self.signed.signatures:
            values |= {"number": self.roster.number + 1, "previous": digest(self.roster).hex()}
        draft = validate(values, Roster, str(self.file))
        if self.signed.signatures:
            self._keep()
        write(self.file, encode(SignedRoster(roster=draft)), 0o644)
        return draft

    def _keep(self) -> None:
        kept = self.version(self.roster.number)
        if kept.exists() and digest(read_roster(kept).roster) != digest(self.roster):
            raise ConfigError(
                f"{kept}: another roster {self.roster.number} than {self.file}; find out which one was published, "
                "and move the other away"
            )
        write(kept, encode(self.signed), 0o644)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """A roster file, to be edited by this process alone.

    Raises:
        ConfigError: missing, or not a roster.
        EnvironmentFault: another command is at work on it.
    """
    file = path.resolve()
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; 'fedsus federation new' makes one") from None
    except OSError as error:
        raise EnvironmentFault(f"{path}: cannot be read: {error.strerror}") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentFault(f"{path}: another command is at work on it; try again after it") from None
        if os.fstat(handle).st_ino != file.stat().st_ino:
            raise EnvironmentFault(f"{path}: another command has just changed it; look at it and try again")
        yield Opened(file, read_roster(file))
    finally:
        os.close(handle)


def member(name: str, key: str) -> RosterMember:
    """A member of checked name."""
    return validate({"name": name, "key": key}, RosterMember, f"member '{name}'")


class Last(Strict):
    """The newest roster of a federation that a key signed."""

    number: int
    digest: Hash


class Memory(Strict):
    """``KEY.signed``: what a key signed last, so that it never signs two rosters of one number."""

    version: Literal[1] = 1
    federations: Annotated[dict[Name, Last], Field(max_length=1000)] = Field(default={})


def memory_file(key: Path) -> Path:
    """Beside the key."""
    return key.with_name(key.name + ".signed")


def recall(key: Path) -> Memory:
    """What the key at ``key`` signed before.

    Raises:
        CorruptionError: the file was changed.
    """
    found = read(memory_file(key), _MEMORY_BYTES)
    if found is None:
        return Memory()
    try:
        return strictly(found[0], Memory, "memory", _MEMORY_BYTES)
    except ProtocolViolation as error:
        raise CorruptionError(
            f"{memory_file(key)}: {error}; it keeps the key from signing two rosters of one number: put back its copy"
        ) from None


def was_signed(key: Path, roster: Roster) -> bool:
    """Whether this very roster is the last that the key signed."""
    return recall(key).federations.get(roster.federation) == _last(roster)


def may_sign(key: Path, roster: Roster) -> None:
    """Raise unless a roster may come after what the key at ``key`` signed last.

    Raises:
        ConfigError: it signed another roster of this number, a newer one, or this one follows another.
    """
    last = recall(key).federations.get(roster.federation)
    if last is None or last == _last(roster):
        return
    about = f"roster {roster.number} of '{roster.federation}'"
    if roster.number <= last.number:
        what = f"another roster {last.number}" if roster.number == last.number else f"roster {last.number}"
        raise ConfigError(
            f"{about}: this key signed {what} before ({memory_file(key)}), and devices would see two; start again "
            f"from that one: the next edit makes it number {last.number + 1}"
        )
    if roster.number == last.number + 1 and roster.previous != last.digest:
        raise ConfigError(
            f"{about}: it follows another roster {last.number} than the one that this key signed; start again from "
            f"that one, or ask for number {roster.number + 1}"
        )


def remember(key: Path, roster: Roster) -> None:
    """Note, durably, before the signature leaves: this key signs ``roster``.

    Raises:
        ConfigError: as `may_sign`.
    """
    if was_signed(key, roster):
        return
    may_sign(key, roster)
    memory = Memory(federations={**recall(key).federations, roster.federation: _last(roster)})
    write(memory_file(key), canonical(memory.model_dump(mode="json")), 0o600)


def _last(roster: Roster) -> Last:
    return Last(number=roster.number, digest=digest(roster).hex())
