"""Phases of simulated clients: who answers, who does not, and how long the server waits for them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from simulated import DEADLINE, Places, a_fleet, a_plan, ask, sent

from fedsus.types import Ask, Lost, Member, Partial, Refused, Reply
from fedsus_simulations.clients.asked import Available
from fedsus_simulations.clients.attempts import Attempt
from fedsus_simulations.clients.availability import HOUR
from fedsus_simulations.clients.population import Numbered
from fedsus_simulations.scenario.traces import TracesConfig


def behaviour(**asked: object) -> TracesConfig:
    return TracesConfig.model_validate(asked)


def sorted_out(replies: Iterable[Reply]) -> tuple[list[str], list[str], list[str], np.ndarray]:  # type: ignore[type-arg]
    """Who answered, refused, was lost; and the sum."""
    answered: list[str] = []
    refused: list[str] = []
    lost: list[str] = []
    total = np.zeros(0, dtype=np.uint32)
    for reply in replies:
        match reply:
            case Partial():
                answered += reply.clients
                total = reply.total if not total.size else total + reply.total
            case Refused():
                refused.append(reply.client)
            case Lost():
                lost.append(reply.client)
    return answered, refused, lost, total


def test_blocks_add_up_to_the_cohort() -> None:
    workers = Places()
    fleet, plan = a_fleet(30, workers=workers), a_plan(9)
    names = [fleet.population.names[at] for at in (3, 1, 4, 15, 9, 26, 5, 8, 7)]
    answered, refused, lost, total = sorted_out(fleet.ask(ask(plan, names)))
    assert answered == names and not refused and not lost
    assert [len(block) for block in workers.trained] == [3, 3, 3]
    assert [at for block in workers.trained for at in block] == [3, 1, 4, 15, 9, 26, 5, 8, 7]
    assert (total == sum(sent(plan, at) for at in (3, 1, 4, 15, 9, 26, 5, 8, 7))).all()
    assert fleet.clock.now == 0.0


def test_who_is_not_of_the_population_is_lost() -> None:
    fleet, plan = a_fleet(10), a_plan(4)
    names = ["client-1", "client-10", "client-01", "stranger"]
    answered, _, lost, total = sorted_out(fleet.ask(ask(plan, names)))
    assert answered == ["client-1"] and lost == names[1:]
    assert (total == sent(plan, 1)).all()
    assert [type(reply) for reply in fleet.ask(ask(plan, ["stranger"]))] == [Lost]
    assert list(fleet.ask(Ask({}, 1.0))) == []


def test_a_client_whose_training_fails_refuses_and_is_in_no_sum() -> None:
    noted: list[Attempt] = []
    fleet, plan = a_fleet(6, workers=Places(frozenset({0, 1, 2, 4})), stack=3), a_plan(6)
    fleet.note = noted.append
    answered, refused, lost, total = sorted_out(fleet.ask(ask(plan, list(fleet.population.names))))
    assert answered == ["client-3", "client-5"] and not lost
    assert refused == ["client-0", "client-1", "client-2", "client-4"]
    assert (total == sent(plan, 3) + sent(plan, 5)).all()
    assert noted[0].answered == (3, 5) and noted[0].asked == 6


def test_the_server_waits_for_the_slowest_and_for_who_is_lost_until_the_deadline() -> None:
    slow = behaviour(spread=1.0)
    fleet, plan = a_fleet(50, traces=slow), a_plan(20)
    names = list(fleet.population.names[:20])
    times = fleet.traces.training(np.arange(20), 1, np.full(20, 100), len(ask(plan, names).common), 0)
    answered, _, lost, _ = sorted_out(fleet.ask(ask(plan, names)))
    assert len(answered) == 20 and not lost
    assert times.max() <= fleet.clock.now < times.max() + 0.01  # the answer's bytes take a moment more

    fleet = a_fleet(50, traces=behaviour(spread=1.0, dropout=0.3))
    answered, _, lost, _ = sorted_out(fleet.ask(ask(plan, names)))
    assert 0 < len(lost) < 20 and len(answered) + len(lost) == 20
    assert fleet.clock.now == DEADLINE


def test_an_answer_after_the_deadline_does_not_count() -> None:
    noted: list[Attempt] = []
    middle = 100 / 400  # seconds of the median: examples by those a second of an edge-cpu
    fleet, plan = a_fleet(200, traces=behaviour(spread=1.0, dropout=0.1)), a_plan(200, deadline=middle + 0.02)
    fleet.note = noted.append
    answered, _, lost, _ = sorted_out(fleet.ask(ask(plan, list(fleet.population.names))))
    (one,) = noted
    assert 60 < one.late < 120 and 8 < one.dropped < 35
    assert (one.asked, one.away, one.unavailable) == (200, 0, 0)
    assert len(lost) == one.late + one.dropped and len(answered) == len(one.answered) == 200 - len(lost)
    assert one.seconds == fleet.clock.now == plan.deadline


def test_nobody_else_falls_out_of_an_attempt_than_of_the_same_again() -> None:
    def survivors(attempt: int) -> list[str]:
        fleet, plan = a_fleet(100, traces=behaviour(dropout=0.3)), a_plan(40, attempt=attempt)
        return sorted_out(fleet.ask(ask(plan, list(fleet.population.names[:40]))))[0]

    assert survivors(1) == survivors(1)
    assert survivors(1) != survivors(2)


def test_an_evaluation_takes_the_time_of_its_messages() -> None:
    fleet = a_fleet(10, traces=behaviour())
    plan = a_plan(4, purpose="evaluate", metrics=[{"name": "loss", "low": 0.0, "high": 1.0}])
    assert len(sorted_out(fleet.ask(ask(plan, list(fleet.population.names[:4]))))[0]) == 4
    assert 0.018 < fleet.clock.now < 0.02


def test_members_are_those_who_are_there() -> None:
    curve = [0.0] * 12 + [0.5] * 12
    fleet = a_fleet(1000, traces=behaviour(availability=curve, hour=11.0))
    assert len(fleet.members()) == 0
    fleet.clock.advance(HOUR)
    there = fleet.members()
    assert 400 < len(there) < 600
    assert list(there) == sorted(there) == list(fleet.members())
    fleet.clock.advance(24 * HOUR)
    assert list(fleet.members()) != list(there)


def test_who_left_since_it_was_drawn_is_lost() -> None:
    noted: list[Attempt] = []
    curve = [1.0] * 12 + [0.5] * 12
    fleet, plan = a_fleet(100, traces=behaviour(availability=curve, hour=11.5)), a_plan(100)
    fleet.note = noted.append
    names = [member.id for member in fleet.members()]
    assert len(names) == 100
    fleet.clock.advance(HOUR)
    answered, _, lost, _ = sorted_out(fleet.ask(ask(plan, names)))
    assert 30 < len(lost) < 70 and noted[0].away == noted[0].unavailable == len(lost)
    assert set(answered) | set(lost) == set(names)
    assert noted[0].virtual == HOUR and fleet.clock.now == HOUR + DEADLINE


def test_members_are_made_when_they_are_looked_at() -> None:
    everybody = Available(Numbered(10**7), None)
    assert len(everybody) == 10**7
    assert everybody[123] == Member("client-0000123", "client-0000123")
    assert everybody[-1].id == "client-9999999"
    assert [member.id for member in everybody[5:7]] == ["client-0000005", "client-0000006"]
    some = Available(Numbered(10), np.array([2, 7]))
    assert [member.id for member in some] == ["client-2", "client-7"]
    with pytest.raises(IndexError):
        some[2]


def test_a_secure_request_without_masks_is_refused() -> None:
    fleet = a_fleet(10)
    assert list(fleet.ask(Ask({"client-1": b""}, 1.0, common=b"fdsS..."))) == [Refused("client-1")]
