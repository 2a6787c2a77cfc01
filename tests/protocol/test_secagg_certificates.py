"""Certificates that say less than they must: too few signatures, over something else, or by somebody else."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from adversaries import OTHER_PLAN, OWN, Cell

VICTIM = 0


def masked(attacked: Cell) -> Cell:
    """All have sent their vectors."""
    attacked.advertise()
    attacked.share()
    for index in range(attacked.session.size):
        attacked.open(index)
        attacked.contribute(index)
    return attacked


def certificate(attacked: Cell, signers: Iterable[int]) -> dict[int, bytes]:
    return {index: one for index in signers if (one := attacked.confirm(index, range(5))) is not None}


SPOILT: dict[str, tuple[Callable[[Cell, dict[int, bytes]], dict[int, bytes]], str]] = {
    "one too few": (lambda _, good: {index: good[index] for index in (0, 1, 2)}, "3 signatures"),
    "none": (lambda _, good: {}, "0 signatures"),
    "of other survivors": (
        lambda made, good: good | {4: made.sign(4, made.survivors([0, 1, 2, 4]))},
        "client 4 is over something else",
    ),
    "of another plan": (
        lambda made, good: good | {4: made.sign(4, made.survivors(range(5)), OTHER_PLAN)},
        "client 4 is over something else",
    ),
    "another client's": (lambda _, good: good | {4: good[2]}, "client 4 is over something else"),
    "of another phase": (
        lambda made, good: good | {4: made.shared[4].root_signature},
        "client 4 is over something else",
    ),
    "zeros": (lambda _, good: good | {4: bytes(64)}, "client 4 is over something else"),
    "short": (lambda _, good: good | {4: good[4][:63]}, "client 4 is over something else"),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_spoilt_certificate_opens_nothing(spoilt: str) -> None:
    """Of the four signatures that are needed, one is not good."""
    attacked = masked(Cell(5, [4], dropouts=1))
    change, why = SPOILT[spoilt]
    given = change(attacked, {index: one for index, one in certificate(attacked, range(5)).items() if index != 3})
    for index in attacked.honest:
        attacked.unmask(index, given, range(5))
    assert all(why in one for one in attacked.refusals)
    assert len(attacked.refusals) == 4
    assert attacked.secret(VICTIM, OWN) is None


def test_signatures_of_the_dead_do_not_count() -> None:
    attacked = masked(Cell(6, [5], dropouts=2))
    alive = {0, 1, 2, 5}
    given = {index: attacked.confirm(index, alive) for index in alive}
    dead = attacked.sign(4, attacked.survivors(alive))
    attacked.unmask(0, {**{index: one for index, one in given.items() if one is not None}, 4: dead}, alive)
    assert attacked.refusals == ["certificate: signed by a client that is no survivor"]


@pytest.mark.parametrize("spoilt", [*SPOILT])
def test_of_a_spoilt_certificate_over_the_root_no_vector_comes(spoilt: str) -> None:
    attacked = Cell(5, [4], dropouts=1)
    attacked.advertise()
    attacked.share()
    good = attacked.certificate([0, 1, 2, 4])
    bad = {
        "one too few": {index: good[index] for index in (0, 1, 2)},
        "none": {},
        "another client's": good | {4: good[2]},
        "of another phase": good | {4: attacked.shared[4].signature},
        "zeros": good | {4: bytes(64)},
        "short": good | {4: good[4][:63]},
    }.get(spoilt, good | {4: attacked.sign(4, b"other")})
    attacked.open(VICTIM, certificate=bad)
    (why,) = attacked.refusals
    assert SPOILT[spoilt][1] in why


def test_the_same_certificates_unspoilt_open_everything() -> None:
    attacked = masked(Cell(5, [4], dropouts=1))
    given = certificate(attacked, range(5))
    for index in attacked.honest:
        attacked.unmask(index, {one: given[one] for one in (0, 1, 2, 4)}, range(5))
    assert attacked.refusals == []
    assert attacked.secret(VICTIM, OWN) is not None
