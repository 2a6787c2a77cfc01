"""Sums of several clients: counted once in a clear sum, whatever they claim; never part of a secure one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from pacts import plan_for
from secagg_devices import LENGTH, Devices, a_plan

from fedsus.encoding.mechanism import FixedPoint
from fedsus.encoding.packing import pack
from fedsus.errors import CohortTooSmall, ProtocolViolation
from fedsus.rounds.messages import encode_answer, encode_request
from fedsus.rounds.server_half.exchange import Metered, clear_sum, conduct
from fedsus.types import Answered, Ask, Lost, Member, Partial, Reply, Ring

MODEL = np.arange(3, dtype=np.float32)
COHORT = ["a", "b", "c", "d"]


@dataclass
class Scripted:
    """A fleet that says what it is told to."""

    replies: Sequence[Reply]

    def members(self) -> Sequence[Member]:
        return [Member(name, name) for name in COHORT]

    def ask(self, ask: Ask) -> Iterator[Reply]:
        del ask
        yield from self.replies


PLAN = plan_for(MODEL, None, exchange="clear_sum", cohort={"size": 4, "minimum": 1})
MECHANISM = FixedPoint(PLAN)


def ring(value: int) -> Ring:
    return np.full(MECHANISM.size, value, dtype=np.uint32)


def summed(*replies: Reply) -> tuple[int, int, int, int]:
    """The first integer of the sum, survivors, refused, lost."""
    found = conduct(clear_sum(PLAN, encode_request(PLAN, MODEL), COHORT, MECHANISM), Scripted(replies))
    assert (found.total == found.total[0]).all()
    return int(found.total[0]), found.survivors, found.refused, found.lost


def test_partials_and_answers_add_up() -> None:
    whole = Partial(["a", "b"], ring(5), 0)
    answer = Answered("c", encode_answer(pack(ring(2), MECHANISM.bits)))
    assert summed(whole, answer, Lost("d")) == (7, 3, 0, 1)
    wrapped = Partial(["c", "d"], ring(0xFFFFFFFE), 0)
    assert summed(whole, wrapped) == (3, 4, 0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        Partial(["a", "nobody"], ring(9), 0),
        Partial(["a", "a"], ring(9), 0),
        Partial(["c", "b"], ring(9), 0),
        Partial(["a"], np.full(MECHANISM.size + 1, 9, dtype=np.uint32), 0),
        Partial(["a"], np.full((1, MECHANISM.size), 9, dtype=np.uint32), 0),
        Partial([], ring(9), 0),
    ],
    ids=["unknown", "repeated", "answered before", "too long", "another shape", "nobody's"],
)
def test_a_partial_that_does_not_fit_is_left_out(wrong: Partial) -> None:
    good = Partial(["b"], ring(1), 0)
    assert summed(good, wrong) == (1, 1, 0, 3)
    assert summed(good, wrong, Partial(["a"], ring(2), 0)) == (3, 2, 0, 2)


def test_partials_count_towards_the_minimum() -> None:
    plan = plan_for(MODEL, None, exchange="clear_sum", cohort={"size": 4, "minimum": 3})
    few = Scripted([Partial(["a", "b"], ring(1), 0), Lost("c"), Lost("d")])
    with pytest.raises(CohortTooSmall, match="2 of 4 clients answered"):
        conduct(clear_sum(plan, encode_request(plan, MODEL), COHORT, MECHANISM), few)


def test_bytes_of_a_partial_are_its_clients() -> None:
    fleet = Metered(Scripted([Partial(["a", "b"], ring(1), 120), Answered("c", b"123")]))
    assert len(list(fleet.ask(Ask(dict.fromkeys(COHORT, b"x"), 1.0)))) == 2
    assert (fleet.sent, fleet.received) == (4, 123)


def test_a_secure_sum_takes_no_partial() -> None:
    devices = Devices()
    plan = a_plan("0" * 64)
    established = devices.establish(plan)
    plan = a_plan(established.sid.hex())
    devices.ask = lambda ask: iter([Partial(["a"], np.zeros(LENGTH, np.uint32), 0)])  # type: ignore[method-assign]
    with pytest.raises(ProtocolViolation, match="a sum of several clients is no answer"):
        devices.sum(established, plan)
