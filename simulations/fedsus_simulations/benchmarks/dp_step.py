"""A local step of DP-SGD against a plain one, by the trainers of a device; and gradient sums of many clients at once.

A step of DP-SGD is all that its trainer does: sampling, the gradient of each example, clipping, noise, optimizer. Both
sides train the same model on the same examples, in turns, with the same threads.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from fedsus.learning.dp_sgd import DpSgdTrainer
from fedsus.learning.gradient_sums import GradientSumTrainer
from fedsus.learning.loop import LoopTrainer
from fedsus.learning.parameters import dimension, flatten
from fedsus.learning.settings import Compute, TrainSettings
from fedsus.learning.stacked_sums import StackedSumsTrainer
from fedsus.plan import Training
from fedsus.privacy.noise import SeededNoise, SystemNoise
from fedsus.protection import ExampleDistributed, ExamplePrivacy, NoPrivacy, Shares
from fedsus.tasks import registry
from fedsus.tasks.fashion import FashionMnist, FashionMnistSettings
from fedsus.tasks.task import DataSource, Shard
from fedsus_simulations.benchmarks import heart, peer_work, simulate_data
from fedsus_simulations.benchmarks.result import comparison, figure, machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import BaseModel
    from torch import Tensor

    from fedsus.tasks.task import Batch, Forward, Task

MOST: Final = 1.4
"""Plain steps that a step of DP-SGD may take."""

STEPS: Final = 10
CLIENTS, EACH = 100, 82
_WARM_UP: Final = 3


def run(quick: bool) -> dict[str, Any]:
    """Milliseconds a step, and a table of the ratios turn by turn."""
    threads, repeats = torch.get_num_threads(), 6 if quick else 30
    try:
        with tempfile.TemporaryDirectory(prefix="fs-") as name:
            files, real = simulate_data.images(None, Path(name) / "images")
            fashion = FashionMnist(FashionMnistSettings())
            images = fashion.load(DataSource(files))
        batch = 64 if quick else 256
        cnn = Case("Fashion-MNIST CNN", fashion, _first(images, STEPS * batch), batch, 1)
        hospital = registry.build(registry.resolve("heart"), {})
        cleveland = hospital.load(DataSource(heart.DATA))
        cases = [cnn, Case("heart disease", hospital, cleveland, cleveland.size // STEPS, 1)]
        if (cores := min(2, machine().cores)) > 1:
            cases.insert(1, Case(f"Fashion-MNIST CNN, {cores} threads", fashion, cnn.shard, batch, cores))
        found = {case.label: _turns(case, repeats) for case in cases}
        many = {label: _many(task, quick) for label, task in _linear_and_convolutional().items()}
    finally:
        torch.set_num_threads(threads)
    first, *others = (_compared(case, *found[case.label][:2]) for case in cases)
    figures = {case.label: row for case, row in zip(cases[1:], others, strict=True)}
    notes = [
        f"a step: sampling, gradients, clipping, noise, optimizer; peer: a plain step with batches of {batch}",
        f"heart disease: batches of {cleveland.size // STEPS} examples",
        *([] if real else [simulate_data.MADE]),
    ]
    tables = [_ratios(found), _rates(many)]
    return {**first, "figures": figures | {k: row for k, (_, row) in many.items()}, "notes": notes, "tables": tables}


@dataclass(frozen=True, slots=True)
class Case:
    """What is trained: ``batch`` examples a step, in expectation under DP-SGD."""

    label: str
    task: Task
    shard: Shard
    batch: int
    threads: int

    def steps(self) -> tuple[Callable[[], object], Callable[[], object]]:
        """`STEPS` steps of DP-SGD, and of plain training."""
        compute, rate = Compute("cpu", self.threads), self.batch / self.shard.size
        model, shard = flatten(self.task.model(1)), Shard(self.shard.train, tuple(t[:0] for t in self.shard.held_out))
        privacy = ExamplePrivacy(
            epsilon=8.0,
            delta=1e-5,
            clip=1.0,
            noise_multiplier=1.0,
            sampling_rate=rate,
            steps=STEPS,
            denominator=float(self.batch),
        )
        private, plain = (TrainSettings(Training(batch_size=self.batch), p, 1, 1) for p in (privacy, NoPrivacy()))
        ours, peer = DpSgdTrainer(self.task, compute, SystemNoise()), LoopTrainer(self.task, compute)
        return (
            lambda: next(ours.train(model, [shard], private, [1], _never)),
            lambda: next(peer.train(model, [shard], plain, [1], _never)),
        )


Turns = tuple[list[float], list[float], list[float], list[float]]
"""Milliseconds a step of each turn: ours, plain; then the same in processor time."""


def _turns(case: Case, repeats: int) -> Turns:
    """Both sides one after the other, so that a busy machine slows both alike."""
    spent: Turns = ([], [], [], [])
    sides = case.steps()
    steps = (STEPS, -(-case.shard.size // case.batch))
    torch.set_num_threads(case.threads)
    for repeat in range(_WARM_UP + repeats):
        for i, (side, count) in enumerate(zip(sides, steps, strict=True)):
            wall, processor = _seconds(side)
            if repeat >= _WARM_UP:
                spent[i].append(wall / count * 1e3)
                spent[i + 2].append(processor / count * 1e3)
    return spent


def _compared(case: Case, ours: Sequence[float], peer: Sequence[float]) -> dict[str, Any]:
    return comparison(
        figure(ours, "ms", f"a step of DP-SGD, {case.label}", _WARM_UP),
        figure(peer, "ms", "a plain step", _WARM_UP),
        f"at most {MOST:g} plain steps",
        times=round(1 / MOST, 3) if case.label.startswith("Fashion") else None,
    )


def _ratios(found: dict[str, Turns]) -> dict[str, Any]:
    rows = []
    for label, (*wall, ours, peer) in found.items():
        for clock, (mine, other) in {"wall": wall, "processor": (ours, peer)}.items():
            turns = [a / b for a, b in zip(mine, other, strict=True)]
            rows.append((label, clock, min(turns), statistics.median(turns), max(turns), min(mine) / min(other)))
    columns = ("what", "clock", "min", "median", "max", "of the quickest")
    return {"title": "plain steps that a step of DP-SGD takes, turn by turn", "columns": columns, "rows": rows}


def _many(task: _Made, quick: bool) -> tuple[list[float], dict[str, Any]]:
    """One gradient step of `CLIENTS` clients at once, against one after the other; seconds, and the comparison."""
    torch.set_num_threads(1)
    clients, repeats = (10, 2) if quick else (CLIENTS, 8)
    shards = [task.shard(2 * EACH, seed) for seed in range(clients)]
    shares = Shares(scale=1e3, variance=1e6, bits=32, colluders=0, survivors=1)
    privacy = ExampleDistributed(
        epsilon=8.0, delta=1e-5, clip=1.0, sampling_rate=0.5, denominator=1.0 * EACH, shares=shares
    )
    settings, model = TrainSettings(Training(), privacy, 1, 1), flatten(task.model(1))
    compute = Compute("cpu", 1)
    stack, one = StackedSumsTrainer(task, compute), GradientSumTrainer(task, compute, SeededNoise(1))

    def together() -> object:
        return stack.train_stack(model, shards, settings, [SeededNoise(i) for i in range(clients)], _never)

    def alone() -> object:
        return list(one.train(model, shards, settings, [0] * clients, _never))

    spent: tuple[list[float], list[float]] = ([], [])
    for repeat in range(1 + repeats):
        for side, mine in zip((together, alone), spent, strict=True):
            took, _ = _seconds(side)
            if repeat:
                mine.append(took)
    ours, peer = (figure(values, "s", what, 1) for values, what in zip(spent, ("at once", "one by one"), strict=True))
    return [clients * EACH / seconds for seconds in spent[0]], comparison(ours, peer)


def _rates(many: dict[str, tuple[list[float], dict[str, Any]]]) -> dict[str, Any]:
    rows = [(label, min(rates), statistics.median(rates), max(rates)) for label, (rates, _) in many.items()]
    columns = ("clipped gradients of many clients", "min", "median", "max")
    return {"title": "examples a second, one thread", "columns": columns, "rows": rows}


class _Made:
    """Examples of a shape, for a network: see `fedsus.tasks.task.Task`."""

    Settings: ClassVar[type[BaseModel]] = FashionMnistSettings
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({"loss": (0.0, 20.0)})

    def __init__(self, network: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
        self._network, self._shape = network, shape

    def model(self, seed: int) -> nn.Module:
        """As `Task.model`."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return self._network()

    def load(self, source: DataSource) -> Shard:
        """As `shard`; the source is not read."""
        del source
        return self.shard(EACH, 0)

    def shard(self, rows: int, seed: int) -> Shard:
        """Examples of one client."""
        generator = torch.Generator().manual_seed(seed)
        inputs, targets = torch.randn(rows, *self._shape, generator=generator), torch.arange(rows) % 10
        return Shard((inputs, targets), (inputs[:0], targets[:0]))

    def loss(self, model: Forward, batch: Batch) -> Tensor:
        """Cross-entropy, (B,)."""
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def measure(self, model: Forward, batch: Batch) -> Tensor:
        """The loss, (B, 1)."""
        return self.loss(model, batch)[:, None]


def _linear_and_convolutional() -> dict[str, _Made]:
    made = [
        ("linear", _Made(lambda: nn.Linear(3969, 10), (3969,))),
        ("convolutional", _Made(lambda: peer_work.network("cnn"), (1, 28, 28))),
        ("convolutional, wide", _Made(_wide, (1, 28, 28))),
    ]
    return {f"{name}, {dimension(task.model(0)):,} parameters, {CLIENTS} x {EACH}": task for name, task in made}


def _wide() -> nn.Module:
    return FashionMnist(FashionMnistSettings(width=64)).model(0)


def _first(shard: Shard, rows: int) -> Shard:
    chosen = np.random.default_rng(1).permutation(shard.size)[:rows]
    return Shard(tuple(t[torch.from_numpy(chosen)] for t in shard.train), shard.held_out)


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """On the wall, and of the processor."""
    began, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - used


def _never() -> bool:
    return False
