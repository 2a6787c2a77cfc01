"""Blocks of clients: what their trainer does when one fails, and how large blocks are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from block_runs import BLOCKS, POSITIONS, REFERENCE, request, scenario, stacked, summed, trainer_of, workers_of
from hypothesis import given
from hypothesis import strategies as st

from fedsus.encoding.mechanism import FixedPoint
from fedsus.encoding.packing import unpack
from fedsus.errors import ConfigError
from fedsus.learning import stacked_dp
from fedsus.learning.settings import Compute
from fedsus.learning.stacked import best_stack
from fedsus.owner.ledger import Ledger
from fedsus.privacy.noise import SeededNoise
from fedsus.rounds.device_half.device import Device
from fedsus.rounds.messages import decode_answer, decode_request, encode_request
from fedsus.tasks.task import DataSource
from fedsus_simulations.clients.blocks import blocks_of
from fedsus_simulations.clients.population import Divided
from fedsus_simulations.scenario.config import Scenario
from fedsus_simulations.scenario.seeding import SeededClient, number
from fedsus_simulations.whole.memory import DATA_ID, granting
from fedsus_simulations.workers.training import Outcome, stack_for

EXAMPLE = {
    "privacy": {"unit": "example", "epsilon": 30.0, "delta": 0.01, "sampling_rate": 0.5, "denominator": 3.0},
    "encoding": {"value_range": 8.0},
}


def answers(asked: Scenario, raw: bytes, root: Path) -> list[np.ndarray | None]:  # type: ignore[type-arg]
    """What each client's own device answers: its integers, or a refusal."""
    population, config = trainer_of(asked, root).population, asked.run_config(20)
    assert isinstance(population, Divided)
    found: list[np.ndarray | None] = []  # type: ignore[type-arg]
    for position in POSITIONS:
        rows = " ".join(map(str, population.train[position].tolist()))
        client = SeededClient(asked.seed, population.names[position])
        device = Device(
            policy=granting(config),
            ledger=Ledger(None, lambda: 0.0),
            tasks={"blocks": REFERENCE},
            sources={DATA_ID: DataSource(root, {"rows": rows})},
            compute=Compute("cpu"),
            noise=client,
            seeds=client,
        )
        mechanism = FixedPoint(decode_request(raw).plan)
        body = decode_answer(device.answer(raw, lambda: False).body, (mechanism.size * mechanism.bits + 7) // 8)
        found.append(None if body is None else unpack(body, mechanism.size, mechanism.bits))
    return found


def raw_request(asked: Scenario) -> bytes:
    made = request(asked)
    return encode_request(made.plan, made.model)


def test_a_client_that_diverges_refuses_as_its_device_and_the_others_do_not_notice(tmp_path: Path) -> None:
    asked = scenario(tmp_path, {"trainer": "loop"}, {"bad": 3})
    expected = dict(zip(POSITIONS, answers(asked, raw_request(asked), tmp_path), strict=True))
    refused = {position for position, ring in expected.items() if ring is None}
    answered = [position for position in POSITIONS if position not in refused]
    assert 0 < len(refused) <= 3
    for trainer in ("loop", "stacked"):
        workers = workers_of(scenario(tmp_path, {"trainer": trainer}, {"bad": 3}), tmp_path)
        rings, said = stacked(workers, request(asked))
        total, again = summed(workers, request(asked))
        assert said == again == refused
        assert (total == rings.sum(axis=0, dtype=np.uint32)).all()
        whole = {position for block in BLOCKS if not refused.intersection(block) for position in block}
        for position, ring in zip(answered, rings, strict=True):
            # A block that fails is trained again one by one; the others are stacked, and round otherwise.
            if trainer == "loop" or position not in whole:
                assert (ring == expected[position]).all()


def test_the_reasons_are_said_once_a_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workers = workers_of(scenario(tmp_path, {}, {"bad": 120}), tmp_path)
    asked = request(scenario(tmp_path, {}, {"bad": 120}))
    with caplog.at_level(logging.WARNING, "fedsus.simulation"):
        total, refused = summed(workers, asked)
    assert refused == set(POSITIONS) and not total.any()
    assert len(caplog.messages) == len(BLOCKS)
    assert all("client(s) refused: optimizer.learning_rate = 0.1: training diverged" in m for m in caplog.messages)
    rings, refused = stacked(workers, asked)
    assert refused == set(POSITIONS) and rings.shape == (0, total.size)


def test_a_model_that_cannot_be_stacked_is_trained_by_the_loop_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {"stackable": False}
    asked = request(scenario(tmp_path, {}, settings))
    loop, _ = summed(workers_of(scenario(tmp_path, {"trainer": "loop"}, settings), tmp_path), asked)
    with caplog.at_level(logging.WARNING, "fedsus.simulation"):
        workers = workers_of(scenario(tmp_path, {"trainer": "auto", "threads": 2}, settings), tmp_path)
        first, second = summed(workers, asked), summed(workers, asked)
        workers.close()
    assert (first[0] == loop).all() and (second[0] == loop).all()
    (said,) = caplog.messages
    assert "one after the other" in said and "Scaled" in said and "loop" in said
    workers = workers_of(scenario(tmp_path, {"trainer": "stacked"}, settings), tmp_path)
    with pytest.raises(ConfigError, match=r'simulation\.trainer = "stacked": .*choose "auto" or "loop"'):
        summed(workers, asked)


def test_a_stack_that_fails_though_its_clients_do_not_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("cannot allocate memory\nsecond line")

    monkeypatch.setattr("fedsus.learning.stacked.StackedTrainer.train_stack", full)
    asked = request(scenario(tmp_path, {}))
    loop, _ = summed(workers_of(scenario(tmp_path, {"trainer": "loop"}), tmp_path), asked)
    with caplog.at_level(logging.WARNING, "fedsus.simulation"):
        total, refused = summed(workers_of(scenario(tmp_path, {"trainer": "stacked"}), tmp_path), asked)
    assert (total == loop).all() and not refused
    (said,) = caplog.messages
    assert said.endswith("one client after the other, because its stack failed: cannot allocate memory")


def test_a_clients_noise_is_of_its_seed_name_and_round(tmp_path: Path) -> None:
    plan, client = request(scenario(tmp_path, {})).plan, SeededClient(7, "a")
    for round in (2, 1, 2):
        client(plan.model_copy(update={"round": round}))
        expected = SeededNoise(number(7, "noise", "a", round))
        for _ in range(2):
            assert (client.words(3) == expected.words(3)).all()


@pytest.mark.parametrize("plan", [{}, EXAMPLE])
def test_a_stack_proposes_what_the_loop_does_up_to_rounding(tmp_path: Path, plan: dict[str, object]) -> None:
    asked = scenario(tmp_path, {"trainer": "loop"}, **plan)
    loop, many = trainer_of(asked, tmp_path), trainer_of(scenario(tmp_path, {"trainer": "stacked"}, **plan), tmp_path)
    for block in BLOCKS:
        expected, *_ = loop.updates(request(asked), block)
        found, _, outcome = many.updates(request(asked), block)
        assert expected is not None and found is not None and outcome == Outcome({})
        np.testing.assert_allclose(found.deltas, expected.deltas, atol=1e-6)
        assert (found.weights == expected.weights).all()
        assert found.event == expected.event


def test_a_private_client_is_noised_alike_whatever_was_trained_before(tmp_path: Path) -> None:
    asked = scenario(tmp_path, {"trainer": "auto"}, **EXAMPLE)
    trainer = trainer_of(asked, tmp_path)
    first, _ = trainer.total(request(asked), BLOCKS[0])
    trainer.total(request(asked), BLOCKS[1])
    again, _ = trainer.total(request(asked), BLOCKS[0])
    later, _ = trainer.total(request(asked, 2), BLOCKS[0])
    assert (first == again).all() and (first != later).any()


@given(st.integers(1, 10**8), st.integers(1, 100_000), st.booleans())
def test_blocks_are_quick_and_there_is_one_for_every_worker(dimension: int, cohort: int, private: bool) -> None:
    stack = stack_for(dimension, cohort, private)
    assert 1 <= stack <= 1.5 * (stacked_dp.best_stack if private else best_stack)(dimension)
    blocks = -(-cohort // stack)
    assert blocks >= min(2, cohort // 8)
    assert len(blocks_of(range(cohort), stack)) == blocks


@pytest.mark.parametrize(
    ("dimension", "cohort", "private", "stack"),
    [
        *((26_010, 50, False, 25), (50_890, 50, False, 25), (10**7, 50, False, 1)),
        *((34, 1000, False, 250), (34, 1000, True, 63), (50_890, 400, False, 25), (50_890, 400, True, 67)),
    ],
)
def test_common_cohorts_come_in_even_blocks_unless_the_model_is_large(
    dimension: int, cohort: int, private: bool, stack: int
) -> None:
    """Private clients are quick in stacks of another size."""
    assert stack_for(dimension, cohort, private) == stack


@given(st.integers(1, 300), st.integers(1, 50))
def test_a_cohort_is_cut_evenly_and_in_order(clients: int, stack: int) -> None:
    blocks: Sequence[Sequence[int]] = blocks_of(range(clients), stack)
    assert [at for block in blocks for at in block] == list(range(clients))
    sizes = {len(block) for block in blocks}
    assert max(sizes) <= stack and max(sizes) - min(sizes) <= 1
    assert len(blocks) == -(-clients // stack)
