"""What clients and server compute alike: the check of U1, seeds of masks, what signatures say."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from fedsus.encoding.packing import Buffer
from fedsus.errors import ProtocolViolation
from fedsus.secagg import wire
from fedsus.secagg.keys import Signatures, derive, statement
from fedsus.secagg.secret import Secret
from fedsus.secagg.session import Phase, Session, check_set


def checked_adverts(
    session: Session,
    sid: bytes,
    keys: Sequence[bytes],
    raw: Buffer,
    signatures: Signatures,
    around: Collection[int],
) -> dict[int, wire.Advert]:
    """U1 by index: enough clients, no key twice anywhere, and those ``around`` us signed by their identities.

    A copied mask key would cancel masks; one key for both purposes would share out the channels' secret. Every edge of
    the graph is checked at both of its ends: an advert that is forged for a client far from us is refused by it and by
    its neighbours, who then sign no root. So a client checks those it shares secrets with, not thousands.

    Raises:
        ProtocolViolation: one of these does not hold.
    """
    adverts = wire.decode_adverts(raw, session.size)
    check_set(session, len(adverts), "adverts")
    seen: set[bytes] = set()
    for advert in adverts:
        for key in (advert.channel, advert.mask):
            if key in seen:
                raise ProtocolViolation(f"adverts: client {advert.index} repeats a key")
            seen.add(key)
        if advert.index in around:
            signed = statement(Phase.ADVERTISE, sid, advert.index, advert.payload)
            if not signatures.check(keys[advert.index], signed, advert.signature):
                raise ProtocolViolation(f"adverts: the signature of client {advert.index} is not good")
    return {advert.index: advert for advert in adverts}


def pair_mask(with_peer: Secret, tid: bytes, plan: bytes) -> Secret:
    """Seed of the mask between two clients, of what their mask keys agree on."""
    return derive(with_peer, "pair", tid, plan)


def own_mask(secret: Secret, tid: bytes, plan: bytes) -> Secret:
    """Seed of a client's own mask, of its secret b."""
    return derive(secret, "self", tid, plan)


def pair_sign(index: int, other: int) -> int:
    """How ``index`` adds its mask with ``other``: the lower index adds, the higher subtracts."""
    return 1 if index < other else -1


def masked_payload(plan: bytes, packed: Buffer) -> bytes:
    """What the signature of a masked vector says, beside phase, tid and index."""
    return plan + hashlib.sha256(packed).digest()


def confirmed_payload(plan: bytes, survivors: bytes) -> bytes:
    """What the signature of a set of survivors says, beside phase, tid and index."""
    return plan + survivors
