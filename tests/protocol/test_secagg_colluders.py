"""Clients that collude with the server: copied, equivalent, low-order and swapped keys, and one more than planned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import weaker
from adversaries import MASK, OWN, Cell, integers, summed
from curve import FIELD, LOW_ORDER, plus

from fedsus.errors import ProtocolViolation
from fedsus.secagg import wire
from fedsus.secagg.client import Advertised
from fedsus.secagg.server import Opening, Party
from fedsus.types import Ring

N, COPIED, VICTIM, DROPPED, COLLUDER = 4, 0, 1, 2, 3


def cancelling(attacked: Cell, mask: Callable[[bytes], bytes]) -> Ring | None:
    """The colluder advertises a key that agrees as another client's does; a client whose index lies between both adds
    one of the two masks and subtracts the other. The rest of its masks are those of a dropout, and known.
    """
    attacked.advertise()
    attacked.forge(COLLUDER, mask=mask(attacked.adverts[COPIED].mask))
    attacked.share()
    if len(attacked.shared) < N:
        return None
    for index in range(N):
        attacked.open(index)
    for index in attacked.honest:
        attacked.contribute(index)
    members = {COPIED, VICTIM, COLLUDER}
    attacked.close(members, members)
    return attacked.reveal(VICTIM, cancelled=[(VICTIM, COPIED), (VICTIM, COLLUDER)])


def test_a_copied_key_cancels_a_mask_of_a_client_that_takes_keys_twice() -> None:
    with weaker.with_repeated_keys():
        assert np.array_equal(cancelling(Cell(N, [COLLUDER], dropouts=1), lambda key: key), integers(VICTIM))


def test_a_copied_key_is_refused_by_everybody() -> None:
    attacked = Cell(N, [COLLUDER], dropouts=1)
    assert cancelling(attacked, lambda key: key) is None
    assert attacked.refusals == ["adverts: client 3 repeats a key"] * N


@pytest.mark.parametrize("low", LOW_ORDER)
def test_an_equivalent_key_cancels_a_mask_of_a_client_that_uses_the_raw_output(low: int) -> None:
    with weaker.with_raw_agreement():
        found = cancelling(Cell(N, [COLLUDER], dropouts=1), lambda key: plus(key, low))
    assert np.array_equal(found, integers(VICTIM))


@pytest.mark.parametrize("low", LOW_ORDER)
def test_an_equivalent_key_cancels_nothing(low: int) -> None:
    """No comparison of keys finds it; what two keys agree on depends on their bytes."""
    attacked = Cell(N, [COLLUDER], dropouts=1)
    found = cancelling(attacked, lambda key: plus(key, low))
    assert attacked.refusals == []
    assert not np.array_equal(found, integers(VICTIM))
    assert not attacked.both(VICTIM)


@pytest.mark.parametrize("key", [*LOW_ORDER, FIELD - 1, FIELD, FIELD + 1, 2**255, 2**255 + 9, 2**256 - 1])
@pytest.mark.parametrize("which", ["mask", "channel"])
def test_keys_that_agree_on_zero_or_have_two_encodings_are_refused_before_anything_is_shared(
    key: int, which: str
) -> None:
    """One such advert would stop every client, after its training: the server leaves it out too."""
    attacked = Cell(N, [COLLUDER], dropouts=1)
    attacked.advertise()
    attacked.forge(COLLUDER, **{which: key.to_bytes(32, "little")})
    party = Party(attacked.session, attacked.seats[0].keys, {}, attacked.seats[0].signatures)
    with pytest.raises(ProtocolViolation, match="adverts: client 3: (a point of low order|not the canonical)"):
        Opening(party).take(COLLUDER, attacked.adverts[COLLUDER].encode())
    attacked.share(attacked.honest)
    assert not attacked.shared
    assert all("adverts: client 3: " in one for one in attacked.refusals)


def test_one_key_for_both_purposes_is_refused() -> None:
    attacked = Cell(N, [COLLUDER], dropouts=1)
    attacked.advertise()
    attacked.forge(COLLUDER, mask=attacked.adverts[COLLUDER].channel)
    attacked.share(attacked.honest)
    assert attacked.refusals == ["adverts: client 3 repeats a key"] * 3


def test_another_clients_channel_key_as_mask_key_is_refused() -> None:
    """Its secret would be shared out when the colluder drops out, if the colluder knew it."""
    attacked = Cell(N, [COLLUDER], dropouts=1)
    attacked.advertise()
    attacked.forge(COLLUDER, mask=attacked.adverts[VICTIM].channel)
    attacked.share(attacked.honest)
    assert attacked.refusals == ["adverts: client 3 repeats a key"] * 3


def swapped(attacked: Cell, how: str) -> None:
    one, other = attacked.adverts[COPIED], attacked.adverts[DROPPED]
    if how == "purposes":
        attacked.adverts[DROPPED] = replace(other, channel=other.mask, mask=other.channel)
    elif how == "clients":
        attacked.adverts[COPIED], attacked.adverts[DROPPED] = replace(other, index=COPIED), replace(one, index=DROPPED)
    elif how == "masks":
        attacked.adverts[COPIED], attacked.adverts[DROPPED] = (
            replace(one, mask=other.mask),
            replace(other, mask=one.mask),
        )


@pytest.mark.parametrize("how", ["purposes", "clients", "masks"])
def test_swapped_keys_are_not_signed(how: str) -> None:
    attacked = Cell(N, [COLLUDER], dropouts=1)
    attacked.advertise()
    swapped(attacked, how)
    attacked.share([VICTIM])
    assert "is not good" in attacked.refusals[0]
    assert not attacked.shared


def impersonated() -> tuple[Cell, Ring | None]:
    """The server makes all keys but the victim's, and signs none of them: it has no identity of the roster."""
    attacked = Cell(N, [0, 2, 3])
    attacked.advertise()
    for index in attacked.colluding:
        state = attacked.states[index]
        unsigned = replace(attacked.adverts[index], signature=bytes(wire.SIGNATURE_BYTES))
        assert isinstance(state, Advertised)
        attacked.adverts[index], state.advert = unsigned, unsigned.encode()
    with weaker.with_repeated_keys():
        attacked.share(attacked.colluding)
    attacked.share([VICTIM])
    if VICTIM not in attacked.shared:
        return attacked, None
    for index in attacked.colluding:
        attacked.open(index)
    attacked.open(VICTIM, certificate=dict.fromkeys(range(3), bytes(64)))
    attacked.contribute(VICTIM)
    return attacked, attacked.reveal(VICTIM)


def test_keys_that_nobody_signed_open_a_client_that_does_not_look() -> None:
    """Flower's SecAgg+ takes public keys as the server sends them."""
    with ExitStack() as stack:
        stack.enter_context(weaker.with_repeated_keys())
        stack.enter_context(weaker.without_certificate())
        assert np.array_equal(impersonated()[1], integers(VICTIM))


def test_keys_that_nobody_signed_are_refused() -> None:
    attacked, found = impersonated()
    assert found is None
    assert attacked.refusals == ["adverts: the signature of client 0 is not good"]


def one_too_many(colluders: int) -> tuple[Cell, Ring | None]:
    """Two colluders sign two sets of survivors, with one honest client each."""
    attacked = Cell(N, [2, 3], colluders=colluders, dropouts=1 if colluders == 1 else 0)
    attacked.advertise()
    attacked.share()
    for index in range(N):
        attacked.open(index)
    for index in attacked.honest:
        attacked.contribute(index)
    for honest in (0, 1):
        attacked.close({honest, 2, 3}, {honest, 2, 3})
    return attacked, attacked.reveal(0)


def test_one_colluder_more_than_the_session_says_opens_an_update() -> None:
    """The assumption is needed: what docs/threat-model.md promises ends at A."""
    attacked, found = one_too_many(1)
    assert attacked.both(0)
    assert np.array_equal(found, integers(0))


def test_a_session_that_counts_them_gives_nothing() -> None:
    attacked, found = one_too_many(2)
    assert found is None
    assert attacked.refusals == ["survivors: 3 of 4 clients; at least 4 are needed"] * 2


def test_colluders_within_the_number_learn_the_sum_of_the_others_and_no_more() -> None:
    attacked = Cell(5, [3, 4], colluders=2)
    attacked.advertise()
    attacked.share()
    for index in range(5):
        attacked.open(index)
    for index in range(5):
        attacked.contribute(index)
    attacked.close(range(5), range(5))
    assert np.array_equal(attacked.reveal(*range(5)), summed(*range(5)))
    for index in attacked.honest:
        assert attacked.secret(index, OWN) is not None
        assert attacked.secret(index, MASK) is None
        assert attacked.reveal(index) is None
    assert attacked.reveal(0, 1) is None
