"""How the mean update changes the model: one class each, one row in the table below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fedsus.strategies.adaptive import FedAdagrad, FedAdam, FedYogi
from fedsus.strategies.averaging import FedAvg, FedAvgM
from fedsus.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Callable

    from fedsus.config import StrategyConfig

__all__ = ["STRATEGIES", "FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedYogi", "Strategy", "create"]

STRATEGIES: Final[dict[str, Callable[[StrategyConfig], Strategy]]] = {
    "fedavg": lambda config: FedAvg(config.learning_rate),
    "fedavgm": lambda config: FedAvgM(config.learning_rate, config.momentum),
    "fedadagrad": lambda config: FedAdagrad(config.learning_rate, config.momentum, config.tau),
    "fedadam": lambda config: FedAdam(config.learning_rate, config.momentum, config.tau, config.beta2),
    "fedyogi": lambda config: FedYogi(config.learning_rate, config.momentum, config.tau, config.beta2),
}


def create(config: StrategyConfig) -> Strategy:
    """The strategy that ``[plan.strategy]`` names."""
    return STRATEGIES[config.name](config)
