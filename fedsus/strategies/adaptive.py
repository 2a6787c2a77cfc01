"""FedAdagrad, FedYogi and FedAdam (Reddi et al. 2021, "Adaptive Federated Optimization", Algorithm 2).

    m <- beta1 * m + (1 - beta1) * mean
    v <- v + mean**2                                          FedAdagrad
    v <- v - (1 - beta2) * mean**2 * sign(v - mean**2)        FedYogi
    v <- beta2 * v + (1 - beta2) * mean**2                    FedAdam
    x <- x + eta * m / (sqrt(v) + tau)

without bias correction, as in the paper; v starts at tau**2, the least that Algorithm 2 allows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedsus.strategies.strategy import Chunked

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _Adaptive(Chunked):
    """The common lines of Algorithm 2; a subclass says how the second moment moves."""

    def __init__(self, learning_rate: float, momentum: float = 0.9, tau: float = 1e-3) -> None:
        self.learning_rate = learning_rate
        self.beta1 = momentum
        self.tau = tau
        self.moments = {"momentum": 0.0, "second": tau * tau}

    def _update(self, values: dict[str, NDArray[np.float64]], mean: NDArray[np.float64]) -> None:
        values["momentum"] = self.beta1 * values["momentum"] + (1 - self.beta1) * mean
        values["second"] = self._second(values["second"], mean * mean)
        values["model"] += self.learning_rate * values["momentum"] / (np.sqrt(values["second"]) + self.tau)

    def _second(self, second: NDArray[np.float64], square: NDArray[np.float64]) -> NDArray[np.float64]:
        raise NotImplementedError


class FedAdagrad(_Adaptive):
    """v sums all squares."""

    def _second(self, second: NDArray[np.float64], square: NDArray[np.float64]) -> NDArray[np.float64]:
        return second + square


class _Decaying(_Adaptive):
    """With a decay ``beta2`` of the second moment."""

    def __init__(self, learning_rate: float, momentum: float = 0.9, tau: float = 1e-3, beta2: float = 0.99) -> None:
        super().__init__(learning_rate, momentum, tau)
        self.beta2 = beta2


class FedYogi(_Decaying):
    """v moves towards the square by an additive step, so that it falls slowly."""

    def _second(self, second: NDArray[np.float64], square: NDArray[np.float64]) -> NDArray[np.float64]:
        return second - (1 - self.beta2) * square * np.sign(second - square)


class FedAdam(_Decaying):
    """v is an exponential mean of squares."""

    def _second(self, second: NDArray[np.float64], square: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.beta2 * second + (1 - self.beta2) * square
