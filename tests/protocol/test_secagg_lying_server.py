"""A server that lies about who is there: to clients without one of their checks, and to the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import numpy as np
import pytest
import weaker
from adversaries import BITS, MASK, OTHER_PLAN, OWN, PLAN, Cell, integers, summed

from fedsus.encoding.packing import unpack
from fedsus.errors import ProtocolViolation
from fedsus.secagg import session as sessions
from fedsus.secagg import wire
from fedsus.secagg.client import Masked, Opened
from fedsus.secagg.session import Session
from fedsus.secagg.thresholds import least_tolerance
from fedsus.types import Ring

Weak = Callable[[], AbstractContextManager[None]]
VICTIM = 0


def opened(attacked: Cell, plan: bytes = PLAN) -> Cell:
    attacked.advertise()
    attacked.share()
    for index in range(attacked.session.size):
        attacked.open(index, plan=plan)
    return attacked


def masked(attacked: Cell) -> Cell:
    opened(attacked)
    for index in range(attacked.session.size):
        attacked.contribute(index)
    return attacked


def asked_for_a_second_vector(attacked: Cell, plan: bytes = PLAN) -> Ring | None:
    """The same session with another model: under the same masks, the difference of two updates is in clear."""
    opened(attacked)
    state = attacked.states[VICTIM]
    assert isinstance(state, Opened)
    first = attacked.contribute(VICTIM)
    state.plan = plan if plan != PLAN else state.plan
    second = attacked.ask(lambda: state.mask(integers(VICTIM, "other"), BITS, 0.0))
    if first is None or second is None:
        return None
    return first - unpack(wire.split_signature(second[1])[1], len(first), BITS)


def test_a_second_vector_gives_the_difference_of_two_updates() -> None:
    with weaker.again():
        found = asked_for_a_second_vector(Cell(4))
    assert np.array_equal(found, integers(VICTIM) - integers(VICTIM, "other"))


def test_a_second_vector_is_refused() -> None:
    attacked = Cell(4)
    assert asked_for_a_second_vector(attacked) is None
    assert attacked.refusals == ["session: this step was taken already"]


def test_a_second_vector_for_another_plan_has_other_masks() -> None:
    """A second line of defence: even a client that answers twice shows nothing, for the plan is in the masks."""
    with weaker.again():
        found = asked_for_a_second_vector(Cell(4), OTHER_PLAN)
    assert not np.array_equal(found, integers(VICTIM) - integers(VICTIM, "other"))
    with weaker.again(), weaker.without_plan():
        found = asked_for_a_second_vector(Cell(4), OTHER_PLAN)
    assert np.array_equal(found, integers(VICTIM) - integers(VICTIM, "other"))


def alive_and_dead(attacked: Cell) -> None:
    """Flower's hole: the victim is alive in one set of survivors and dead in the next."""
    masked(attacked)
    everybody = range(attacked.session.size)
    before = dict(attacked.states)
    attacked.close(everybody, everybody)
    attacked.states = {index: before[index] for index in everybody}
    attacked.close(set(everybody) - {VICTIM}, set(everybody) - {VICTIM})


def test_both_secrets_open_an_update_of_clients_that_answer_twice() -> None:
    attacked = Cell(5, [4], dropouts=1)
    with weaker.again():
        alive_and_dead(attacked)
        found = attacked.reveal(VICTIM)
    assert attacked.both(VICTIM)
    assert np.array_equal(found, integers(VICTIM))


def test_a_second_set_of_survivors_is_refused() -> None:
    attacked = Cell(5, [4], dropouts=1)
    alive_and_dead(attacked)
    assert attacked.secret(VICTIM, OWN) is not None
    assert not attacked.both(VICTIM)
    assert attacked.refusals == ["session: this step was taken already"] * 3


def lower(size: int, threshold: int, dropouts: int) -> Session:
    """A session with a threshold that its own checks refuse."""
    fields = dict(Cell(size, dropouts=dropouts).session) | {"threshold": threshold}
    return Session.model_construct(**fields)


def different_sets(attacked: Cell) -> None:
    """One half of the honest clients is told that the victim is alive, the other that it is dead."""
    masked(attacked)
    attacked.close({0, 1, 2, 4}, {0, 1, 4})
    attacked.close({1, 2, 3, 4}, {2, 3, 4})


def test_a_low_threshold_and_no_quorum_open_both_secrets() -> None:
    attacked = Cell(5, [4], session=lower(5, 3, 1))
    with weaker.without_quorum():
        different_sets(attacked)
    assert np.array_equal(attacked.reveal(VICTIM), integers(VICTIM))


def test_a_session_with_a_low_threshold_is_no_session() -> None:
    with pytest.raises(ProtocolViolation, match="threshold 3 lets 1 colluders open both secrets"):
        sessions.decode(sessions.encode(lower(5, 3, 1)))


@pytest.mark.parametrize("weak", [None, weaker.without_quorum])
def test_the_threshold_alone_keeps_one_secret_closed_whoever_is_told_what(weak: Weak | None) -> None:
    attacked = Cell(5, [4], dropouts=1)
    if weak is None:
        different_sets(attacked)
        assert all("are needed" in one for one in attacked.refusals)
        assert len(attacked.refusals) == 4
    else:
        with weak():
            different_sets(attacked)
    assert not attacked.both(VICTIM)


def everybody_drops_others(attacked: Cell) -> Ring | None:
    """Each client is told of two dropouts, but not the same: three are dead in the end, below the floor of four."""
    masked(attacked)
    dead = {0: {2, 3}, 1: {4, 2}, 2: {3, 4}, 3: {2, 4}, 4: {2, 3}}
    for index, gone in dead.items():
        alive = set(range(6)) - gone
        attacked.close(alive, {index, 5})
    return attacked.reveal(0, 1)


def test_without_a_quorum_the_sum_of_two_comes_out() -> None:
    attacked = Cell(6, [5], dropouts=2)
    assert attacked.session.floor == 4
    with weaker.without_quorum():
        found = everybody_drops_others(attacked)
    assert np.array_equal(found, summed(0, 1))


def test_the_quorum_lets_one_set_of_survivors_be_opened() -> None:
    attacked = Cell(6, [5], dropouts=2)
    assert everybody_drops_others(attacked) is None
    assert attacked.refusals == ["certificate: 2 signatures; more than (N + A) / 2, 4, are needed"] * 5


def starved(attacked: Cell, shown: Iterable[int], alive: Iterable[int], signers: Iterable[int]) -> Ring | None:
    """The victim is shown the shares of a few, so that it masks with them alone: colluders, and who is dead then."""
    attacked.advertise()
    attacked.share()
    for index in range(attacked.session.size):
        attacked.open(index, shown if index == VICTIM else None)
        if isinstance(attacked.states[index], Opened):
            attacked.contribute(index)
    attacked.close(alive, [one for one in signers if isinstance(attacked.states[one], Masked)])
    return attacked.reveal(VICTIM)


def test_a_client_that_masks_with_a_colluder_alone_is_opened() -> None:
    with weaker.without_accepted_shares():
        found = starved(Cell(5, [4], dropouts=1), [4], range(5), range(1, 5))
    assert np.array_equal(found, integers(VICTIM))


@pytest.mark.parametrize("shown", [[4], [4, 1], []])
def test_fewer_accepted_shares_than_the_threshold_are_refused(shown: list[int]) -> None:
    attacked = Cell(5, [4], dropouts=1)
    assert starved(attacked, shown, range(5), range(1, 5)) is None
    assert attacked.refusals == [f"shares: {len(shown) + 1} were accepted; 4 are needed"]


@pytest.mark.parametrize("size", range(4, 12))
@pytest.mark.parametrize("colluders", [1, 2])
def test_as_few_shares_as_are_accepted_are_too_many_to_be_dead(size: int, colluders: int) -> None:
    """The victim is shown exactly t dealers, itself and all colluders included; the honest ones of them then die."""
    dropouts = min(least_tolerance(size, colluders), size - 3)
    attacked = Cell(size, range(size - colluders, size), colluders, dropouts)
    honest_shown = attacked.session.threshold - 1 - colluders
    shown = {*attacked.colluding, *range(1, 1 + honest_shown)}
    alive = set(range(size)) - set(range(1, 1 + honest_shown))
    assert starved(attacked, shown, alive, alive) is None
    assert not attacked.both(VICTIM)


def survivors_it_has_no_mask_with(attacked: Cell) -> Ring | None:
    """The victim masks with a colluder and with one who is then dead; the survivors are others."""
    return starved(attacked, [3, 1], {0, 2, 3}, {0, 2, 3})


def test_a_client_that_takes_any_survivors_is_opened() -> None:
    with weaker.beyond_u2():
        found = survivors_it_has_no_mask_with(Cell(4, [3], dropouts=1))
    assert np.array_equal(found, integers(VICTIM))


def test_survivors_beyond_those_it_masks_with_are_refused() -> None:
    attacked = Cell(4, [3], dropouts=1)
    assert survivors_it_has_no_mask_with(attacked) is None
    assert attacked.refusals[0] == "survivors: a client that shared nothing"
    assert not attacked.both(VICTIM)


def few_survivors(attacked: Cell) -> Ring | None:
    masked(attacked)
    alive = {0, 3, 4, 5, 6}
    attacked.close(alive, alive)
    return attacked.reveal(0, 3, 4, 5)


def test_without_a_floor_a_smaller_sum_comes_out() -> None:
    attacked = Cell(7, [6], dropouts=1)
    assert attacked.session.floor == 6
    with weaker.without_floor():
        assert np.array_equal(few_survivors(attacked), summed(0, 3, 4, 5))


def test_survivors_below_the_floor_are_refused() -> None:
    attacked = Cell(7, [6], dropouts=1)
    assert few_survivors(attacked) is None
    assert set(attacked.refusals) == {"survivors: 5 of 7 clients; at least 6 are needed"}


def test_a_client_that_is_dead_itself_opens_nothing() -> None:
    for weak in (None, weaker.without_itself):
        attacked = masked(Cell(5, [4], dropouts=1))
        alive = {1, 2, 3, 4}
        if weak is not None:
            with weak():
                assert attacked.confirm(VICTIM, alive) is not None
        else:
            assert attacked.confirm(VICTIM, alive) is None
            assert attacked.refusals == ["survivors: without this client"]


def test_a_vector_that_comes_late_joins_no_sum() -> None:
    """The victim is told of the model after the others were told that it is dead, and opened its mask key."""
    attacked = opened(Cell(5, [4], dropouts=1))
    for index in range(1, 5):
        attacked.contribute(index)
    attacked.close(range(1, 5), range(1, 5))
    assert attacked.secret(VICTIM, MASK) is not None
    assert attacked.contribute(VICTIM) is not None
    attacked.close(range(5), [VICTIM, 4])
    assert attacked.refusals == ["certificate: 2 signatures; more than (N + A) / 2, 4, are needed"]
    assert attacked.reveal(VICTIM) is None


def test_nothing_is_opened_after_the_session_ended() -> None:
    attacked = masked(Cell(4, [3], dropouts=1))
    state = attacked.states[VICTIM]
    assert isinstance(state, Masked)
    assert attacked.ask(lambda: state.confirm(attacked.survivors(range(4)), 1000.0)) is None
    assert attacked.refusals == ["session: it has expired"]
