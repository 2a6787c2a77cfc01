"""FedAvg and FedAvgM: the mean update as it is, or with momentum on the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsus.strategies.strategy import Chunked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class FedAvg(Chunked):
    """x <- x + eta * mean (McMahan et al. 2017, Algorithm 1, is eta = 1)."""

    def __init__(self, learning_rate: float = 1.0) -> None:
        self.learning_rate = learning_rate
        self.moments = {}

    def _update(self, values: dict[str, NDArray[np.float64]], mean: NDArray[np.float64]) -> None:
        values["model"] += self.learning_rate * mean


class FedAvgM(Chunked):
    """v <- beta * v + mean; x <- x + eta * v (Hsu, Qi and Brown 2019, section 4.3, without Nesterov's form)."""

    def __init__(self, learning_rate: float = 1.0, momentum: float = 0.9) -> None:
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.moments = {"momentum": 0.0}

    def _update(self, values: dict[str, NDArray[np.float64]], mean: NDArray[np.float64]) -> None:
        values["momentum"] *= self.momentum
        values["momentum"] += mean
        values["model"] += self.learning_rate * values["momentum"]
