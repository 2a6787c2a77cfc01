"""Flower's SecAgg+ as a peer: what its ServerApp and ClientApp run, deployed and in simulation alike.

It exists in Flower's legacy API alone. Every client adds one to each parameter, so that the mean must grow by one a
round: Flower goes on to the next round when a secure sum was halted, and a round without a sum is no measurement.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.errors import RunFailed

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

EXAMPLES: Final = 10
TOLERANCE: Final = 0.01
"""How far off the mean may move: clients scale by examples / 1000 before they quantise in steps of 4e-6."""
_TIMEOUT: Final = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is asked of the peer.

    Attributes:
        clients: how many, all of them in each round.
        size: float32 parameters; one array.
        rounds: how many.
        shares: of a client's secrets, its own among them; as many as clients is the complete graph.
        threshold: shares that open a secret.
    """

    clients: int
    size: int
    rounds: int
    shares: int
    threshold: int


def serve(grid: Grid, context: Context, work: Work, times: Path) -> None:
    """Run all rounds; ``times`` gets [seconds since the epoch, mean of the model] before the first and after each."""
    from flwr.common import ndarrays_to_parameters
    from flwr.server import LegacyContext, ServerConfig
    from flwr.server.strategy import FedAvg
    from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

    marks: list[tuple[float, float]] = []

    def mark(server_round: int, model: list[Any], config: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        del server_round, config
        marks.append((time.time(), float(np.mean(model[0]))))
        times.with_suffix(".part").write_text(json.dumps(marks), encoding="ascii")
        times.with_suffix(".part").replace(times)
        return 0.0, {}

    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=work.clients,
        min_available_clients=work.clients,
        initial_parameters=ndarrays_to_parameters([np.zeros(work.size, dtype=np.float32)]),
        evaluate_fn=mark,
    )
    secure = SecAggPlusWorkflow(num_shares=work.shares, reconstruction_threshold=work.threshold, timeout=_TIMEOUT)
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=work.rounds), strategy=strategy)
    DefaultWorkflow(fit_workflow=secure)(grid, legacy)


def client_app(*, torch: bool) -> ClientApp:
    """Clients that add one; ``torch`` loads it when they are to train, as a client that trains does."""
    from flwr.client import ClientApp, NumPyClient
    from flwr.client.mod import secaggplus_mod

    class PlusOne(NumPyClient):
        def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
            del config
            if torch:
                import torch as _  # noqa: F401
            return [array + 1 for array in parameters], EXAMPLES, {}

    return ClientApp(client_fn=lambda context: PlusOne().to_client(), mods=[secaggplus_mod])


def marks(times: Path) -> Sequence[tuple[float, float]]:
    """What `serve` wrote so far."""
    try:
        return [(moment, mean) for moment, mean in json.loads(times.read_text(encoding="ascii"))]
    except FileNotFoundError:
        return []


def seconds(found: Sequence[tuple[float, float]]) -> list[float]:
    """Seconds of each round, checked to have summed.

    Raises:
        RunFailed: a round did not move the mean by one: Flower halted its secure sum and went on.
    """
    spent = []
    for number, ((before, old), (after, new)) in enumerate(pairwise(found), start=1):
        if abs(new - old - 1.0) > TOLERANCE:
            raise RunFailed(
                f"benchmark: round {number} of Flower's SecAgg+ moved the mean by {new - old:.4g} in place of 1: "
                "its secure sum was halted or is wrong"
            )
        spent.append(after - before)
    return spent
