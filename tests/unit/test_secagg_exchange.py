"""The server's exchange: whom it asks and waits for, whose replies count, and that it holds one sum."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from secagg_parties import PLAN, Fate, LossyFleet, clients, federation, first, summed, total

from fedsus import plan as plans
from fedsus.errors import CohortTooSmall
from fedsus.rounds.server_half.exchange import conduct
from fedsus.secagg import wire
from fedsus.secagg.exchange import Patience, Taker, _Taking, establish, secure_sum
from fedsus.secagg.keys import Signatures
from fedsus.secagg.rebuilding import Rebuilding
from fedsus.secagg.server import Established
from fedsus.secagg.shares import split
from fedsus.secagg.wire import Kind
from fedsus.types import Answered, Ask, Lost, Refused, Reply
from fedsus_simulations.whole.secure_clients import MemoryFleet, random_rings

SIZE, BITS = 9, 20


def lossy(size: int = 5, dropouts: int = 1) -> tuple[LossyFleet, Established, Signatures]:
    """A fleet, and a session established with all of it."""
    fed, signatures = federation(size, 1, dropouts), Signatures(4096)
    fleet = LossyFleet(clients(fed, SIZE, BITS, signatures))
    established = first(fed, fleet, signatures)
    fleet.exchange = 0
    fleet.asks.clear()
    return fleet, established, signatures


def kinds(ask: Ask, client: str) -> list[str]:
    return [frame.kind.name.lower() for frame in wire.frames(ask.request(client))]


def test_a_round_is_three_exchanges_with_the_next_session_in_two_of_them() -> None:
    fleet, established, signatures = lossy()
    result = summed(established, fleet, SIZE, BITS, federation(5).opening(2, signatures))
    assert [kinds(ask, "3") for ask in fleet.asks] == [
        ["sealed", "contribute"],
        ["confirm", "advertise"],
        ["unmask", "share"],
    ]
    assert result.following is not None
    assert sorted(result.following.shared) == list(range(5))
    fleet, established, _ = lossy()
    assert summed(established, fleet, SIZE, BITS).following is None
    assert [kinds(ask, "3") for ask in fleet.asks] == [["sealed", "contribute"], ["confirm"], ["unmask"]]


def test_whom_it_waits_for() -> None:
    """For training, everyone; then those that are enough, and not for clients that the next session alone asks."""
    fleet, established, signatures = lossy(7, 2)
    fleet.fates = {(2, 0): Fate.UNASKED}
    patience = Patience(100.0, 30.0, 1.5)
    request, opening = (PLAN, b""), federation(7).opening(2, signatures)
    conduct(secure_sum(established, plans.digest(PLAN), request, SIZE, BITS, patience, opening), fleet)
    contribute, *light = fleet.asks
    assert (contribute.deadline, contribute.enough, contribute.optional) == (100.0, None, frozenset())
    for ask in light:
        assert (ask.deadline, ask.grace) == (30.0, 1.5)
        assert ask.enough is not None
        assert ask.enough()
        assert ask.optional == {"2"}
        assert set(ask.requests) == set("0123456")


def test_what_is_enough_counts_neither_refusals_nor_nonsense_nor_who_is_optional() -> None:
    """Seven clients, five of whom are a quorum: while fewer were taken, the slowest have all the time there is."""
    took: list[int] = []
    taker = Taker({str(index): index for index in range(7)}, lambda index, _: took.append(index), set())
    enough = taker.enough(5)
    taking = _Taking({Kind.CONFIRM: taker})
    good, no = wire.frame(Kind.CONFIRM, b"x"), wire.frame(Kind.CONFIRM, refused=True)
    bodies = {"0": no, "1": good, "2": b"nonsense", "3": good, "4": good, "5": good, "8": good}
    taking.take((Answered(client, body) for client, body in bodies.items()), set("01234568"))
    assert (took, enough()) == ([1, 3, 4, 5], False)
    taking.take(iter([Answered("6", good)]), {"6"})
    assert enough()


def test_who_is_not_in_u2_is_not_asked_to_contribute() -> None:
    fed, signatures = federation(6, 1, 2), Signatures(4096)
    fleet = LossyFleet(clients(fed, SIZE, BITS, signatures), {(4, 0): Fate.UNASKED, (1, 1): Fate.UNHEARD})
    established = first(fed, fleet, signatures)
    assert sorted(established.adverts) == [0, 1, 2, 3, 5]
    assert sorted(established.shared) == [0, 2, 3, 5]
    np.testing.assert_array_equal(summed(established, fleet, SIZE, BITS).summed.total, total([0, 2, 3, 5], SIZE, BITS))
    assert [sorted(ask.requests) for ask in fleet.asks] == [list("012345"), list("01235"), *[list("0235")] * 3]


class Noisy:
    """A fleet that replies twice, and for clients that nobody asked."""

    def __init__(self, fleet: LossyFleet) -> None:
        self.fleet = fleet

    def members(self) -> object:
        return self.fleet.members()

    def ask(self, ask: Ask) -> Iterator[Reply]:
        yield Answered("stranger", b"noise")
        for reply in self.fleet.ask(ask):
            yield reply
            yield reply
            yield Lost(reply.client)
            yield Refused(reply.client)


def test_the_first_reply_of_each_client_counts_and_a_strangers_does_not() -> None:
    fleet, established, _ = lossy()
    sums = secure_sum(established, plans.digest(PLAN), (PLAN, b""), SIZE, BITS, Patience(10.0))
    result = conduct(sums, Noisy(fleet)).summed  # type: ignore[arg-type]
    np.testing.assert_array_equal(result.total, total(range(5), SIZE, BITS))
    assert (result.survivors, result.refused, result.lost) == (5, 0, 0)


@pytest.mark.parametrize("reply", ["reply", "frame"])
def test_refusals_are_counted_and_said(reply: str) -> None:
    refusal = Refused("1") if reply == "reply" else wire.frame(wire.Kind.CONTRIBUTE, refused=True)
    fleet, established, _ = lossy()
    fleet.twist = lambda client, at, answer: refusal if (client, at) == (1, 0) else answer
    found = summed(established, fleet, SIZE, BITS).summed
    assert (found.survivors, found.refused, found.lost) == (4, 1, 0)
    fleet, established, _ = lossy()
    fleet.twist = lambda client, at, answer: {1: refusal, 2: Lost("2")}.get(client, answer)
    with pytest.raises(CohortTooSmall, match=r"^survivors: 3 of 5 .*\(1 refused; the owners see why with: fedsus cl"):
        summed(established, fleet, SIZE, BITS)
    assert len(fleet.asks) == 1


def test_a_next_session_that_is_too_small_costs_this_round_nothing() -> None:
    for exchange in (1, 2):
        fleet, established, signatures = lossy(8, 3)
        fleet.fates = {(client, exchange): Fate.UNASKED for client in range(3)}
        result = summed(established, fleet, SIZE, BITS, federation(8, 1, 2).opening(2, signatures))
        np.testing.assert_array_equal(result.summed.total, total(range(8), SIZE, BITS))
        assert result.following is None


def test_a_next_session_may_have_other_clients() -> None:
    """A client that cannot be asked for the next session is asked for this one alone."""
    fleet, established, signatures = lossy(5, 1)
    opening = federation(5, 1, 1).opening(2, signatures)
    reached = {index: address for index, address in opening.party.clients.items() if index != 3}
    object.__setattr__(opening.party, "clients", reached)
    result = summed(established, fleet, SIZE, BITS, opening)
    np.testing.assert_array_equal(result.summed.total, total(range(5), SIZE, BITS))
    assert result.following is not None
    assert sorted(result.following.shared) == [0, 1, 2, 4]


def shares(count: int, threshold: int) -> tuple[bytes, dict[int, bytes]]:
    secret, points = bytes(range(32)), list(range(1, count + 1))
    return secret, dict(zip(points, split(secret, threshold, points), strict=True))


@pytest.mark.parametrize(("count", "threshold"), [(2, 1), (4, 3), (10, 6), (160, 121), (199, 198), (60, 31)])
def test_one_wrong_share_is_found_wherever_it_is_and_read_last_from_then_on(count: int, threshold: int) -> None:
    secret, dealt = shares(count, threshold)
    for wrong in {1, 2, threshold, count // 2 + 1, count}:
        tried: list[bytes] = []

        def good(found: bytes, tried: list[bytes] = tried) -> bool:
            tried.append(found)
            return found == secret

        rebuilding = Rebuilding(threshold)
        spoilt = dealt | {wrong: bytes(33)}
        assert rebuilding.secret(0, spoilt, good).reveal() == secret
        tried.clear()
        assert rebuilding.secret(1, spoilt, good).reveal() == secret
        assert len(tried) == 1


class Watched:
    """A fleet that looks at what memory is held before each answer to CONTRIBUTE is made."""

    def __init__(self, fleet: MemoryFleet, keep: bool) -> None:
        self.fleet, self.keep = fleet, keep
        self.held: list[int] = []
        self.kept: list[Reply] = []

    def members(self) -> object:
        return self.fleet.members()

    def ask(self, ask: Ask) -> Iterator[Reply]:
        for reply in self.fleet.ask(ask):
            self.held.append(tracemalloc.get_traced_memory()[0])
            self.kept += [reply] if self.keep else []
            yield reply
            del reply


@pytest.mark.parametrize("keep", [False, True])
def test_the_server_holds_one_sum_and_not_all_vectors(keep: bool) -> None:
    """40 clients, 200,000 numbers: 800 KB each. What is held does not grow; with answers that are kept, it would."""
    size, count = 200_000, 40
    fed, signatures = federation(count, 1, 1), Signatures(65_536)
    members = fed.clients(random_rings(size, 1), 32, signatures)
    fleet = MemoryFleet(members)
    established = conduct(establish(fed.opening(1, signatures), Patience(10.0)), fleet)
    watched = Watched(fleet, keep)
    tracemalloc.start()
    try:
        sums = secure_sum(established, plans.digest(PLAN), (PLAN, b""), size, 32, Patience(10.0))
        found = conduct(sums, watched).summed  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.survivors == count
    vector, contributed = 4 * size, watched.held[:count]
    if keep:
        assert contributed[-1] - contributed[0] > (count - 3) * vector
    else:
        assert contributed[-1] - contributed[1] < vector // 2
        assert max(watched.held) < 6 * vector  # the sum, an answer on its way, and a client that is at work meanwhile
        assert peak < 8 * vector  # a client's own vector and its packed copies beside it
