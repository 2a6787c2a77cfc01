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
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np

from fedsus.encoding.packing import Buffer
from fedsus.errors import CohortTooSmall, ProtocolViolation
from fedsus.secagg import wire
from fedsus.secagg.server import Collected, Established, Opening, Party, Sharing
from fedsus.secagg.wire import Kind
from fedsus.types import Answered, Ask, Forms, Lost, Partial, Refused, Reply, Summed

log = logging.getLogger("fedsus.server")

N = TypeVar("N")
Phases: TypeAlias = Generator[Ask, Iterator[Reply], Established]
Sums: TypeAlias = Generator[Ask, Iterator[Reply], "SecureSummed"]
Take: TypeAlias = Callable[[int, Buffer], None]


@dataclass(frozen=True, slots=True)
class Taker:
    """Where one kind of frame goes.

    Attributes:
        clients: address -> index in the session.
        take: receives index and body; a client's nonsense raises.
        refused: addresses of who refused, added to.
        taken: addresses of whose frames were taken, added to.
        wanting: addresses of who could not read the request, added to.
    """

    clients: Mapping[str, int]
    take: Take
    refused: set[str]
    taken: set[str] = field(default_factory=set)
    wanting: set[str] = field(default_factory=set)

    def enough(self, members: int) -> Callable[[], bool]:
        """Whether the frames of so many were taken: refusals and nonsense are not counted."""
        return lambda: len(self.taken) >= members


Wanted: TypeAlias = Mapping[Kind, Taker]


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
    grace: float = 5.0


@dataclass(frozen=True, slots=True)
class SecureSummed:
    """The sum, and the next session if it was established on the way."""

    summed: Summed
    following: Established | None


@dataclass(slots=True)
class _Taking:
    """Takes one phase's replies."""

    wanted: Wanted

    def take(self, replies: Iterator[Reply], waiting: set[str]) -> None:
        """Give each frame to its taker; a client's nonsense is its own loss."""
        for reply in replies:
            if isinstance(reply, Partial):
                raise ProtocolViolation("secure sum: a sum of several clients is no answer in it")
            if reply.client not in waiting:
                continue
            waiting.remove(reply.client)
            match reply:
                case Answered():
                    self._answer(reply.client, reply.body)
                case Refused():
                    for taker in self.wanted.values():
                        taker.refused.add(reply.client)
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
            taker = self.wanted.get(frame.kind)
            index = None if taker is None else taker.clients.get(client)
            if taker is None or index is None:
                continue
            if frame.refused:
                taker.refused.add(client)
                continue
            if frame.wanting:
                taker.wanting.add(client)
                continue
            try:
                taker.take(index, frame.body)
                taker.taken.add(client)
            except ProtocolViolation as error:
                log.warning("an answer was left out: %s", error)


def establish(opening: Opening, patience: Patience) -> Phases:
    """Phases 0 and 1 of a session on its own.

    Raises:
        CohortTooSmall: too few clients for the session.
    """
    party = opening.party
    clients = {client: index for index, client in party.clients.items()}
    try:
        yield from _phase(
            opening.request(), Kind.ADVERTISE, Taker(clients, opening.take, party.refused), party, patience
        )
        sharing = opening.close()
        asked = {client: index for client, index in clients.items() if index in sharing.adverts}
        yield from _phase(sharing.request(), Kind.SHARE, Taker(asked, sharing.take, party.refused), party, patience)
        return sharing.close()
    except CohortTooSmall as error:
        raise CohortTooSmall(f"{error}{_why(party.refused)}") from None


def _phase(
    request: bytes, kind: Kind, taker: Taker, party: Party, patience: Patience
) -> Generator[Ask, Iterator[Reply], None]:
    """One light phase that all clients are asked in; once the session can be, the slowest have twice the grace."""
    everyone, grace = dict.fromkeys(taker.clients, b""), 2 * patience.grace
    enough = taker.enough(party.session.floor)
    replies = yield Ask(everyone, patience.light, enough, common=request, grace=grace, phase=_named(kind))
    _Taking({kind: taker}).take(replies, set(everyone))


def secure_sum(
    established: Established,
    plan: bytes,
    request: tuple[bytes, Buffer | Forms],
    size: int,
    bits: int,
    patience: Patience,
    following: Opening | None = None,
    workers: int = 1,
) -> Sums:
    """Phases 2 to 4 of an established session, and on the way phases 0 and 1 of the following one.

    Args:
        plan: its hash, `fedsus.plan.digest`.
        request: the plan's bytes and the model's, or the model in two forms.
        size, bits: of the integers that each client sends.
        following: the next session; clients that were lost are asked for it too, and not waited for.
        workers: threads for the masks.

    Raises:
        CohortTooSmall: below the session's floor or thresholds: no secret was opened, or of each too few shares.
        ProtocolViolation: the shares rebuild no advertised secret.
    """
    party = established.party
    asked = {client: index for index, client in party.clients.items() if index in established.shared}
    collected = established.collect(plan, np.zeros(size, dtype=np.uint32), bits)
    yield from _contribute(established, asked, collected, request, patience)
    survivors = {client: index for client, index in asked.items() if index in collected.members}
    try:
        confirm = collected.confirm_request()
    except CohortTooSmall as error:
        raise CohortTooSmall(f"{error}{_why(party.refused)}") from None
    sharing = yield from _confirm(collected, survivors, confirm, following, patience)
    opened = yield from _unmask(collected, survivors, sharing, patience)
    refused = len(party.refused - survivors.keys())
    lost = party.session.size - len(survivors) - refused
    return SecureSummed(Summed(collected.unmask(workers), len(survivors), refused, lost), opened)


def _contribute(
    established: Established,
    asked: Mapping[str, int],
    collected: Collected,
    request: tuple[bytes, Buffer | Forms],
    patience: Patience,
) -> Generator[Ask, Iterator[Reply], None]:
    """Phase 2; once more, with the whole model, for clients that could not read it, whose sessions stand as before."""
    plan, model = request
    forms = (model if isinstance(model, Forms) else Forms(model)).framed(partial(established.request, plan))
    taker = Taker(asked, collected.take, established.party.refused)
    own = {client: established.own_request(index) for client, index in asked.items()}
    phase = _named(Kind.CONTRIBUTE)
    replies = yield forms.ask(own, patience.contribute, phase)
    _Taking({Kind.CONTRIBUTE: taker}).take(replies, set(own))
    ask = forms.again({client: own[client] for client in sorted(taker.wanting)}, patience.contribute, phase)
    if ask is not None:
        replies = yield ask
        _Taking({Kind.CONTRIBUTE: taker}).take(replies, set(ask.requests))
    forms.read |= taker.taken


def _confirm(
    collected: Collected, survivors: Mapping[str, int], confirm: bytes, following: Opening | None, patience: Patience
) -> Generator[Ask, Iterator[Reply], Sharing | None]:
    """Phase 3, with the next session's phase 0."""
    wanted = {Kind.CONFIRM: Taker(survivors, collected.take_signature, collected.base.party.refused)}
    others: dict[str, int] = {}
    if following is not None:
        others = {client: index for index, client in following.party.clients.items()}
        wanted[Kind.ADVERTISE] = Taker(others, following.take, following.party.refused)
        confirm += following.request()
    yield from _riding(collected.base.party, Kind.CONFIRM, others, confirm, patience, wanted)
    return None if following is None else _prepared(following.close)


def _unmask(
    collected: Collected, survivors: Mapping[str, int], sharing: Sharing | None, patience: Patience
) -> Generator[Ask, Iterator[Reply], Established | None]:
    """Phase 4, with the next session's phase 1."""
    request = collected.unmask_request()
    wanted = {Kind.UNMASK: Taker(survivors, collected.take_openings, collected.base.party.refused)}
    others: dict[str, int] = {}
    if sharing is not None:
        others = {c: i for i, c in sharing.party.clients.items() if i in sharing.adverts}
        wanted[Kind.SHARE] = Taker(others, sharing.take, sharing.party.refused)
        request += sharing.request()
    yield from _riding(collected.base.party, Kind.UNMASK, others, request, patience, wanted)
    return None if sharing is None else _prepared(sharing.close)


def _prepared(close: Callable[[], N]) -> N | None:
    """The next session one phase on; None when too few came: the next round then starts on its own."""
    try:
        return close()
    except CohortTooSmall as error:
        log.info("the next session starts on its own: %s", error)
        return None


def _riding(
    party: Party, kind: Kind, others: Mapping[str, int], request: bytes, patience: Patience, wanted: Wanted
) -> Generator[Ask, Iterator[Reply], None]:
    """Ask the survivors, for the phase ``kind``, and whom the next session wants without waiting for them."""
    survivors, session = wanted[kind].clients, party.session
    # On a sparse graph each secret needs holders of its own: no number of clients is enough.
    complete = session.rule == "complete"
    enough = wanted[kind].enough(max(session.quorum, session.threshold)) if complete else None
    optional = frozenset(others.keys() - survivors.keys())
    everyone = {**survivors, **others}
    replies = yield Ask(
        dict.fromkeys(everyone, b""),
        patience.light,
        enough,
        common=request,
        optional=optional,
        grace=patience.grace,
        phase=_named(*wanted),
    )
    _Taking(wanted).take(replies, set(everyone))


def _named(*kinds: Kind) -> str:
    """What a phase is called where bytes are counted: "confirm"; "confirm+advertise" where one rides on it."""
    return "+".join(kind.name.lower() for kind in kinds)


def _why(refused: set[str]) -> str:
    if not refused:
        return ""
    return f" ({len(refused)} refused; the owners see why with: fedsus client status; check it: fedsus privacy plan)"
