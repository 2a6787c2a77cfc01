"""The server's exchange: phases as generators that yield an `Ask` and receive replies.

    establish    advertise, share                         two exchanges, for a session on its own
    secure_sum   contribute, confirm, unmask              three; the next session's first two ride on the last two

A client that falls out, refuses or sends nonsense costs its own update while the survivors reach the session's floor
and thresholds; below them the attempt is abandoned and no sum is opened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from fedsus.encoding.packing import Buffer
from fedsus.errors import CohortTooSmall, ProtocolViolation
from fedsus.secagg import wire
from fedsus.secagg.server import Collected, Established, Opening, Sharing
from fedsus.secagg.wire import Kind
from fedsus.types import Answered, Ask, Lost, Refused, Reply, Summed

log = logging.getLogger("fedsus.server")

Phases: TypeAlias = Generator[Ask, Iterator[Reply], Established]
Sums: TypeAlias = Generator[Ask, Iterator[Reply], "SecureSummed"]
Take: TypeAlias = Callable[[int, Buffer], None]
Wanted: TypeAlias = Mapping[Kind, tuple[Mapping[str, int], Take]]
"""What each kind of frame is given to, by the client's index there."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long phases wait, in seconds.

    Attributes:
        contribute: for training.
        light: for any other phase.
        grace: for the rest, once enough have answered a light phase.
    """

    contribute: float
    light: float = 30.0
    grace: float = 2.0


@dataclass(frozen=True, slots=True)
class SecureSummed:
    """The sum, and the next session if it was established on the way."""

    summed: Summed
    following: Established | None


@dataclass(slots=True)
class _Taking:
    """Takes one phase's replies."""

    wanted: Wanted
    refused: set[str] = field(default_factory=set)

    def take(self, replies: Iterator[Reply], waiting: set[str]) -> None:
        """Give each frame to its taker; a client's nonsense is its own loss."""
        for reply in replies:
            if reply.client not in waiting:
                continue
            waiting.remove(reply.client)
            match reply:
                case Answered():
                    self._answer(reply.client, reply.body)
                case Refused():
                    self.refused.add(reply.client)
                case Lost():
                    pass
            del reply  # before the next one is made: the server holds one answer at a time

    def _answer(self, client: str, body: bytes) -> None:
        try:
            found = wire.frames(body)
        except ProtocolViolation as error:
            log.warning("an answer was left out: %s", error)
            return
        for frame in found:
            clients, take = self.wanted.get(frame.kind, ({}, _nothing))
            index = clients.get(client)
            if index is None:
                continue
            if frame.refused:
                self.refused.add(client)
                continue
            try:
                take(index, frame.body)
            except ProtocolViolation as error:
                log.warning("an answer was left out: %s", error)


def _nothing(index: int, body: Buffer) -> None:
    del index, body


def establish(opening: Opening, patience: Patience) -> Phases:
    """Phases 0 and 1 of a session on its own.

    Raises:
        CohortTooSmall: too few clients for the session.
    """
    clients = {client: index for index, client in opening.party.clients.items()}
    refused: set[str] = set()
    try:
        yield from _phase(opening.request(), clients, patience, {Kind.ADVERTISE: (clients, opening.take)}, refused)
        sharing = opening.close()
        asked = {client: index for client, index in clients.items() if index in sharing.adverts}
        yield from _phase(sharing.request(), asked, patience, {Kind.SHARE: (asked, sharing.take)}, refused)
        return sharing.close()
    except CohortTooSmall as error:
        raise CohortTooSmall(f"{error}{_why(refused)}") from None


def _phase(
    request: bytes,
    clients: Mapping[str, int],
    patience: Patience,
    wanted: Wanted,
    refused: set[str],
) -> Generator[Ask, Iterator[Reply], None]:
    """One light phase that all clients are asked in; who refuses is added to ``refused``."""
    replies = yield Ask(dict.fromkeys(clients, b""), patience.light, common=request)
    _Taking(wanted, refused).take(replies, set(clients))


def secure_sum(
    established: Established,
    plan: bytes,
    request: tuple[bytes, Buffer],
    size: int,
    bits: int,
    patience: Patience,
    following: Opening | None = None,
    workers: int = 1,
) -> Sums:
    """Phases 2 to 4 of an established session, and on the way phases 0 and 1 of the following one.

    Args:
        plan: its hash, `fedsus.plan.digest`.
        request: the plan's bytes and the model's.
        size, bits: of the integers that each client sends.
        following: the next session; clients that were lost are asked for it too, and not waited for.
        workers: threads for the masks.

    Raises:
        CohortTooSmall: below the session's floor or thresholds: no secret was opened, or of each too few shares.
        ProtocolViolation: the shares rebuild no advertised secret.
    """
    indices = {client: index for index, client in established.party.clients.items()}
    asked = {client: index for client, index in indices.items() if index in established.shared}
    collected = established.collect(plan, np.zeros(size, dtype=np.uint32), bits)
    taking = _Taking({Kind.CONTRIBUTE: (asked, collected.take)})
    own = {client: established.own_request(index) for client, index in asked.items()}
    replies = yield Ask(own, patience.contribute, common=established.request(*request))
    taking.take(replies, set(own))
    survivors = {client: index for client, index in asked.items() if index in collected.members}
    try:
        confirm = collected.confirm_request()
    except CohortTooSmall as error:
        raise CohortTooSmall(f"{error}{_why(taking.refused)}") from None
    sharing = yield from _confirm(collected, survivors, confirm, following, patience)
    opened = yield from _unmask(collected, survivors, sharing, patience)
    total = collected.unmask(workers)
    refused = len(taking.refused - survivors.keys())
    lost = established.party.session.size - len(survivors) - refused
    return SecureSummed(Summed(total, len(survivors), refused, lost), opened)


def _confirm(
    collected: Collected, survivors: Mapping[str, int], confirm: bytes, following: Opening | None, patience: Patience
) -> Generator[Ask, Iterator[Reply], Sharing | None]:
    """Phase 3, with the next session's phase 0."""
    wanted: dict[Kind, tuple[Mapping[str, int], Take]] = {Kind.CONFIRM: (survivors, collected.take_signature)}
    others: dict[str, int] = {}
    if following is not None:
        others = {client: index for index, client in following.party.clients.items()}
        wanted[Kind.ADVERTISE] = (others, following.take)
        confirm += following.request()
    yield from _riding(collected, survivors, others, confirm, patience, wanted)
    if following is None:
        return None
    try:
        return following.close()
    except CohortTooSmall as error:
        log.info("the next session starts on its own: %s", error)
        return None


def _unmask(
    collected: Collected, survivors: Mapping[str, int], sharing: Sharing | None, patience: Patience
) -> Generator[Ask, Iterator[Reply], Established | None]:
    """Phase 4, with the next session's phase 1."""
    request = collected.unmask_request()
    wanted: dict[Kind, tuple[Mapping[str, int], Take]] = {Kind.UNMASK: (survivors, collected.take_openings)}
    others: dict[str, int] = {}
    if sharing is not None:
        others = {c: i for i, c in sharing.party.clients.items() if i in sharing.adverts}
        wanted[Kind.SHARE] = (others, sharing.take)
        request += sharing.request()
    yield from _riding(collected, survivors, others, request, patience, wanted)
    if sharing is None:
        return None
    try:
        return sharing.close()
    except CohortTooSmall as error:
        log.info("the next session starts on its own: %s", error)
        return None


def _riding(
    collected: Collected,
    survivors: Mapping[str, int],
    others: Mapping[str, int],
    request: bytes,
    patience: Patience,
    wanted: Wanted,
) -> Generator[Ask, Iterator[Reply], None]:
    """Ask the survivors, and whom the next session wants without waiting for them."""
    session = collected.base.party.session
    enough = max(session.quorum, session.threshold) if session.rule == "complete" else None
    optional = frozenset(others.keys() - survivors.keys())
    everyone = {**survivors, **others}
    replies = yield Ask(
        dict.fromkeys(everyone, b""), patience.light, enough, common=request, optional=optional, grace=patience.grace
    )
    _Taking(wanted).take(replies, set(everyone))


def _why(refused: set[str]) -> str:
    return f" ({len(refused)} refused; the owners see why with: fedsus client status)" if refused else ""
