"""Values of the strategies against formulas written for one number at a time, in plain Python."""

import math

import numpy as np
import pytest

from fedsus import config
from fedsus.errors import ConfigError
from fedsus.strategies import create

MEANS = [[0.5, -0.25, 0.0], [-1.0, 0.125, 2.0], [0.75, 0.75, -0.5], [0.0, -3.0, 0.001]]
START = [1.0, -2.0, 0.5]
ETA, BETA, BETA2, TAU = 0.3, 0.8, 0.95, 0.01


def adaptive(second):
    def reference(x, means):
        m, v = 0.0, TAU**2
        for g in means:
            m = BETA * m + (1 - BETA) * g
            v = second(v, g)
            x = x + ETA * m / (math.sqrt(v) + TAU)
        return x

    return reference


def yogi(v, g):
    if v > g**2:
        return v - (1 - BETA2) * g**2
    return v + (1 - BETA2) * g**2


def momentum(x, means):
    """In closed form: each update is counted with 1 + beta + beta**2 + ... up to the last round."""
    for round, g in enumerate(means):
        left = len(means) - round
        x += ETA * g * (1 - BETA**left) / (1 - BETA)
    return x


REFERENCES = {
    "fedavg": lambda x, means: x + ETA * sum(means),
    "fedavgm": momentum,
    "fedadagrad": adaptive(lambda v, g: v + g**2),
    "fedadam": adaptive(lambda v, g: v * BETA2 + g**2 * (1 - BETA2)),
    "fedyogi": adaptive(yogi),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_values(name):
    strategy = create(config.StrategyConfig(name=name, learning_rate=ETA, momentum=BETA, beta2=BETA2, tau=TAU))
    state = strategy.init(np.array(START, np.float32))
    for mean in MEANS:
        state = strategy.step(state, np.array(mean, np.float32))
    expected = [REFERENCES[name](x, list(means)) for x, means in zip(START, zip(*MEANS, strict=True), strict=True)]
    assert strategy.model(state) == pytest.approx(expected, rel=1e-5)


def test_plain_averaging_with_rate_one_adds_the_mean():
    strategy = create(config.StrategyConfig())
    state = strategy.step(strategy.init(np.float32([1, 2])), np.float32([0.5, -1]))
    assert strategy.model(state).tolist() == [1.5, 1.0]


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum"])
def test_robust_aggregation_is_refused_with_the_reason(name):
    with pytest.raises(ConfigError, match=f"'name': '{name}' needs to see single updates, which nobody may"):
        config.loads(f"name = '{name}'", config.StrategyConfig)


def test_unknown_strategies_name_those_that_exist():
    with pytest.raises(ConfigError, match="fedavgm"):
        config.loads("name = 'fedsomething'", config.StrategyConfig)
    with pytest.raises(ConfigError, match="name"):
        config.loads("name = []", config.StrategyConfig)
