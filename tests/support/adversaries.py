"""A server that lies, with colluders' real keys, against honest client states: what it asks, learns and can open.

A `Cell` is one session of which the adversary plays the server. Clients are the library's own states; of those that
collude it reads every secret and signs whatever it likes with their identities. What honest clients refuse is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TypeVar

import numpy as np

from fedsus.encoding.packing import unpack
from fedsus.errors import FedsusError, ProtocolViolation
from fedsus.secagg import client as clients
from fedsus.secagg import session as sessions
from fedsus.secagg import wire
from fedsus.secagg.alike import pair_sign
from fedsus.secagg.client import Advertised, Confirmed, Masked, Opened, Shared, State
from fedsus.secagg.graph import Graph
from fedsus.secagg.keys import Agreement, Identity, Signatures, statement
from fedsus.secagg.masks import add_masks
from fedsus.secagg.seat import Marks, Seat
from fedsus.secagg.secret import Secret
from fedsus.secagg.session import Phase, Session
from fedsus.secagg.shares import SHARE_BYTES, rebuild
from fedsus.secagg.thresholds import Thresholds
from fedsus.types import Ring
from fedsus_simulations.whole.secure_clients import Federation, MemoryMarks, random_rings

T = TypeVar("T")
PLAN, OTHER_PLAN = b"p" * 32, b"q" * 32
LENGTH, BITS = 6, 32
OWN, MASK = 0, 1
"""The two secrets of a client: b of its own mask, and its mask key."""


@cache
def identities(size: int) -> tuple[Identity, ...]:
    """The same for every test: making them costs more than an attack."""
    return tuple(Identity.generate() for _ in range(size))


def integers(index: int, of: str = "model") -> Ring:
    """What an honest client has to hide: (LENGTH,) uint32, another for each model that it is asked about."""
    return random_rings(LENGTH, sum(of.encode()), BITS)(index)


def summed(*indices: int) -> Ring:
    """The sum of their integers mod 2**32."""
    total = np.zeros(LENGTH, dtype=np.uint32)
    for index in indices:
        total += integers(index)
    return total


class Cell:
    """One session, its honest clients and the adversary's knowledge.

    Args:
        size: N.
        colluding: indices whose keys the adversary has.
        colluders, dropouts: A and D of the session, whatever is true.
        numbers: graph, k and t; the protocol's own when not given.
        marks: what each client notes in; in memory when not given.
        session: instead of one with these numbers.
    """

    def __init__(
        self,
        size: int,
        colluding: Iterable[int] = (),
        colluders: int = 1,
        dropouts: int = 0,
        numbers: Thresholds | None = None,
        marks: Callable[[int], Marks] | None = None,
        session: Session | None = None,
    ) -> None:
        federation = Federation(identities(size), colluders, dropouts, numbers)
        self.identities, self.colluding = federation.identities, frozenset(colluding)
        self.session = session or federation.session()
        self.sid = sessions.session_id(sessions.encode(self.session))
        signatures, noted = Signatures(4096), marks or (lambda _: MemoryMarks())
        self.seats = [
            Seat(self.session, self.sid, federation.keys, index, identity, signatures, noted(index))
            for index, identity in enumerate(federation.identities)
        ]
        self.states: dict[int, State] = {}
        self.adverts: dict[int, wire.Advert] = {}
        self.shared: dict[int, wire.Shared] = {}
        self.keys: dict[int, Agreement] = {}
        self.masked: dict[int, tuple[Ring, bytes, frozenset[int]]] = {}
        self.refusals: list[str] = []
        self.tid = b""
        self.root = b""
        self._shown: dict[int, frozenset[int]] = {}
        self._learned: dict[tuple[int, int], dict[int, bytes]] = {}

    @property
    def honest(self) -> list[int]:
        return [index for index in range(self.session.size) if index not in self.colluding]

    @property
    def graph(self) -> Graph:
        return self.session.graph(self.root)

    def ask(self, step: Callable[[], T]) -> T | None:
        """What a client answers; None where it refuses."""
        try:
            return step()
        except FedsusError as error:
            self.refusals.append(str(error))
            return None

    def advertise(self) -> None:
        """Phase 0; the adversary keeps the colluders' mask keys."""
        for seat in self.seats:
            state, raw = clients.advertise(seat, 0.0)
            self.states[seat.index], self.adverts[seat.index] = state, wire.decode_advert(raw)
            if seat.index in self.colluding:
                self.keys[seat.index] = Agreement.rebuild(state.mask.secret(), state.mask.public)

    def forge(
        self, index: int, mask: bytes | None = None, channel: bytes | None = None, nonce: bytes | None = None
    ) -> None:
        """Put other public keys, or another nonce, into a colluder's advert, and sign it."""
        state, real = self.states[index], self.adverts[index]
        payload = (channel or real.channel) + (mask or real.mask) + (nonce or real.nonce)
        signature = self.identities[index].sign(statement(Phase.ADVERTISE, self.sid, index, payload))
        forged = wire.Advert(index, payload[:32], payload[32:64], payload[64:], signature)
        self.adverts[index] = forged
        assert isinstance(state, Advertised)
        state.advert = forged.encode()
        if mask is not None:
            del self.keys[index]  # nobody knows the secret of a copied key

    def share(self, among: Iterable[int] | None = None, view: Iterable[int] | None = None) -> None:
        """Phase 1 of ``among``, shown the adverts of ``view``; everybody when not given."""
        shown = range(self.session.size) if view is None else sorted(view)
        raw = wire.encode_adverts([self.adverts[index] for index in shown])
        self.root = sessions.root(self.sid, raw)
        self.tid = sessions.transcript(self.root)
        for index in range(self.session.size) if among is None else among:
            state = self.states[index]
            assert isinstance(state, Advertised)
            given = self.ask(lambda state=state: state.share(raw, 0.0))  # type: ignore[misc]
            if given is not None:
                self.states[index], answer = given
                self.shared[index] = wire.decode_shared(answer, self.session.size)

    def grind(self, wanted: Callable[[Graph], bool]) -> Graph:
        """Draw a colluder's nonce again until the ring is as wanted."""
        for attempt in range(100_000):
            self.forge(min(self.colluding), nonce=attempt.to_bytes(32, "little"))
            self.share([])
            if wanted(self.graph):
                return self.graph
        raise AssertionError("no such ring was found")

    def certificate(self, signers: Iterable[int] | None = None) -> dict[int, bytes]:
        """Signatures over the root that were given."""
        return {index: self.shared[index].root_signature for index in self.shared.keys() & set(signers or self.shared)}

    def open(
        self,
        index: int,
        dealers: Iterable[int] | None = None,
        plan: bytes = PLAN,
        certificate: Mapping[int, bytes] | None = None,
    ) -> None:
        """Pass on the shares of ``dealers``, everybody's when not given; of a colluder everything is learned."""
        state = self.states[index]
        assert isinstance(state, Shared)
        among = self.shared.keys() if dealers is None else set(dealers)
        sealed = {one: self.shared[one].sealed[index] for one in among if index in self.shared[one].sealed}
        shown = self.certificate() if certificate is None else certificate
        opened = self.ask(lambda: state.open(sealed, shown, plan, 0.0))
        if opened is None:
            return
        self.states[index], self._shown[index] = opened, frozenset(sealed)
        if index in self.colluding:
            for dealer, both in opened.shares.items():
                self.learn(dealer, OWN, index, both.reveal()[:SHARE_BYTES])
                self.learn(dealer, MASK, index, both.reveal()[SHARE_BYTES:])

    def contribute(self, index: int, ring: Ring | None = None) -> Ring | None:
        """A masked vector of a client's integers, as it arrives."""
        state = self.states[index]
        assert isinstance(state, Opened)
        given = self.ask(lambda: state.mask(integers(index) if ring is None else ring, BITS, 0.0))
        if given is None:
            return None
        self.states[index] = given[0]
        masked = unpack(wire.split_signature(given[1])[1], LENGTH, BITS)
        self.masked[index] = masked, state.plan, self._shown[index]
        return masked

    def confirm(self, index: int, members: Iterable[int], state: State | None = None) -> bytes | None:
        """A client's signature over the survivors; a colluder's over whatever is asked."""
        raw = self.survivors(members)
        if index in self.colluding:
            return self.sign(index, raw)
        asked = state or self.states[index]
        assert isinstance(asked, Masked)
        given = self.ask(lambda: asked.confirm(raw, 0.0))
        if given is None:
            return None
        self.states[index] = given[0]
        return given[1]

    def survivors(self, members: Iterable[int]) -> bytes:
        return wire.encode_survivors(sorted(members), self.session.size)

    def sign(self, index: int, survivors: bytes, plan: bytes = PLAN) -> bytes:
        """A colluder's signature over survivors."""
        payload = clients.confirmed_payload(plan, survivors)
        return self.identities[index].sign(statement(Phase.CONFIRM, self.tid, index, payload))

    def unmask(self, index: int, certificate: Mapping[int, bytes], members: Iterable[int]) -> None:
        """What an honest client opens, learned."""
        state = self.states[index]
        assert isinstance(state, Confirmed)
        answer = self.ask(lambda: state.unmask(certificate, 0.0))
        if answer is None:
            return
        among = set(members)
        rows = wire.decode_rows(wire.split_signature(answer)[1], SHARE_BYTES, self.session.size, "openings")
        for dealer, opened in rows.items():
            self.learn(dealer, OWN if dealer in among else MASK, index, opened)

    def close(self, members: Iterable[int], signers: Iterable[int], openers: Iterable[int] | None = None) -> None:
        """Phases 3 and 4: ``signers`` sign one set of survivors, and open it (or ``openers``) as far as they do."""
        among = set(members)
        given = {index: self.confirm(index, among) for index in signers}
        certificate = {index: one for index, one in given.items() if one is not None}
        for index in certificate.keys() - self.colluding if openers is None else openers:
            if isinstance(self.states[index], Confirmed):
                self.unmask(index, certificate, among)

    def learn(self, dealer: int, which: int, holder: int, share: bytes) -> None:
        """Note one share."""
        self._learned.setdefault((dealer, which), {})[1 + holder] = share

    def secret(self, dealer: int, which: int) -> bytes | None:
        """A client's secret, if enough shares of it were learned."""
        try:
            return rebuild(self._learned.get((dealer, which), {}), self.session.threshold)
        except ProtocolViolation:
            return None

    def both(self, dealer: int) -> bool:
        """Whether both secrets of a client are known."""
        return self.secret(dealer, OWN) is not None and self.secret(dealer, MASK) is not None

    def reveal(self, *members: int, cancelled: Iterable[tuple[int, int]] = ()) -> Ring | None:
        """The sum over ``members`` of what they sent without its masks; None where a mask cannot be computed.

        Args:
            cancelled: pairs whose masks the adversary hopes to cancel each other.
        """
        if not members or not set(members) <= self.masked.keys():
            return None
        total = np.zeros(LENGTH, dtype=np.uint32)
        masks: list[tuple[Secret, int]] = []
        for index in members:
            masked, plan, peers = self.masked[index]
            total += masked
            own = self.secret(index, OWN)
            if own is None:
                return None
            masks.append((clients.own_mask(Secret(own), self.tid, plan), -1))
            for peer in peers:
                if (index, peer) in set(cancelled) or self._cancels(index, peer, members):
                    continue
                agreed = self._agreed(index, peer)
                if agreed is None:
                    return None
                masks.append((clients.pair_mask(agreed, self.tid, plan), -pair_sign(index, peer)))
        add_masks(total, masks, BITS)
        return total

    def _cancels(self, index: int, peer: int, members: Iterable[int]) -> bool:
        """Whether two vectors hold each other's mask, and the same one under both plans."""
        if peer not in members or index not in self.masked[peer][2]:
            return False
        seeds = {clients.pair_mask(Secret(bytes(32)), self.tid, self.masked[one][1]).reveal() for one in (index, peer)}
        return len(seeds) == 1

    def _agreed(self, index: int, peer: int) -> Secret | None:
        """What two clients agree on, from the mask key of either."""
        for one, other in ((index, peer), (peer, index)):
            key = self.keys.get(one)
            if key is None and (raw := self.secret(one, MASK)) is not None:
                key = Agreement.rebuild(raw, self.adverts[one].mask)
            if key is not None:
                return key.exchange(self.adverts[other].mask)
        return None
