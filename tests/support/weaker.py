"""Clients without one of their checks: what an attack must succeed against, so that its test can fail.

Each is a context in which all of the library's clients are so weakened. None of this is ever installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from fedsus.owner.marks import SessionMarks
from fedsus.owner.note_file import NoteFile
from fedsus.secagg import client as clients
from fedsus.secagg import wire
from fedsus.secagg.client import Confirmed, Masked, Shared
from fedsus.secagg.graph import _Ring
from fedsus.secagg.keys import Agreement, derive
from fedsus.secagg.seat import Seat
from fedsus.secagg.secret import Secret
from fedsus.secagg.session import Phase, Session
from fedsus_simulations.whole.secure_clients import MemoryMarks


@contextmanager
def lenient(state: type, step: str, **numbers: Any) -> Iterator[None]:
    """One step of ``state`` goes by other numbers of the session than the session says."""
    real = getattr(state, step)

    def relaxed(self: Any, *arguments: Any) -> Any:
        strict = self.seat
        self.seat = replace(strict, session=Session.model_construct(**{**dict(strict.session), **numbers}))
        result = real(self, *arguments)
        (result[0] if isinstance(result, tuple) else result).seat = strict
        return result

    with patch.object(state, step, relaxed):
        yield


@contextmanager
def without_certificate() -> Iterator[None]:
    """Any list of signers will do: neither count nor signatures are looked at."""
    with patch.object(Seat, "certified", lambda self, certificate, *_, **__: set(certificate)):
        yield


@contextmanager
def without_quorum() -> Iterator[None]:
    """Signatures are checked, and one is enough: of the cohort, and of the neighbours."""

    def certified(self: Seat, certificate: Mapping[int, bytes], *rest: Any, **more: Any) -> set[int]:
        few = replace(self, session=Session.model_construct(**{**dict(self.session), "colluders": -self.session.size}))
        return real(few, certificate, *rest, **more)

    def unmask(self: Confirmed, certificate: Mapping[int, bytes], now: float) -> bytes:
        self.seat.certified(certificate, Phase.CONFIRM, self.circle.tid, self.payload)
        return self._openings()

    real = Seat.certified
    with patch.object(Seat, "certified", certified), patch.object(Confirmed, "unmask", unmask):
        yield


@contextmanager
def without_accepted_shares() -> Iterator[None]:
    """Masks whatever the number of shares that it accepted."""
    with lenient(Shared, "open", threshold=0):
        yield


@contextmanager
def without_floor() -> Iterator[None]:
    """Confirms however few survivors."""
    with patch("fedsus.secagg.session.check_set", lambda *_: None):
        yield


@contextmanager
def without_neighbours() -> Iterator[None]:
    """Confirms, and opens, however few of its neighbours survive."""
    with lenient(Masked, "confirm", threshold=0), without_quorum():
        yield


@contextmanager
def beyond_u2() -> Iterator[None]:
    """Confirms survivors that it has no mask with."""
    real = Masked.confirm

    def confirm(self: Masked, survivors: bytes, now: float) -> Any:
        self.dealers = self.circle.known
        return real(self, survivors, now)

    with patch.object(Masked, "confirm", confirm):
        yield


@contextmanager
def without_itself() -> Iterator[None]:
    """Confirms survivors of whom it is none."""

    def confirm(self: Masked, survivors: bytes, now: float) -> Any:
        members = frozenset(wire.decode_survivors(survivors, self.seat.session.size))
        payload = clients.confirmed_payload(self.plan, survivors)
        signature = self.seat.signed(Phase.CONFIRM, self.circle.tid, payload)
        return Confirmed(self.seat, self.circle, payload, members, self.shares), signature

    with patch.object(Masked, "confirm", confirm):
        yield


@contextmanager
def again() -> Iterator[None]:
    """Takes a step as often as it is asked: nothing is used up, noted or wiped."""
    with ExitStack() as stack:
        for where, name in (
            (clients._State, "_take"),
            (MemoryMarks, "once"),
            (Secret, "wipe"),
            (Agreement, "wipe"),
        ):
            stack.enter_context(patch.object(where, name, lambda *_: None))
        yield


@contextmanager
def without_plan() -> Iterator[None]:
    """Masks and signatures do not depend on the plan."""

    def pair(secret: Secret, tid: bytes, plan: bytes) -> Secret:
        return derive(secret, "pair", tid)

    def own(secret: Secret, tid: bytes, plan: bytes) -> Secret:
        return derive(secret, "self", tid)

    with (
        patch.object(clients, "pair_mask", pair),
        patch.object(clients, "own_mask", own),
        patch.object(clients, "confirmed_payload", lambda plan, survivors: survivors),
    ):
        yield


@contextmanager
def with_repeated_keys() -> Iterator[None]:
    """Takes a key that another client advertised too."""

    def checked(session: Session, sid: bytes, keys: Sequence[bytes], raw: bytes, *rest: Any) -> Any:
        return {advert.index: advert for advert in wire.decode_adverts(raw, session.size)}

    with patch.object(clients, "checked_adverts", checked):
        yield


@contextmanager
def with_raw_agreement() -> Iterator[None]:
    """Uses what X25519 puts out as it is."""

    def exchange(self: Agreement, peer: bytes) -> Secret:
        return Secret(self._alive().exchange(X25519PublicKey.from_public_bytes(peer)))

    with patch.object(Agreement, "exchange", exchange):
        yield


@contextmanager
def with_a_share_for_itself() -> Iterator[None]:
    """Counts itself among its holders on the ring too."""
    real = _Ring.holders

    def holders(self: _Ring, index: int) -> tuple[int, ...]:
        return tuple(sorted((*real(self, index), index)))

    with patch.object(_Ring, "holders", holders):
        yield


@contextmanager
def without_step_notes(*phases: Phase) -> Iterator[None]:
    """Some steps are not noted."""
    once = SessionMarks.once

    def some(self: SessionMarks, sid: bytes, phase: Phase, content: bytes) -> None:
        if phase not in phases:
            once(self, sid, phase, content)

    with patch.object(SessionMarks, "once", some):
        yield


@contextmanager
def with_unchecked_file() -> Iterator[None]:
    """Appends notes to a file that is not as it was left."""
    with patch.object(NoteFile, "_still_ours", lambda *_: None):
        yield
