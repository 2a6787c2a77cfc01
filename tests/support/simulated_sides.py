"""Small work for the simulators' benchmarks, and what a side may say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsus_simulations.benchmarks.peer_work import Work, network
from fedsus_simulations.benchmarks.simulate_peers import Spent

CLIENTS, SAMPLES = 12, 20


def work(folder: Path, model: str = "mlp", rounds: int = 3) -> Work:
    """Six of twelve clients, twenty samples each."""
    return Work(folder=str(folder), model=model, cohort=6, samples=SAMPLES, batch=5, rounds=rounds, threads=1)


def begun(folder: Path, model: str = "mlp") -> None:
    """An initial model for the peers."""
    parameters = network(model).parameters()
    np.save(folder / "model.npy", torch.nn.utils.parameters_to_vector(parameters).detach().numpy())


def spent(seconds: list[float], **more: Any) -> Spent:
    return Spent.model_validate({"seconds": seconds, "parameters": 1, "steps": 1, "score": None} | more)
