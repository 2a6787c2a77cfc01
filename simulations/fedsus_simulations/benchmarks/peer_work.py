"""The work that ours and its peers do alike: data, models, loss. Needs torch and numpy alone: a peer has no fedsus."""

from __future__ import annotations

import gzip
import json
import sys
import time
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

OUTPUTS: Final = 500
"""Of the trivial model: a linear layer from one number has 1,000 parameters then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is asked of each side.

    Attributes:
        folder: holds inputs.npy (clients, samples, ...), targets.npy (clients, samples) and model.npy, the parameters
            to begin with; for a network of images also test_inputs.npy and test_targets.npy, without clients. Bytes are
            scaled by 1/255.
        model: mlp, cnn or trivial.
        cohort: clients that train in a round, drawn anew each time.
        samples: of each client, which goes through them once.
        batch: examples of a step.
        rounds: how many, with the first, which is the warm-up.
        threads: of torch.
        files: folder of IDX files that each client of Flower's reads anew for each message; empty: its worker keeps
            what it read once.
    """

    folder: str
    model: str
    cohort: int
    samples: int
    batch: int
    rounds: int
    threads: int
    learning_rate: float = 0.1
    seed: int = 1
    files: str = ""

    @property
    def steps(self) -> int:
        """Optimizer steps of a round, over its cohort."""
        return self.cohort * -(-self.samples // self.batch)


def network(name: str) -> nn.Module:
    """A model by its name, freshly initialised: (B, 1, 28, 28) -> (B, 10), or (B, 1) -> (B, 500).

    ``cnn`` is the network of Opacus' MNIST example, 26,010 parameters; ``mlp`` is 784-64-10, 50,890 parameters.
    """
    if name == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    if name == "cnn":
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 8, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(2, stride=1)),
            *(nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(), nn.MaxPool2d(2, stride=1)),
            *(nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10)),
        )
    return nn.Linear(1, OUTPUTS)


def trivial(rows: int) -> tuple[Tensor, Tensor]:
    """Data of as many clients with one example each: (rows, 1) and (rows,) float32."""
    numbers = np.random.default_rng(1).normal(size=(2, rows)).astype(np.float32)
    return torch.from_numpy(numbers[0][:, None].copy()), torch.from_numpy(numbers[1].copy())


def begin(work: Work) -> nn.Module:
    """The network with the parameters that all sides begin with."""
    model = network(work.model)
    nn.utils.vector_to_parameters(torch.from_numpy(np.load(Path(work.folder) / "model.npy")), model.parameters())
    return model


def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch: cross-entropy, or half the squared error of the trivial model's mean output."""
    outputs: Tensor = model(inputs)
    if targets.is_floating_point():
        return 0.5 * functional.mse_loss(outputs.mean(dim=1), targets)
    return functional.cross_entropy(outputs, targets)


@lru_cache(1)
def load(folder: str) -> tuple[Tensor, Tensor]:
    """Inputs (clients, samples, ...) float32 and targets (clients, samples); read once a process."""
    return _inputs(Path(folder) / "inputs.npy"), torch.from_numpy(np.load(Path(folder) / "targets.npy"))


def read_files(folder: str) -> tuple[Tensor, Tensor]:
    """All training images (n, 1, 28, 28) float32 and labels (n,) of IDX files, gzipped or not."""
    parts = []
    for name, header in (("train-images-idx3-ubyte", 16), ("train-labels-idx1-ubyte", 8)):
        plain = Path(folder) / name
        raw = plain.read_bytes() if plain.exists() else gzip.decompress(plain.with_name(f"{name}.gz").read_bytes())
        parts.append(np.frombuffer(raw, np.uint8, offset=header))
    return torch.tensor(parts[0].reshape(-1, 1, 28, 28)).float() / 255.0, torch.tensor(parts[1]).long()


def score(model: nn.Module, folder: str) -> tuple[float, float] | None:
    """Mean loss and accuracy on the test part; None where there is none."""
    if not (Path(folder) / "test_inputs.npy").exists():
        return None
    inputs = _inputs(Path(folder) / "test_inputs.npy")
    targets = torch.from_numpy(np.load(Path(folder) / "test_targets.npy"))
    with torch.no_grad():
        outputs = model(inputs)
    right = (outputs.argmax(dim=1) == targets).float().mean()
    return float(functional.cross_entropy(outputs, targets)), float(right)


def peak() -> float:
    """Floating-point operations a second of the best of some products of 1024 x 1024 float32 matrices."""
    side, best = 1024, float("inf")
    left, right = torch.randn(side, side), torch.randn(side, side)
    for _ in range(12):
        start = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


@dataclass(slots=True)
class Rounds:
    """What an adapter measures; ``report`` prints it, for the process that started it.

    Attributes:
        marks: seconds, before the first round and after each.
        steps: optimizer steps that were really made, in all rounds.
    """

    work: Work
    marks: list[float] = field(default_factory=list)
    steps: int = 0

    def mark(self) -> None:
        """A round ends here, and the next begins."""
        self.marks.append(time.perf_counter())

    def report(self, model: nn.Module, *packages: str, **more: float) -> None:
        """One line of JSON on standard output."""
        found = {
            "seconds": [after - before for before, after in pairwise(self.marks)],
            "parameters": sum(p.numel() for p in model.parameters()),
            "steps": self.steps,
            "score": score(model, self.work.folder),
            "versions": {name: _version(name) for name in ("torch", *packages)},
            **more,
        }
        sys.stdout.write(f"\n{json.dumps(found)}\n")
        sys.stdout.flush()


def asked() -> Rounds:
    """What the command line asks for; sets torch's threads and seed."""
    work = Work(**json.loads(sys.argv[1]))
    torch.set_num_threads(work.threads)
    torch.manual_seed(work.seed)
    np.random.seed(work.seed)  # noqa: NPY002 (a peer draws its cohorts from it)
    return Rounds(work)


def _inputs(file: Path) -> Tensor:
    """Images get their one channel."""
    found = torch.from_numpy(np.load(file))
    return found.unsqueeze(-3).float() / 255.0 if found.dtype == torch.uint8 else found


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"
