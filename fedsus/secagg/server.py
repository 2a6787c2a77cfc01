"""The server's side of one session: what it asks, what it takes, and how it unmasks a sum. No sockets, no clock.

    Opening --close--> Sharing --close--> Established --contributions--> Collected --unmask--> sum

A client's answer that does not follow the protocol raises `ProtocolViolation` where it is taken: the caller leaves the
client out, and the round goes on while enough are left. The server adds each masked vector as it arrives; it holds one
sum, and for each client its keys and the shares it passes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from fedsus.encoding.packing import Buffer, add_packed, packed_size
from fedsus.errors import CohortTooSmall, ProtocolViolation
from fedsus.secagg import session as sessions
from fedsus.secagg import wire
from fedsus.secagg.alike import confirmed_payload, masked_payload, own_mask, pair_mask, pair_sign
from fedsus.secagg.graph import Graph
from fedsus.secagg.keys import Agreement, Signatures, statement
from fedsus.secagg.masks import add_masks
from fedsus.secagg.rebuilding import Rebuilding
from fedsus.secagg.secret import Secret
from fedsus.secagg.session import Phase, Session
from fedsus.secagg.shares import SHARE_BYTES
from fedsus.secagg.wire import Kind
from fedsus.types import Ring


@dataclass(frozen=True, slots=True)
class Party:
    """Who takes part, as the server knows it.

    Attributes:
        session: of its own making.
        keys: Ed25519 public key of each client, by index.
        clients: index -> the fleet's address, of those that can be asked.
        signatures: checks theirs.
        refused: addresses of those who refused a phase of it.
    """

    session: Session
    keys: Sequence[bytes]
    clients: Mapping[int, str]
    signatures: Signatures
    refused: set[str] = field(default_factory=set)

    @property
    def sid(self) -> bytes:
        """The session's hash."""
        return sessions.session_id(sessions.encode(self.session))

    def signed(self, index: int, phase: Phase, context: bytes, payload: bytes, signature: bytes) -> None:
        """Refuse a signature that is not this client's over this."""
        if not self.signatures.check(self.keys[index], statement(phase, context, index, payload), signature):
            raise ProtocolViolation(f"client {index}: the signature of phase {phase.name.lower()} is not good")

    def enough(self, members: int, what: str) -> None:
        """Refuse fewer members than the floor."""
        if members < self.session.floor:
            raise CohortTooSmall(
                f"{what}: {members} of {self.session.size} clients; secure aggregation needs {self.session.floor} "
                f"({self.session.dropouts} may fall out)"
            )


@dataclass(slots=True)
class Opening:
    """Phase 0: collects adverts."""

    party: Party
    sid: bytes = b""
    _adverts: dict[int, wire.Advert] = field(default_factory=dict)
    _keys: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.sid = self.party.sid

    def request(self) -> bytes:
        """ADVERTISE, for everyone."""
        return wire.frame(Kind.ADVERTISE, sessions.encode(self.party.session))

    def take(self, index: int, body: Buffer) -> None:
        """A client's advert."""
        advert = wire.decode_advert(body)
        if advert.index != index:
            raise ProtocolViolation(
                f"client {index}: it is member {advert.index} of the cohort, by its own advert; a device's name here "
                "must be its name in the roster"
            )
        if index in self._adverts:
            raise ProtocolViolation(f"client {index}: a second advert")
        self.party.signed(index, Phase.ADVERTISE, self.sid, advert.payload, advert.signature)
        keys = {advert.channel, advert.mask}
        if len(keys) < 2 or keys & self._keys:
            raise ProtocolViolation(f"client {index}: its advert repeats a key")
        self._keys |= keys
        self._adverts[index] = advert

    def close(self) -> Sharing:
        """U1 is fixed.

        Raises:
            CohortTooSmall: below the floor.
        """
        self.party.enough(len(self._adverts), "joined")
        raw = wire.encode_adverts([self._adverts[index] for index in sorted(self._adverts)])
        root = sessions.root(self.sid, raw)
        return Sharing(self.party, self.sid, raw, self._adverts, root, self.party.session.graph(root))


@dataclass(slots=True)
class Sharing:
    """Phase 1: collects sealed shares and signatures over the root of U1."""

    party: Party
    sid: bytes
    raw: bytes
    adverts: Mapping[int, wire.Advert]
    root: bytes
    graph: Graph
    _shared: dict[int, wire.Shared] = field(default_factory=dict)

    @property
    def tid(self) -> bytes:
        """Binds all that comes after phase 0."""
        return sessions.transcript(self.root)

    def request(self) -> bytes:
        """SHARE, for everyone."""
        return wire.frame(Kind.SHARE, self.sid, self.raw)

    def take(self, index: int, body: Buffer) -> None:
        """A client's shares for its holders, all of them."""
        if index not in self.adverts or index in self._shared:
            raise ProtocolViolation(f"client {index}: shares without an advert, or a second time")
        shared = wire.decode_shared(body, self.party.session.size)
        self.party.signed(index, Phase.SHARE, self.tid, shared.payload, shared.signature)
        self.party.signed(index, Phase.ROOT, self.sid, self.root, shared.root_signature)
        if set(shared.sealed) != (set(self.graph.holders(index)) & self.adverts.keys()) - {index}:
            raise ProtocolViolation(f"client {index}: shares for others than its holders")
        self._shared[index] = shared

    def close(self) -> Established:
        """U2 is fixed.

        Raises:
            CohortTooSmall: below the floor, or too few signatures for a certificate.
        """
        session = self.party.session
        self.party.enough(len(self._shared), "sent shares")
        if len(self._shared) < session.quorum:
            raise CohortTooSmall(f"shares: {len(self._shared)} clients; a certificate needs {session.quorum}")
        return Established(self.party, self.sid, self.tid, self.adverts, self.graph, self._shared)


@dataclass(slots=True)
class Established:
    """Phase 2: keys and shares are exchanged; passes the shares on and adds masked vectors as they come."""

    party: Party
    sid: bytes
    tid: bytes
    adverts: Mapping[int, wire.Advert]
    graph: Graph
    shared: Mapping[int, wire.Shared]

    def own_request(self, index: int) -> bytes:
        """SEALED: the shares that others sealed for this client."""
        dealers = (set(self.graph.holders(index)) & self.shared.keys()) - {index}
        return wire.frame(Kind.SEALED, self.sid, wire.rows({one: self.shared[one].sealed[index] for one in dealers}))

    def request(self, plan: bytes, model: Buffer) -> bytes:
        """CONTRIBUTE, for everyone in U2: certificate, plan and model."""
        rows = islice(self.shared.items(), self.party.session.quorum)
        certificate = {index: one.root_signature for index, one in rows}
        return wire.frame(Kind.CONTRIBUTE, self.sid, *wire.encode_contribute(certificate, plan, model))

    def collect(self, plan: bytes, total: Ring, bits: int) -> Collected:
        """Go on to add up; ``plan`` is the hash of the plan, ``total`` (n,) uint32 is added to in place."""
        return Collected(self, plan, total, bits)


@dataclass(slots=True)
class Collected:
    """Phases 2 to 4: the masked sum, who is in it, and what opens it."""

    base: Established
    plan: bytes
    total: Ring
    bits: int
    members: set[int] = field(default_factory=set)
    _survivors: bytes = b""
    _signatures: dict[int, bytes] = field(default_factory=dict)
    _openings: dict[int, dict[int, bytes]] = field(default_factory=dict)

    def take(self, index: int, body: Buffer) -> None:
        """A client's masked vector, added to the sum."""
        if index not in self.base.shared or index in self.members or self._survivors:
            raise ProtocolViolation(f"client {index}: a vector without shares, or a second one")
        signature, packed = wire.split_signature(body)
        if len(packed) != packed_size(len(self.total), self.bits):
            raise ProtocolViolation(f"client {index}: {len(packed)} bytes of masked vector")
        self._party.signed(index, Phase.CONTRIBUTE, self.base.tid, masked_payload(self.plan, packed), signature)
        add_packed(self.total, packed, self.bits)
        self.members.add(index)

    def confirm_request(self) -> bytes:
        """CONFIRM, for the survivors U3, who are fixed by it.

        Raises:
            CohortTooSmall: below the floor.
        """
        self._party.enough(len(self.members), "survivors")
        self._survivors = wire.encode_survivors(sorted(self.members), self._party.session.size)
        return wire.frame(Kind.CONFIRM, self.base.sid, self._survivors)

    def take_signature(self, index: int, body: Buffer) -> None:
        """A survivor's signature over the survivors."""
        if index not in self.members:
            raise ProtocolViolation(f"client {index}: no survivor")
        payload = confirmed_payload(self.plan, self._survivors)
        self._party.signed(index, Phase.CONFIRM, self.base.tid, payload, bytes(body))
        self._signatures[index] = bytes(body)

    def unmask_request(self) -> bytes:
        """UNMASK with the survivors' certificate.

        Raises:
            CohortTooSmall: too few signatures.
        """
        if len(self._signatures) < self._party.session.quorum:
            raise CohortTooSmall(
                f"confirmations: {len(self._signatures)} clients; a certificate needs {self._party.session.quorum}"
            )
        session, rows = self._party.session, self._signatures
        if session.rule == "complete":  # everybody holds everybody's shares: a quorum is enough for all, t is no more
            rows = dict(islice(rows.items(), max(session.quorum, session.threshold)))
        return wire.frame(Kind.UNMASK, self.base.sid, wire.rows(rows))

    def take_openings(self, index: int, body: Buffer) -> None:
        """A survivor's shares."""
        if index not in self.members or index in self._openings:
            raise ProtocolViolation(f"client {index}: no survivor, or a second time")
        signature, openings = wire.split_signature(body)
        self._party.signed(index, Phase.UNMASK, self.base.tid, bytes(openings), signature)
        self._openings[index] = wire.decode_rows(openings, SHARE_BYTES, self._party.session.size, "openings")

    def unmask(self, workers: int = 1) -> Ring:
        """The sum over the survivors mod 2**bits, (n,) uint32: ``total`` itself.

        Raises:
            CohortTooSmall: too few shares of a secret.
            ProtocolViolation: shares that rebuild no advertised secret.
        """
        add_masks(self.total, list(self._masks()), self.bits, workers)
        return self.total

    def _masks(self) -> Iterator[tuple[Secret, int]]:
        """What to add so that all masks vanish: own masks of survivors, pairwise masks with those who fell out."""
        tid, shared = self.base.tid, self.base.shared
        by_dealer: dict[int, dict[int, bytes]] = {index: {} for index in shared}
        for holder, openings in self._openings.items():
            # Holding is mutual: whose shares this client holds are those who hold its own.
            for dealer in openings.keys() & set(self.base.graph.holders(holder)) & by_dealer.keys():
                by_dealer[dealer][1 + holder] = openings[dealer]
        rebuilding = Rebuilding(self._party.session.threshold)
        for index in sorted(self.members):
            secret = rebuilding.secret(index, by_dealer[index], partial(self._owns, index))
            yield own_mask(secret, tid, self.plan), -1
            secret.wipe()
        for index in sorted(shared.keys() - self.members):
            raw = rebuilding.secret(index, by_dealer[index], partial(self._agrees, index))
            key = Agreement.rebuild(raw, self.base.adverts[index].mask)
            raw.wipe()
            for other in self.base.graph.neighbours(index):
                if other in self.members:
                    seed = pair_mask(key.exchange(self.base.adverts[other].mask), tid, self.plan)
                    yield seed, -pair_sign(other, index)

    def _owns(self, index: int, secret: bytes) -> bool:
        return sessions.secret_hash(self.base.tid, index, secret) == self.base.shared[index].own_mask

    def _agrees(self, index: int, secret: bytes) -> bool:
        try:
            Agreement.rebuild(secret, self.base.adverts[index].mask)
        except ProtocolViolation:
            return False
        return True

    @property
    def _party(self) -> Party:
        return self.base.party
