"""The client's side of one session: typed states, each used up by the step to the next. No clock, no disk, no sockets.

    Seat --advertise--> Advertised --share--> Shared --open--> Opened --mask--> Masked --confirm--> Confirmed --unmask

Whatever the server asks, a client gives away one advert, one set of shares, one masked vector, one signature over one
set of survivors, and for each other client one of two secrets. Each step is noted in `Marks` before its answer exists,
so that neither a restart nor a copy of this process's memory can take it twice. Secrets live in these objects alone and
are wiped as soon as the protocol allows.

The protocol is that of Bell, Bonawitz, Gascon, Lepoint and Raykova (CCS 2020), with what an actively deviating server
makes necessary; docs/threat-model.md says what is proved where.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedsus.encoding.packing import Buffer, pack
from fedsus.errors import ProtocolViolation
from fedsus.secagg import channels, wire
from fedsus.secagg import session as sessions
from fedsus.secagg.alike import checked_adverts, confirmed_payload, masked_payload, own_mask, pair_mask, pair_sign
from fedsus.secagg.keys import Agreement, commitment
from fedsus.secagg.masks import add_masks
from fedsus.secagg.seat import Circle, Seat
from fedsus.secagg.secret import Secret
from fedsus.secagg.session import Phase
from fedsus.secagg.shares import SECRET_BYTES, SHARE_BYTES, split
from fedsus.types import Ring

Draw = Callable[[int], bytes]


@dataclass(slots=True)
class _State:
    """A state is used up by one step, whether that succeeds or not: what failed once is not tried with other input."""

    seat: Seat
    _used: bool = field(default=False, init=False)

    def _take(self, now: float) -> None:
        if self._used:
            raise ProtocolViolation("session: this step was taken already")
        self._used = True
        self.seat.alive(now)


def advertise(seat: Seat, now: float, draw: Draw = os.urandom) -> tuple[Advertised, bytes]:
    """Phase 0: make fresh keys and sign them over the sid; the next state and the advert, 164 bytes.

    Raises:
        ProtocolViolation: expired, or advertised before.
    """
    seat.alive(now)
    channel, mask = Agreement.generate(), Agreement.generate()
    payload = channel.public + mask.public + draw(SECRET_BYTES)
    seat.marks.once(seat.sid, Phase.ADVERTISE, commitment("advert", payload))
    signature = seat.signed(Phase.ADVERTISE, seat.sid, payload)
    advert = wire.Advert(seat.index, channel.public, mask.public, payload[64:], signature)
    return Advertised(seat, channel, mask, advert.encode()), advert.encode()


@dataclass(slots=True)
class Advertised(_State):
    """After phase 0: holds both fresh keys."""

    channel: Agreement
    mask: Agreement
    advert: bytes

    def wipe(self) -> None:
        """Drop all secrets."""
        self.channel.wipe()
        self.mask.wipe()

    def share(self, adverts: Buffer, now: float, draw: Draw = os.urandom) -> tuple[Shared, bytes]:
        """Phase 1: check U1, share out the secret of the mask key and of the own mask, sign the root.

        Raises:
            ProtocolViolation: a set below the floor, a bad signature, a repeated or low-order key, or without us.
        """
        try:
            self._take(now)
            return self._share(bytes(adverts), draw)
        finally:
            self.channel.wipe()

    def _share(self, adverts: bytes, draw: Draw) -> tuple[Shared, bytes]:
        seat, session = self.seat, self.seat.session
        root = sessions.root(seat.sid, adverts)
        tid, around = sessions.transcript(root), frozenset(session.graph(root).holders(seat.index))
        peers = checked_adverts(session, seat.sid, seat.keys, adverts, seat.signatures, around)
        mine = peers.get(seat.index)
        if mine is None or mine.encode() != self.advert:
            raise ProtocolViolation("adverts: without this client's own")
        circle = Circle(root, tid, frozenset(peers), around)
        holders = sorted(around & circle.known)
        if len(holders) < session.threshold:
            raise ProtocolViolation(f"adverts: {len(holders)} holders of shares; {session.threshold} are needed")
        own, between = Secret(draw(SECRET_BYTES)), channels.agreed(self.channel, seat, tid, peers, holders)
        points = [1 + index for index in holders]
        parts = zip(
            holders,
            split(own.reveal(), session.threshold, points, draw),
            split(self.mask.secret().reveal(), session.threshold, points, draw),
            strict=True,
        )
        kept, sealed = {}, {}
        for index, own_share, mask_share in parts:
            if index == seat.index:
                kept[index] = Secret(own_share + mask_share)
            else:
                both = own_share + mask_share
                sealed[index] = channels.seal_shares(between[index], both, tid, seat.index, index)
        del own_share, mask_share, both  # a traceback that shows local values shows no share
        own_hash = sessions.secret_hash(tid, seat.index, own.reveal())
        root_signature = seat.signed(Phase.ROOT, seat.sid, root)
        payload = own_hash + root_signature + wire.rows(sealed)
        signature = seat.signed(Phase.SHARE, tid, payload)
        # After everything random: a copy of this memory made earlier finds it noted, one made later has these shares.
        seat.marks.once(seat.sid, Phase.SHARE, tid)
        keys = {index: peers[index].mask for index in between}
        receiving = {index: channel.receiving for index, channel in between.items()}
        return Shared(seat, circle, self.mask, own, keys, receiving, kept), payload + signature


@dataclass(slots=True)
class Shared(_State):
    """After phase 1: waits for the others' shares and the certificate."""

    circle: Circle
    mask_key: Agreement
    own: Secret
    keys: Mapping[int, bytes]
    channels: Mapping[int, Secret]
    shares: dict[int, Secret]

    def wipe(self) -> None:
        """Drop all secrets."""
        self.mask_key.wipe()
        _wipe(self.own, *self.channels.values(), *self.shares.values())

    def open(self, sealed: Mapping[int, bytes], certificate: Mapping[int, bytes], plan: bytes, now: float) -> Opened:
        """Phase 2, before training: check the certificate, accept shares, fix the plan (its hash, 32 bytes).

        Neighbours whose sealed shares came are U2: all of them are masked against, so that a bad share costs its
        sender's round and not ours; only shares that open count.

        Raises:
            ProtocolViolation: no quorum over our root, shares from someone we share no edge with, or too few of them.
        """
        seat, session = self.seat, self.seat.session
        self._take(now)
        seat.certified(certificate, Phase.ROOT, seat.sid, self.circle.root)
        strange = sorted(set(sealed) - set(self.channels))
        if strange:
            raise ProtocolViolation(f"shares: client {strange[0]} is no neighbour of ours")
        for index, box in sealed.items():
            share = channels.open_shares(self.channels[index], box, self.circle.tid, index, seat.index)
            if share is not None:
                self.shares[index] = share
        _wipe(*self.channels.values())
        if len(self.shares) < session.threshold:
            raise ProtocolViolation(f"shares: {len(self.shares)} were accepted; {session.threshold} are needed")
        seat.marks.once(seat.sid, Phase.CONTRIBUTE, plan)
        keys = {index: key for index, key in self.keys.items() if index in sealed}
        return Opened(seat, self.circle, plan, self.mask_key, self.own, keys, self.shares)


@dataclass(slots=True)
class Opened(_State):
    """Phase 2 while the client trains: one plan, and all that masks need."""

    circle: Circle
    plan: bytes
    mask_key: Agreement
    own: Secret
    keys: Mapping[int, bytes]
    shares: dict[int, Secret]

    def wipe(self) -> None:
        """Drop all secrets."""
        self.mask_key.wipe()
        _wipe(self.own, *self.shares.values())

    def mask(self, ring: Ring, bits: int, now: float) -> tuple[Masked, bytes]:
        """Mask ``ring`` (n,) uint32 in place; the next state, and signature and packed residues.

        Raises:
            ProtocolViolation: expired, or masked before.
        """
        self._take(now)
        seat, tid = self.seat, self.circle.tid
        masks: list[tuple[Secret, int]] = []
        try:
            # A copy of this memory that was made while it trained has other integers for the same masks.
            seat.marks.once(seat.sid, Phase.MASK, self.plan)
            masks.append((own_mask(self.own, tid, self.plan), 1))
            for index, key in self.keys.items():
                with_peer = self.mask_key.exchange(key)
                masks.append((pair_mask(with_peer, tid, self.plan), pair_sign(seat.index, index)))
                with_peer.wipe()
            add_masks(ring, masks, bits, seat.workers)
        finally:
            _wipe(self.own, *(secret for secret, _ in masks))
            self.mask_key.wipe()
        packed = _packed(ring, bits)
        signature = seat.signed(Phase.CONTRIBUTE, tid, masked_payload(self.plan, packed))
        dealers = frozenset((*self.keys, seat.index))
        return Masked(seat, self.circle, self.plan, dealers, self.shares), b"".join((signature, packed))


@dataclass(slots=True)
class Masked(_State):
    """After phase 2: the masked vector left. ``dealers``: ourselves and whose shares were sent to us."""

    circle: Circle
    plan: bytes
    dealers: frozenset[int]
    shares: dict[int, Secret]

    def wipe(self) -> None:
        """Drop all secrets."""
        _wipe(*self.shares.values())

    def confirm(self, survivors: Buffer, now: float) -> tuple[Confirmed, bytes]:
        """Phase 3: sign the one set of survivors U3 that this client opens secrets for; 64 bytes.

        Raises:
            ProtocolViolation: without us, below the floor, beyond U2, or with fewer than t holders of our shares.
        """
        self._take(now)
        seat, session, circle = self.seat, self.seat.session, self.circle
        raw = bytes(survivors)
        members = frozenset(wire.decode_survivors(raw, session.size))
        if seat.index not in members:
            raise ProtocolViolation("survivors: without this client")
        sessions.check_set(session, len(members), "survivors")
        if not members <= circle.known or not members & circle.holders <= self.dealers:
            raise ProtocolViolation("survivors: a client that shared nothing")
        if len(members & circle.holders) < session.threshold:
            raise ProtocolViolation(f"survivors: fewer than {session.threshold} hold shares of ours")
        payload = confirmed_payload(self.plan, raw)
        seat.marks.once(seat.sid, Phase.CONFIRM, commitment("survivors", payload))
        signature = seat.signed(Phase.CONFIRM, circle.tid, payload)
        return Confirmed(seat, circle, payload, members, self.shares), signature


@dataclass(slots=True)
class Confirmed(_State):
    """After phase 3: bound to one set of survivors."""

    circle: Circle
    payload: bytes
    members: frozenset[int]
    shares: dict[int, Secret]

    def wipe(self) -> None:
        """Drop all secrets."""
        _wipe(*self.shares.values())

    def unmask(self, certificate: Mapping[int, bytes], now: float) -> bytes:
        """Phase 4: for each dealer one share, of b for a survivor, of the mask key for the others; never both.

        Raises:
            ProtocolViolation: no quorum of survivors on our set, fewer than t of them hold our shares, or too late.
        """
        try:
            self._take(now)
            seat, circle = self.seat, self.circle
            if not certificate.keys() <= self.members:
                raise ProtocolViolation("certificate: signed by a client that is no survivor")
            needed = seat.session.threshold
            signers = seat.certified(certificate, Phase.CONFIRM, circle.tid, self.payload, circle.holders, needed)
            if len(signers & circle.holders) < needed:
                raise ProtocolViolation(f"certificate: fewer than {needed} of our holders signed")
            seat.marks.once(seat.sid, Phase.UNMASK, commitment("survivors", self.payload))
            return self._openings()
        finally:
            self.wipe()

    def _openings(self) -> bytes:
        opened = {}
        for dealer, both in self.shares.items():
            share = both.reveal()
            opened[dealer] = share[:SHARE_BYTES] if dealer in self.members else share[SHARE_BYTES:]
        body = wire.rows(opened)
        return self.seat.signed(Phase.UNMASK, self.circle.tid, body) + body


def _packed(ring: Ring, bits: int) -> Buffer:
    """As `pack`; whole words are packed as they lie in memory, and a large vector is not copied for it."""
    if bits == 32 and ring.dtype == "<u4" and ring.flags.c_contiguous and len(ring):
        return ring.data.cast("B")
    return pack(ring, bits)


State = Advertised | Shared | Opened | Masked | Confirmed


def _wipe(*secrets: Secret) -> None:
    for secret in secrets:
        secret.wipe()
