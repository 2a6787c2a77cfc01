"""Channels between two clients of a session, through the server: who seals to whom under which key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedsus.errors import ProtocolViolation
from fedsus.secagg.keys import KEY_BYTES, Agreement, derive, open_sealed, seal
from fedsus.secagg.seat import Seat
from fedsus.secagg.secret import Secret
from fedsus.secagg.shares import PRIME, SHARE_BYTES
from fedsus.secagg.wire import Advert


@dataclass(frozen=True, slots=True)
class Channel:
    """A client's two keys with another: one for each direction, each used once."""

    sending: Secret
    receiving: Secret


def agreed(
    key: Agreement, seat: Seat, tid: bytes, peers: Mapping[int, Advert], others: Iterable[int]
) -> dict[int, Channel]:
    """The channels with ``others``, by index; our own index is left out.

    Raises:
        ProtocolViolation: a channel key of low order.
    """
    found = {}
    for index in others:
        if index == seat.index:
            continue
        with_peer = key.exchange(peers[index].channel)
        both = derive(with_peer, "channel", *_pair(tid, seat, index, peers), length=2 * KEY_BYTES)
        with_peer.wipe()
        low, high = Secret(both.reveal()[:KEY_BYTES]), Secret(both.reveal()[KEY_BYTES:])
        both.wipe()
        found[index] = Channel(low, high) if seat.index < index else Channel(high, low)
    return found


def seal_shares(channel: Channel, shares: bytes, tid: bytes, sender: int, receiver: int) -> bytes:
    """Both shares (66 bytes) under the sending key, which is used up: 82 bytes."""
    sealed = seal(channel.sending, shares, _bound(tid, sender, receiver))
    channel.sending.wipe()
    return sealed


def open_shares(receiving: Secret, sealed: bytes, tid: bytes, sender: int, receiver: int) -> Secret | None:
    """Both shares of one dealer; None if they do not open or are no field elements."""
    try:
        plain = open_sealed(receiving, sealed, _bound(tid, sender, receiver))
    except ProtocolViolation:
        return None
    halves = plain[:SHARE_BYTES], plain[SHARE_BYTES:]
    if any(int.from_bytes(half, "big") >= PRIME for half in halves):
        return None
    return Secret(plain)


def _pair(tid: bytes, seat: Seat, index: int, peers: Mapping[int, Advert]) -> list[bytes]:
    """What a channel's keys are bound to: both identities and both keys, the lower index first."""
    parts = [tid]
    for one in sorted((seat.index, index)):
        parts += (one.to_bytes(4, "little"), seat.keys[one], peers[one].channel)
    return parts


def _bound(tid: bytes, sender: int, receiver: int) -> bytes:
    return tid + sender.to_bytes(4, "little") + receiver.to_bytes(4, "little")
