"""Whoever falls out, wherever: the sum over the survivors is exact when the numbers say so, else nothing was opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_parties import (
    ADVERTISE,
    CONFIRM,
    CONTRIBUTE,
    SHARE,
    UNMASK,
    Fate,
    Fates,
    LossyFleet,
    clients,
    expect,
    federation,
    first,
    in_u2,
    numbers,
    outcome,
    summed,
    total,
)

from fedsus.errors import CohortTooSmall, ProtocolViolation
from fedsus.secagg import wire
from fedsus.secagg.keys import Signatures, statement
from fedsus.secagg.secret import Secret
from fedsus.secagg.server import Established
from fedsus.secagg.session import Phase
from fedsus.secagg.shares import PRIME
from fedsus.secagg.wire import Kind
from fedsus.types import Lost, Refused
from fedsus_simulations.whole.secure_clients import Federation

PHASES = (ADVERTISE, SHARE, CONTRIBUTE, CONFIRM, UNMASK)
LOST = (Fate.UNASKED, Fate.UNHEARD)


def max_dropouts(size: int, colluders: int) -> int:
    """D at most, for this N and A."""
    return max(d for n, a, d in numbers([size]) if a == colluders)


def check_alone(fed: Federation, fates: Fates, size: int = 9, bits: int = 16) -> bool:
    """One session on its own; whether a sum came out."""
    session, signatures = fed.session(), Signatures(4096)
    fleet = LossyFleet(clients(fed, size, bits, signatures), fates)
    expected = expect(session, fates, in_u2(session, fates, ADVERTISE), CONTRIBUTE)
    result = outcome(lambda: summed(first(fed, fleet, signatures), fleet, size, bits))
    assert len(fleet.opened) == expected.opening
    if result is None:
        assert expected.members is None
        assert expected.opening == 0 or len(fleet.opened) - unheard(fates, UNMASK) < session.threshold
        return False
    assert expected.members is not None
    assert result.summed.survivors == len(expected.members)
    assert result.summed.survivors + result.summed.refused + result.summed.lost == session.size
    np.testing.assert_array_equal(result.summed.total, total(expected.members, size, bits))
    return True


def unheard(fates: Fates, exchange: int) -> int:
    return sum(fate == Fate.UNHEARD and at == exchange for (_, at), fate in fates.items())


def falls(who: Sequence[int], phase: int, fate: Fate = Fate.UNASKED) -> dict[tuple[int, int], Fate]:
    """These clients are gone from a phase on."""
    after = {(client, at): Fate.UNASKED for client in who for at in range(phase, UNMASK + 1)}
    return after | {(client, phase): fate for client in who}


def sizes_of_losses(most: int) -> Iterator[tuple[int, ...]]:
    """How many fall out in each phase, at most ``most`` together."""
    return (counts for counts in product(range(most + 1), repeat=5) if sum(counts) <= most)


def spread(counts: Sequence[int], size: int, turn: int) -> dict[tuple[int, int], Fate]:
    """So many in each phase, other clients with each ``turn``."""
    who, fates = [(turn + step) % size for step in range(size)], {}
    for phase, count in enumerate(counts):
        fates |= falls(who[:count], phase, LOST[(turn + phase) % 2])
        who = who[count:]
    return fates


@pytest.mark.parametrize(
    ("size", "colluders", "dropouts"),
    [pytest.param(*each, marks=[pytest.mark.slow] if each[0] > 4 else []) for each in numbers(range(3, 7))],
)
def test_every_set_of_clients_in_every_phase(size: int, colluders: int, dropouts: int) -> None:
    """All subsets, in any one phase; both ways of losing a message."""
    fed, came = federation(size, colluders, dropouts), []
    for count, phase in product(range(dropouts + 2), PHASES):
        for turn, who in enumerate(combinations(range(size), count)):
            came.append((check_alone(fed, falls(who, phase, LOST[turn % 2])), count, phase))
    for done, count, phase in came:
        assert done or count > dropouts, (count, phase)
        assert not (done and count > dropouts and phase <= CONTRIBUTE)


@pytest.mark.parametrize(
    ("size", "colluders", "dropouts"), [each for each in numbers(range(5, 11)) if each[2] == max_dropouts(*each[:2])]
)
def test_the_most_that_are_covered_and_one_more(size: int, colluders: int, dropouts: int) -> None:
    """For each N and A, in one phase and over all of them; one more in any one phase."""
    fed = federation(size, colluders, dropouts)
    covered = (size + colluders) % 5
    assert check_alone(fed, spread([dropouts if at == covered else 0 for at in PHASES], size, colluders))
    assert check_alone(fed, spread([(dropouts + at) // 5 for at in PHASES], size, colluders))
    for phase in PHASES:
        more = spread([dropouts + 1 if at == phase else 0 for at in PHASES], size, phase)
        assert check_alone(fed, more) is (phase >= CONFIRM and size - dropouts - 1 >= fed.session().threshold)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("size", "colluders", "dropouts"), numbers(range(3, 11)))
def test_losses_of_every_size_in_all_phases_together(size: int, colluders: int, dropouts: int) -> None:
    fed = federation(size, colluders, dropouts)
    for turn, counts in enumerate(sizes_of_losses(dropouts + 1)):
        done = check_alone(fed, spread(counts, size, turn), 8, 16 + turn % 17)
        assert done or sum(counts) > dropouts


@st.composite
def histories(draw: st.DrawFn, exchanges: int) -> tuple[Federation, Fates]:
    """A federation, and messages that are lost anywhere: clients may come back."""
    size, colluders, dropouts = draw(st.sampled_from(numbers(range(3, 8))))
    places = st.tuples(st.integers(0, size - 1), st.integers(0, exchanges - 1))
    lost = draw(st.dictionaries(places, st.sampled_from(LOST), max_size=3 + 2 * dropouts))
    return federation(size, colluders, dropouts), lost


@settings(max_examples=30)
@given(histories(5), st.integers(1, 33), st.integers(16, 32))
def test_any_lost_messages_of_one_session(history: tuple[Federation, Fates], size: int, bits: int) -> None:
    check_alone(*history, size, bits)


@settings(max_examples=25)
@given(histories(8), st.integers(16, 32))
def test_any_lost_messages_with_the_next_session_riding_along(history: tuple[Federation, Fates], bits: int) -> None:
    """Who fell out of the first may be in the second: its first two phases are the last two of the first."""
    (fed, fates), size, signatures = history, 11, Signatures(4096)
    fleet = LossyFleet(clients(fed, size, bits, signatures), fates)
    session = fed.session()
    shared = in_u2(session, fates, ADVERTISE)
    expected = expect(session, fates, shared, CONTRIBUTE)
    opening = fed.opening(2, signatures)
    result = outcome(lambda: summed(first(fed, fleet, signatures), fleet, size, bits, opening))
    assert (result is None) == (expected.members is None)
    assert len(fleet.opened) == expected.opening
    if result is None:
        return
    np.testing.assert_array_equal(result.summed.total, total(expected.members, size, bits))
    riding = in_u2(session, fates, CONFIRM)
    assert (result.following is None) == (riding is None)
    if result.following is None:
        return
    assert sorted(result.following.shared) == riding
    check_following(result.following, fleet, riding, size, bits)


def check_following(established: Established, fleet: LossyFleet, riding: list[int], size: int, bits: int) -> None:
    """The session that rode along, from exchange 5 on."""
    fleet.opened.clear()
    expected = expect(established.party.session, fleet.fates, riding, fleet.exchange)
    result = outcome(lambda: summed(established, fleet, size, bits))
    assert len(fleet.opened) == expected.opening
    assert (result is None) == (expected.members is None)
    if result is not None:
        np.testing.assert_array_equal(result.summed.total, total(expected.members, size, bits))


@pytest.mark.parametrize("phase", [CONTRIBUTE, CONFIRM, UNMASK])
def test_who_fell_out_is_back_in_the_next_session(phase: int) -> None:
    """Lost for one phase only: at contribute, it is in the next session's; lost later, the next one goes without it."""
    fed, signatures = federation(8, 1, 3), Signatures(4096)
    fleet = LossyFleet(clients(fed, 9, 20, signatures), {(2, phase): Fate.UNASKED, (5, phase): Fate.UNHEARD})
    result = summed(first(fed, fleet, signatures), fleet, 9, 20, fed.opening(2, signatures))
    everyone, others = range(8), [0, 1, 3, 4, 6, 7]
    np.testing.assert_array_equal(result.summed.total, total(others if phase == CONTRIBUTE else everyone, 9, 20))
    assert result.following is not None
    after = summed(result.following, fleet, 9, 20, fed.opening(3, signatures))
    np.testing.assert_array_equal(after.summed.total, total(everyone if phase == CONTRIBUTE else others, 9, 20))
    assert after.following is not None
    last = summed(after.following, fleet, 9, 20)
    np.testing.assert_array_equal(last.summed.total, total(everyone, 9, 20))


def test_after_an_abandoned_attempt_the_next_one_succeeds_with_fresh_keys() -> None:
    fed, signatures = federation(5, 1, 1), Signatures(4096)
    fleet = LossyFleet(clients(fed, 9, 20, signatures), falls([0, 1], CONTRIBUTE))
    established = first(fed, fleet, signatures)
    with pytest.raises(CohortTooSmall, match=r"^survivors: 3 of 5 clients; secure aggregation needs 4 \(1 may"):
        summed(established, fleet, 9, 20)
    assert fleet.opened == []
    fleet.fates = {}
    again = first(fed, fleet, signatures, 2)
    keys = {key for one in established.adverts.values() for key in (one.channel, one.mask)}
    assert not keys & {key for one in again.adverts.values() for key in (one.channel, one.mask)}
    np.testing.assert_array_equal(summed(again, fleet, 9, 20).summed.total, total(range(5), 9, 20))


def resized(answer: bytes, by: int) -> bytes:
    """A frame of another length, its header saying so."""
    body = answer[15:] + bytes(by) if by > 0 else answer[15:by]
    return answer[:7] + len(body).to_bytes(8, "little") + body


NONSENSE = {
    "nothing": lambda answer: b"",
    "noise": lambda answer: np.random.default_rng(len(answer)).bytes(200),
    "cut": lambda answer: answer[:-1],
    "a head": lambda answer: answer[:15],
    "longer": lambda answer: answer + b"\0",
    "a longer frame": lambda answer: resized(answer, 1),
    "a shorter frame": lambda answer: resized(answer, -1),
    "an empty frame": lambda answer: resized(answer, -len(answer) + 15),
    "a flipped bit": lambda answer: answer[:-1] + bytes([answer[-1] ^ 1]),
    "a flipped bit at the start": lambda answer: answer[:20] + bytes([answer[20] ^ 128]) + answer[21:],
    "another version": lambda answer: answer[:4] + b"\2" + answer[5:],
    "another phase": lambda answer: answer[:5] + bytes([(answer[5] + 1) % 5]) + answer[6:],
    "five frames": lambda answer: answer * 5,
    "a refusal": lambda answer: wire.frame(Kind(answer[5]), refused=True),
    "refused": lambda answer: Refused("3"),
    "lost": lambda answer: Lost("3"),
    "clear text": lambda answer: b"fdsA" + answer,
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_costs_its_sender_alone(nonsense: str, phase: int) -> None:
    fed, signatures, strange = federation(5, 1, 1), Signatures(4096), NONSENSE[nonsense]
    fleet = LossyFleet(
        clients(fed, 9, 17, signatures),
        twist=lambda client, at, answer: strange(answer) if (client, at) == (3, phase) else answer,
    )
    result = summed(first(fed, fleet, signatures), fleet, 9, 17)
    members = [0, 1, 2, 4] if phase <= CONTRIBUTE else range(5)
    np.testing.assert_array_equal(result.summed.total, total(members, 9, 17))
    refusing = phase <= CONTRIBUTE and nonsense in ("a refusal", "refused")
    assert (result.summed.refused, result.summed.lost) == (int(refusing), 5 - len(members) - refusing)


@pytest.mark.parametrize("phase", PHASES)
def test_what_another_client_answered_counts_once(phase: int) -> None:
    """A client that sends its neighbour's answer, and one that sends each of its own twice."""
    fed, signatures, heard = federation(5, 1, 1), Signatures(4096), {}

    def twist(client: int, at: int, answer: bytes) -> bytes:
        heard[client, at] = answer
        if at == phase and client == 3:
            return heard[2, at]
        return 2 * answer if client == 1 else answer

    fleet = LossyFleet(clients(fed, 9, 17, signatures), twist=twist)
    result = summed(first(fed, fleet, signatures), fleet, 9, 17)
    members = [0, 1, 2, 4] if phase <= CONTRIBUTE else range(5)
    np.testing.assert_array_equal(result.summed.total, total(members, 9, 17))


@pytest.mark.parametrize("phase", PHASES[:-1])
def test_a_late_answer_is_not_taken_in_the_next_phase(phase: int) -> None:
    fed, signatures, late = federation(5, 1, 1), Signatures(4096), {}

    def twist(client: int, at: int, answer: bytes) -> bytes | Lost:
        if client != 3 or at < phase:
            return answer
        late[at] = answer
        return Lost("3") if at == phase else late[phase] + answer

    fleet = LossyFleet(clients(fed, 9, 17, signatures), twist=twist)
    result = summed(first(fed, fleet, signatures), fleet, 9, 17)
    members = [0, 1, 2, 4] if phase <= CONTRIBUTE else range(5)
    np.testing.assert_array_equal(result.summed.total, total(members, 9, 17))


def false_shares(fleet: LossyFleet, liars: Sequence[int]) -> None:
    """From now on these clients hold other shares than they were dealt, and open those, signed."""
    for liar in liars:
        for state in fleet.clients[str(liar)].states.values():
            for at, dealer in enumerate(state.shares):
                wrong = (PRIME - 1 - at).to_bytes(33, "big")
                state.shares[dealer] = Secret(2 * wrong)


def lied(size: int, dropouts: int, liars: Sequence[int], gone: Sequence[int]) -> None:
    fed, signatures = federation(size, 1, dropouts), Signatures(4096)
    fleet = LossyFleet(clients(fed, 9, 17, signatures), falls(gone, CONTRIBUTE))
    established = first(fed, fleet, signatures)
    false_shares(fleet, liars)
    members = [client for client in range(size) if client not in gone]
    # Shares that came in phase 1 are replaced; those of phase 2 come after, so that liars lie once more then.
    fleet.twist = lambda client, at, answer: (at == CONFIRM and client == 0 and false_shares(fleet, liars)) or answer
    result = summed(established, fleet, 9, 17)
    np.testing.assert_array_equal(result.summed.total, total(members, 9, 17))


@pytest.mark.parametrize("size", [4, 7, 10])
def test_one_client_with_wrong_shares_costs_nothing_where_there_is_a_spare(size: int) -> None:
    """Whoever it is: survivors' and fallen clients' secrets are rebuilt without it."""
    spare = size - federation(size).session().threshold
    for liar in range(0, size, 3):
        lied(size, spare, [liar], [client for client in range(size) if client != liar][: (liar % 2) * (spare - 1)])


def test_two_clients_with_wrong_shares() -> None:
    for liars in ((0, 1), (0, 9), (3, 4), (5, 9)):
        lied(10, 4, liars, [])


def test_without_a_spare_a_wrong_share_ends_the_attempt_and_no_false_sum_comes_out() -> None:
    for liar in (1, 4):
        with pytest.raises(ProtocolViolation, match=r"^openings: the shares of client \d rebuild no secret that it"):
            lied(5, 1, [liar], [0])


@pytest.mark.parametrize("victims", [1, 2])
def test_a_dealer_whose_shares_do_not_open_costs_its_holders_nothing(victims: int) -> None:
    """Signed well, sealed badly, for as many as there are spare: both secrets are rebuilt from the others' shares."""
    fed, signatures = federation(6, 1, 2), Signatures(4096)

    def twist(client: int, at: int, answer: bytes) -> bytes:
        if at != SHARE or client != 3:
            return answer
        shared = wire.decode_shared(answer[15:], 6)
        sealed = {who: bytes(82) if who < victims else box for who, box in shared.sealed.items()}
        body = shared.own_mask + shared.root_signature + wire.rows(sealed)
        tid = next(iter(fleet.clients["3"].states.values())).circle.tid
        signature = fed.identities[3].sign(statement(Phase.SHARE, tid, 3, body))
        return wire.frame(Kind.SHARE, body, signature)

    for fates in ({}, falls([3], CONTRIBUTE))[: 3 - victims]:  # one share less where the dealer is gone
        fleet = LossyFleet(clients(fed, 9, 17, signatures), fates, twist)
        result = summed(first(fed, fleet, signatures), fleet, 9, 17)
        members = [client for client in range(6) if client != 3 or not fates]
        np.testing.assert_array_equal(result.summed.total, total(members, 9, 17))
