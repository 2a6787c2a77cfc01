"""A server that shows clients different things: adverts, graphs, dropouts beside each other, plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import weaker
from adversaries import OTHER_PLAN, OWN, PLAN, Cell, identities, integers, summed

from fedsus.errors import Refusal
from fedsus.owner.cohorts import admit_session
from fedsus.owner.policy import Policy
from fedsus.secagg import client as clients
from fedsus.secagg import session as sessions
from fedsus.secagg.client import Masked, Opened, Shared
from fedsus.secagg.roster import Roster, RosterMember, digest
from fedsus.secagg.secret import Secret
from fedsus.secagg.thresholds import Thresholds
from fedsus.types import Ring

VICTIM, COLLUDING = 0, (9, 10, 11)


def split(attacked: Cell) -> Ring | None:
    """The victim alone is shown adverts for which three of its four neighbours are colluders."""
    attacked.advertise()
    ring = attacked.grind(lambda ring: len(attacked.colluding & set(ring.holders(VICTIM))) >= 3)
    around = attacked.colluding & set(ring.holders(VICTIM))
    attacked.share([VICTIM, *attacked.colluding])
    with weaker.without_certificate(), weaker.without_accepted_shares():
        for index in around:
            attacked.open(index)
    attacked.open(VICTIM, around)
    if not isinstance(attacked.states[VICTIM], Opened):
        return None
    attacked.contribute(VICTIM)
    return attacked.reveal(VICTIM)


def ringed() -> Cell:
    return Cell(12, COLLUDING, colluders=3, dropouts=2, numbers=Thresholds(4, 3, "harary"))


def test_a_ring_of_its_own_opens_a_client_that_asks_for_no_certificate() -> None:
    """Before anything is unmasked: the colluders hold enough shares of its own mask, and know all others."""
    with weaker.without_certificate():
        assert np.array_equal(split(ringed()), integers(VICTIM))


def test_a_ring_of_its_own_has_no_quorum() -> None:
    attacked = ringed()
    assert split(attacked) is None
    assert attacked.refusals == ["certificate: 4 signatures; more than (N + A) / 2, 8, are needed"]


def test_a_certificate_over_what_the_others_were_shown_is_none_for_it() -> None:
    attacked = ringed()
    attacked.advertise()
    attacked.share(range(1, 9))
    others = attacked.certificate()
    assert len(others) == attacked.session.quorum
    attacked.forge(9, nonce=bytes(32))
    attacked.share([VICTIM])
    attacked.open(VICTIM, [], certificate=others)
    assert len(attacked.refusals) == 1
    assert "is over something else" in attacked.refusals[0]


def test_two_views_cannot_both_have_a_quorum() -> None:
    """Whatever the views, honest clients sign one; the colluders sign all."""
    for size in range(4, 40):
        for colluders in range(1, size // 3 + 1):
            quorum = Cell(size, colluders=colluders).session.quorum
            assert 2 * (quorum - colluders) > size - colluders


def gaps(threshold: int) -> tuple[Cell, Ring | None, list[int]]:
    """Condition (5): a colluder and a dropout beside it, twice, cut the ring; one arc's sum is the server's."""
    attacked = Cell(12, (10, 11), colluders=2, dropouts=2, numbers=Thresholds(4, threshold, "harary"))
    attacked.advertise()

    def places(ring: Any) -> tuple[int, int]:
        return ring.places[10], ring.places[11]

    ring: Any = attacked.grind(lambda ring: (places(ring)[1] - places(ring)[0]) % 12 in (5, 6, 7))
    first, second = places(ring)
    dead = {ring.order[(first + 1) % 12], ring.order[(second + 1) % 12]}
    arc = [ring.order[place % 12] for place in range(first + 2, first + (second - first) % 12)]
    attacked.share()
    for index in range(12):
        attacked.open(index)
        attacked.contribute(index)
    alive = set(range(12)) - dead
    attacked.close(alive, alive)
    return attacked, attacked.reveal(*arc), arc


def test_with_the_semi_malicious_threshold_two_gaps_cut_the_ring() -> None:
    _, found, arc = gaps(3)
    assert 3 <= len(arc) <= 5
    assert np.array_equal(found, summed(*arc))


def test_with_one_share_more_the_clients_beside_a_gap_refuse() -> None:
    attacked, found, _ = gaps(4)
    assert found is None
    assert "survivors: fewer than 4 hold shares of ours" in attacked.refusals


def test_a_client_that_counts_no_neighbours_is_cut_off_with_any_threshold() -> None:
    """It confirms and opens; the shares beside the gap still fall short of t, so one arc stays closed here."""
    with weaker.without_neighbours():
        attacked, found, _ = gaps(4)
    assert attacked.refusals == []
    assert found is None


def counted_for_itself(attacked: Cell) -> Ring | None:
    """A ring with t1 + k odd: one neighbour colludes, one that the victim masks with is dead, two open its own mask."""
    attacked.advertise()
    ring: Any = attacked.grind(lambda ring: True)
    place = ring.places[7]
    victim, dead = ring.order[(place + 1) % 8], ring.order[(place - 1) % 8]
    attacked.share()
    for index in range(8):
        attacked.open(index, [7, dead] if index == victim else None)
        if isinstance(attacked.states[index], Opened):
            attacked.contribute(index)
    alive = set(range(8)) - {dead}
    attacked.close(alive, [one for one in alive - {victim} if isinstance(attacked.states[one], Masked)])
    found = attacked.reveal(victim)
    return None if found is None else found - integers(victim)


def test_a_share_for_itself_on_the_ring_opens_an_update() -> None:
    with weaker.with_a_share_for_itself():
        found = counted_for_itself(Cell(8, [7], dropouts=1, numbers=Thresholds(4, 3, "harary")))
    assert found is not None
    assert not found.any()


def test_without_one_the_victim_refuses() -> None:
    attacked = Cell(8, [7], dropouts=1, numbers=Thresholds(4, 3, "harary"))
    assert counted_for_itself(attacked) is None
    assert attacked.refusals[0] == "shares: 2 were accepted; 3 are needed"


def test_shares_of_a_client_that_is_no_neighbour_are_refused() -> None:
    attacked = Cell(8, [7], dropouts=1, numbers=Thresholds(4, 3, "harary"))
    attacked.advertise()
    attacked.share()
    state = attacked.states[VICTIM]
    assert isinstance(state, Shared)
    stranger = next(one for one in range(1, 8) if one not in attacked.graph.holders(VICTIM))
    box = next(iter(attacked.shared[stranger].sealed.values()))
    assert attacked.ask(lambda: state.open({stranger: box}, attacked.certificate(), PLAN, 0.0)) is None
    assert attacked.refusals == [f"shares: client {stranger} is no neighbour of ours"]


def member_of(size: int) -> tuple[Roster, Policy]:
    members = tuple(
        RosterMember(name=f"member-{index:04}", key=one.public.hex()) for index, one in enumerate(identities(size))
    )
    signer = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    roster = Roster(
        federation="memory", number=1, previous=None, signers=(signer,), needed=1, seed="5" * 64, members=members
    )
    return roster, Policy.model_validate({"federation": {"name": "memory", "signers": [signer]}})


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": "harary", "neighbours": 4, "threshold": 3},
        {"rule": "harary", "neighbours": 10, "threshold": 8},
        {"threshold": 9},
        {"threshold": 12},
        {"sigma": 40},
    ],
    ids=str,
)
def test_a_device_recomputes_graph_and_threshold(changes: dict[str, Any]) -> None:
    roster, policy = member_of(12)
    fair = Cell(12, colluders=3, dropouts=2).session.model_copy(update={"roster": digest(roster).hex()})
    key = identities(12)[0].public
    assert admit_session(fair, roster, policy, key, "0" * 64, 0.0) == 0
    wrong = sessions.decode(sessions.encode(fair.model_copy(update=changes)))
    with pytest.raises(Refusal, match="sigma 40|colluders need a complete one, k = 12, t = 8"):
        admit_session(wrong, roster, policy, key, "0" * 64, 0.0)


def inconsistent(attacked: Cell) -> Ring | None:
    """The others are given a plan with a learning rate of zero: their updates are zero, the sum is the victim's."""
    attacked.advertise()
    attacked.share()
    for index in range(4):
        attacked.open(index, plan=PLAN if index == VICTIM else OTHER_PLAN)
        attacked.contribute(index, integers(VICTIM) if index == VICTIM else np.zeros(6, dtype=np.uint32))
    raw = attacked.survivors(range(4))
    given = {index: attacked.confirm(index, range(4)) for index in range(3)} | {3: attacked.sign(3, raw, OTHER_PLAN)}
    for index in range(3):
        attacked.unmask(index, {one: by for one, by in given.items() if by is not None}, range(4))
    return attacked.reveal(0, 1, 2)


def test_masks_that_do_not_depend_on_the_plan_give_the_victims_update() -> None:
    with weaker.without_plan():
        assert np.array_equal(inconsistent(Cell(4, [3])), integers(VICTIM))


def test_clients_with_different_plans_have_different_masks_and_no_certificate() -> None:
    attacked = Cell(4, [3])
    assert inconsistent(attacked) is None
    assert len(attacked.refusals) == 3
    assert all("is over something else" in one for one in attacked.refusals)
    assert attacked.secret(VICTIM, OWN) is None


@pytest.mark.parametrize("mask", [clients.own_mask, clients.pair_mask])
def test_each_mask_is_of_one_secret_one_session_and_one_plan(mask: Callable[[Secret, bytes, bytes], Secret]) -> None:
    first, second = Secret(bytes(32)), Secret(b"s" * 32)
    seeds = {mask(one, tid, plan).reveal() for one in (first, second) for tid in (PLAN, b"t") for plan in (PLAN, b"r")}
    assert len(seeds) == 8
    assert not seeds & {mask(first, PLAN + b"t", b"").reveal(), mask(first, b"", PLAN + b"t").reveal()}


def test_a_quorum_on_the_other_plan_opens_the_victims_own_mask_but_none_with_the_others() -> None:
    """The victim need not sign: three of five do, and say that it is alive."""
    attacked = Cell(5, [4], dropouts=1)
    attacked.advertise()
    attacked.share()
    for index in range(5):
        attacked.open(index, plan=PLAN if index == VICTIM else OTHER_PLAN)
        attacked.contribute(index)
    raw = attacked.survivors(range(5))
    given = {index: attacked.confirm(index, range(5)) for index in (1, 2, 3)} | {4: attacked.sign(4, raw, OTHER_PLAN)}
    for index in (1, 2, 3):
        attacked.unmask(index, {one: by for one, by in given.items() if by is not None}, range(5))
    assert attacked.secret(VICTIM, OWN) is not None
    assert attacked.reveal(VICTIM) is None
    assert attacked.reveal(0, 1, 2, 3) is None
    assert attacked.reveal(1, 2, 3) is None


def test_an_advert_forged_on_the_ring_is_refused_by_its_owner_and_all_around_it() -> None:
    """Clients check adverts of their neighbours alone: each edge at both of its ends. What is forged gets no edge."""
    attacked = Cell(12, (11,), dropouts=2, numbers=Thresholds(4, 4, "harary"))
    attacked.advertise()
    forged = attacked.adverts[VICTIM]
    attacked.adverts[VICTIM] = replace(forged, mask=bytes([9]) + forged.mask[1:], signature=bytes(64))
    attacked.share()
    around = {VICTIM, *attacked.graph.holders(VICTIM)}
    assert attacked.shared.keys() == set(range(12)) - around
    assert len(attacked.refusals) == 5
    assert attacked.refusals.count("adverts: the signature of client 0 is not good") >= 4
    for index in attacked.shared:
        attacked.open(index)
    masked = [index for index in attacked.shared if isinstance(attacked.states[index], Opened)]
    for index in masked:
        attacked.contribute(index)
    attacked.close(set(masked) | {VICTIM}, masked)
    assert all(attacked.reveal(*masked[:count]) is None for count in range(1, 1 + len(masked)))
