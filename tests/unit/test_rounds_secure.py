"""The round loop with the default exchange: a run's journal, the integers of its sums, its exchanges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pacts import NAMES
from secure_runs import FIRST, LAST, ROUND, SEED, START, Run, config, sources

from fedsus.journal import NAME, AttemptOpened, RoundReleased
from fedsus.reporting import read
from fedsus.secagg import session as sessions
from fedsus_simulations.whole.memory import simulate

METRICS = [{"name": "loss", "low": 0.0, "high": 10.0}, {"name": "accuracy", "low": 0.0, "high": 1.0}]


def test_a_run_of_the_default_exchange_and_its_journal(tmp_path: Path) -> None:
    asked = config(metrics=METRICS)
    assert asked.plan.exchange == "secure_sum"
    model = simulate(asked, tmp_path, "run-1", START, sources(NAMES[:4]), seed=SEED)
    entries = read(tmp_path)
    kinds = [type(entry).__name__ for entry in entries]
    assert kinds == ["RunOpened", *["AttemptOpened", "RoundReleased"] * 3, "RunClosed"]
    released = [entry for entry in entries if isinstance(entry, RoundReleased)]
    assert [(e.survivors, e.refused, e.lost) for e in released] == [(4, 0, 0)] * 3
    assert all(entry.bytes_sent > 0 and entry.bytes_received > 0 for entry in released)
    assert released[-1].metrics is not None
    assert released[-1].metrics["loss"] < released[0].metrics["loss"]
    opened = [entry for entry in entries if isinstance(entry, AttemptOpened)]
    assert [(entry.round, entry.attempt, entry.cohort) for entry in opened] == [(1, 1, 4), (2, 2, 4), (3, 3, 4)]
    assert len({entry.plan_digest for entry in opened}) == 3
    assert not np.array_equal(model, START)


def test_bytes_are_counted_by_phase_and_what_rides_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path, config(rounds=2))
    run.run()
    first, second = run.of(RoundReleased)
    alone = ["advertise", "share"]
    assert sorted(first.traffic) == sorted([*alone, "contribute", "confirm+advertise", "unmask+share"])
    assert sorted(second.traffic) == ["confirm", "contribute", "unmask"]
    for entry in (first, second):
        sums = [sum(one) for one in zip(*entry.traffic.values(), strict=True)]
        assert sums == [entry.bytes_sent, entry.bytes_received]
        assert all(sent > 0 and received > 0 for sent, received in entry.traffic.values())


def test_nothing_of_a_session_but_its_sums_is_in_the_journal(tmp_path: Path) -> None:
    run = Run(tmp_path, config())
    run.run()
    text = (tmp_path / NAME).read_text()
    for session in run.fleet.opened:
        assert session.nonce not in text
        assert sessions.session_id(sessions.encode(session)).hex() not in text


@pytest.mark.parametrize("private", [False, True])
def test_secure_and_clear_give_the_same_integers_and_the_same_model(tmp_path: Path, private: bool) -> None:
    asked: dict[str, Any] = {"metrics": METRICS}
    if private:
        asked = {"privacy": {"unit": "example", "epsilon": 8.0, "delta": 1e-5, "denominator": 80.0}}
        asked["privacy"]["sampling_rate"] = 0.5
    found = {}
    for exchange in ("secure_sum", "clear_sum"):
        folder = tmp_path / exchange
        model = simulate(config(exchange=exchange, **asked), folder, "r", START, sources(NAMES[:4]), seed=SEED)
        released = [entry for entry in read(folder) if isinstance(entry, RoundReleased)]
        told = [(e.survivors, e.weight, e.metrics, e.held_out, e.saturated, e.checkpoint) for e in released]
        found[exchange] = model.tobytes(), told
    assert found["secure_sum"] == found["clear_sum"]
    assert found["secure_sum"][0] != START.tobytes()


def test_the_first_round_takes_five_exchanges_and_each_later_one_three(tmp_path: Path) -> None:
    run = Run(tmp_path, config(rounds=3))
    run.run()
    assert run.fleet.asked == [*FIRST, *ROUND, *ROUND, *LAST]
    first, second, third = run.fleet.opened
    assert first.previous is None
    for one, next_one in ((first, second), (second, third)):
        assert next_one.previous == sessions.session_id(sessions.encode(one)).hex()
    assert [(s.round, s.attempt) for s in run.fleet.opened] == [(1, 1), (2, 2), (3, 3)]
    assert len({session.nonce for session in run.fleet.opened}) == 3
    assert len({session.specification for session in run.fleet.opened}) == 1


def test_the_last_evaluation_has_a_session_that_the_last_round_prepared(tmp_path: Path) -> None:
    run = Run(tmp_path, config(rounds=1, metrics=METRICS))
    run.run()
    assert run.fleet.asked == [*FIRST, *ROUND, *LAST]
    assert [(s.round, s.attempt) for s in run.fleet.opened] == [(1, 1), (2, 2)]


def test_no_session_is_prepared_that_no_attempt_is_left_for(tmp_path: Path) -> None:
    run = Run(tmp_path, config(rounds=2, spares=0))
    run.run()
    assert run.fleet.asked == [*FIRST, *ROUND, *LAST]
