"""What every strategy promises. A new one adds a row."""

import tracemalloc

import numpy as np
import pytest

from fedsus.config import StrategyConfig
from fedsus.errors import CorruptionError, ProtocolViolation
from fedsus.strategies import STRATEGIES, create

NAMES = ["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi"]


@pytest.fixture(params=NAMES)
def strategy(request):
    return create(StrategyConfig(name=request.param, learning_rate=0.5))


def vector(seed, size=70_000):
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def test_every_registered_strategy_has_a_row():
    assert sorted(NAMES) == sorted(STRATEGIES)


def test_the_first_state_holds_a_copy_of_the_model(strategy):
    model = vector(0)
    state = strategy.init(model)
    assert np.array_equal(strategy.model(state), model)
    assert not np.shares_memory(strategy.model(state), model)
    assert set(state) <= {"model", "momentum", "second", "steps"}
    assert int(state["steps"]) == 0


def test_a_step_changes_nothing_that_it_is_given(strategy):
    state, mean = strategy.step(strategy.init(vector(0)), vector(1)), vector(2)
    before = {name: array.copy() for name, array in state.items()} | {"mean": mean.copy()}
    after = strategy.step(state, mean)
    for name, array in (*state.items(), ("mean", mean)):
        assert np.array_equal(array, before[name])
        assert all(not np.shares_memory(array, new) for new in after.values())


def test_equal_inputs_give_equal_bits_and_states_keep_their_form(strategy):
    runs = []
    for _ in range(2):
        state = strategy.init(vector(0))
        for round in range(1, 4):
            state = strategy.step(state, vector(round))
        runs.append(state)
    assert int(runs[0]["steps"]) == 3
    for name, array in strategy.init(vector(0)).items():
        assert runs[0][name].tobytes() == runs[1][name].tobytes()
        assert (runs[0][name].dtype, runs[0][name].shape) == (array.dtype, array.shape)
        assert np.isfinite(runs[0][name]).all()


def test_the_model_moves_along_the_first_mean(strategy):
    state = strategy.init(np.zeros(4, np.float32))
    moved = strategy.model(strategy.step(state, np.array([1, -1, 0, 0.5], np.float32)))
    assert np.array_equal(np.sign(moved), [1, -1, 0, 1])


def test_a_chunk_border_makes_no_difference(strategy):
    model, mean = vector(0), vector(1)
    whole = strategy.model(strategy.step(strategy.init(model), mean))
    halves = [
        strategy.model(strategy.step(strategy.init(model[part]), mean[part]))
        for part in (slice(0, 31_111), slice(31_111, None))
    ]
    assert np.array_equal(whole, np.concatenate(halves))


def test_a_zero_mean_leaves_a_fresh_model_alone(strategy):
    model = vector(0)
    state = strategy.step(strategy.init(model), np.zeros_like(model))
    assert np.array_equal(strategy.model(state), model)


def test_wrong_shapes_and_foreign_states_are_refused(strategy):
    state = strategy.init(vector(0, 5))
    with pytest.raises(ProtocolViolation, match="mean update"):
        strategy.step(state, vector(0, 4))
    for bad in ({}, {**state, "model": state["model"].astype(np.float64)}):
        with pytest.raises(CorruptionError, match="'model'"):
            strategy.step(bad, vector(0, 5))
    for name in set(state) - {"model", "steps"}:
        with pytest.raises(CorruptionError, match=name):
            strategy.step({**state, name: vector(0, 4)}, vector(0, 5))


def test_a_step_allocates_the_new_state_and_little_more(strategy):
    state, mean = strategy.init(vector(0, 1_000_000)), vector(1, 1_000_000)
    tracemalloc.start()
    new = strategy.step(state, mean)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < sum(array.nbytes for array in new.values()) + 0.75 * mean.nbytes
    assert peak < 4 * mean.nbytes
