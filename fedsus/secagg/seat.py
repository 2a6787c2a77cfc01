"""A client's place in a session: what it knows before it makes a key, and what it notes durably."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedsus.errors import ProtocolViolation
from fedsus.secagg.keys import Identity, Signatures, statement
from fedsus.secagg.session import Phase, Session


class Marks(Protocol):
    """Durable notes of the steps that a client took in each session."""

    def once(self, sid: bytes, phase: Phase, content: bytes) -> None:
        """Note that ``phase`` of a session is answered with ``content`` (32 bytes), durable before this returns.

        Raises:
            ProtocolViolation: that phase of that session was noted before, whatever with.
        """
        ...


@dataclass(frozen=True, slots=True)
class Seat:
    """A client's place in a session that its owner's device has admitted.

    Attributes:
        session: as decoded; ``sid`` is of its bytes as received.
        keys: Ed25519 public key of each client of the cohort, by index.
        index: this client's.
        identity: its signing key.
        signatures: checks others' signatures.
        marks: its durable notes.
        workers: threads for masks.
    """

    session: Session
    sid: bytes
    keys: Sequence[bytes]
    index: int
    identity: Identity
    signatures: Signatures
    marks: Marks
    workers: int = 1

    def __post_init__(self) -> None:
        if len(self.keys) != self.session.size or not 0 <= self.index < len(self.keys):
            raise ProtocolViolation("session: keys and index do not fit the cohort")
        if self.keys[self.index] != self.identity.public:
            raise ProtocolViolation("session: another client's place")

    def alive(self, now: float) -> None:
        """Refuse a session that has expired."""
        if now >= self.session.expires:
            raise ProtocolViolation("session: it has expired")

    def signed(self, phase: Phase, context: bytes, payload: bytes) -> bytes:
        """This client's signature."""
        return self.identity.sign(statement(phase, context, self.index, payload))

    def certified(
        self,
        certificate: Mapping[int, bytes],
        phase: Phase,
        context: bytes,
        payload: bytes,
        holders: Collection[int] = (),
        needed: int = 0,
    ) -> set[int]:
        """Who signed: as many good signatures as a quorum, and of ``holders`` as many as are ``needed``.

        Signatures beyond those are not looked at: each costs 0.1 ms, and they could prove nothing more.

        Raises:
            ProtocolViolation: a signature is not good, or they are fewer than the quorum.
        """
        if len(certificate) < self.session.quorum:
            raise ProtocolViolation(
                f"certificate: {len(certificate)} signatures; more than (N + A) / 2, {self.session.quorum}, are needed"
            )
        first = sorted(certificate, key=lambda index: index not in holders)
        signers: set[int] = set()
        for index in first:
            if len(signers) >= self.session.quorum and len(signers.intersection(holders)) >= needed:
                break
            signed = statement(phase, context, index, payload)
            if not self.signatures.check(self.keys[index], signed, certificate[index]):
                raise ProtocolViolation(f"certificate: the signature of client {index} is over something else")
            signers.add(index)
        return signers


@dataclass(frozen=True, slots=True)
class Circle:
    """What U1 fixed.

    Attributes:
        root, tid: hashes of U1.
        known: U1.
        holders: who holds our shares, in the graph over the whole cohort; ourselves too on a complete one.
    """

    root: bytes
    tid: bytes
    known: frozenset[int]
    holders: frozenset[int]
