"""Opacus' ways of computing the gradients of each example, each against the same step without them.

A step is: forward, backward, clip the gradient of each example, sum. The peer is the bare torch step: forward,
backward of the sum. All modes must give the same clipped sum, else the benchmark fails.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsus.errors import RunFailed
from fedsus.learning.per_example import quiet_hooks
from fedsus_simulations.benchmarks.result import comparison, figure

if TYPE_CHECKING:
    from collections.abc import Callable

    Step = Callable[[], Tensor]

CLIP: Final = 0.5
CHOSEN: Final = "hooks"
MODES: Final = ("hooks", "functorch", "ew", "ghost")
_WARM_UP: Final = 3


def run(quick: bool) -> dict[str, Any]:
    """Milliseconds a step of each mode on the heart-sized network and on a small convolutional one."""
    repeats, steps = (8, 8) if quick else (20, 24)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng([]), quiet_hooks():
            torch.manual_seed(0)
            heart = _compare(_heart, torch.randn(20, 20), 2, repeats, steps)
            image = _compare(
                _convolutional, torch.randn(16 if quick else 32, 1, 28, 28), 10, repeats, max(1, steps // 8)
            )
    finally:
        torch.set_num_threads(threads)
    figures: dict[str, Any] = {f"28x28, {mode}": row for mode, row in image.items()}
    figures |= {f"heart, {mode}": row for mode, row in heart.items() if mode != CHOSEN}
    notes = [
        "ours: forward, backward, clipping each example's gradient, sum; peer: forward and backward alone",
        "heart: 20 -> 16 -> 1, batch 20; 28x28: two convolutions and two linear layers, 26,010 parameters",
        "every mode gave the same clipped sum (checked in this run)",
    ]
    return {**heart[CHOSEN], "notes": notes, "figures": figures}


def _compare(model: Callable[[], nn.Module], inputs: Tensor, classes: int, repeats: int, steps: int) -> dict[str, Any]:
    targets = torch.randint(classes, (len(inputs),))
    runs: dict[str, Step] = {mode: _mode(mode, model(), inputs, targets) for mode in MODES}
    _agree({mode: step() for mode, step in runs.items()})
    runs["bare"] = _bare(model(), inputs, targets)
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(_WARM_UP + repeats):
        for name, step in runs.items():  # interleaved, so that a busy machine slows all alike
            began = time.perf_counter()
            for _ in range(steps):
                step()
            if repeat >= _WARM_UP:
                spent[name].append((time.perf_counter() - began) / steps * 1e3)
    peer = figure(spent.pop("bare"), "ms", "a step without clipping", _WARM_UP)
    return {mode: comparison(figure(values, "ms", mode, _WARM_UP), peer) for mode, values in spent.items()}


def _mode(mode: str, model: nn.Module, inputs: Tensor, targets: Tensor) -> Step:
    from opacus.grad_sample.utils import wrap_model

    more = {"max_grad_norm": CLIP} if mode == "ghost" else {}
    wrapped = wrap_model(model, mode, loss_reduction="sum", **more)
    parameters = list(model.parameters())

    def gradients() -> Tensor:
        _losses(wrapped, inputs, targets).sum().backward()  # type: ignore[no-untyped-call]
        parts = [vars(p)["grad_sample"].reshape(len(inputs), -1) for p in parameters]
        for p in parameters:
            p.grad, vars(p)["grad_sample"] = None, None
        each = torch.cat(parts, dim=1).double()
        weights: Tensor = (CLIP / torch.linalg.vector_norm(each, dim=1)).clamp(max=1.0)
        return weights @ each

    def ghost() -> Tensor:
        """Norms by a first backward pass, the weighted sum by a second one: Li et al. 2022, arXiv:2110.05679."""
        losses = _losses(wrapped, inputs, targets)
        losses.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        weights = wrapped.get_clipping_coef()
        wrapped.disable_hooks()
        wrapped.zero_grad(set_to_none=True)
        (weights * losses).sum().backward()
        wrapped.enable_hooks()
        return _taken(parameters)

    return ghost if mode == "ghost" else gradients


def _bare(model: nn.Module, inputs: Tensor, targets: Tensor) -> Step:
    parameters = list(model.parameters())

    def step() -> Tensor:
        _losses(model, inputs, targets).sum().backward()  # type: ignore[no-untyped-call]
        return _taken(parameters)

    return step


def _taken(parameters: list[nn.Parameter]) -> Tensor:
    """The gradients as one vector; they are cleared."""
    parts = []
    for p in parameters:
        parts.append(torch.zeros(p.numel()) if p.grad is None else p.grad.reshape(-1))
        p.grad = None
    return torch.cat(parts)


def _losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    outputs = model(inputs)
    if outputs.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.float(), reduction="none")
    return functional.cross_entropy(outputs, targets, reduction="none")


def _agree(sums: dict[str, Tensor]) -> None:
    for mode, total in sums.items():
        if not torch.allclose(total.double(), sums[CHOSEN].double(), rtol=1e-3, atol=1e-4):
            raise RunFailed(f"gradient mode '{mode}' gives another clipped sum than '{CHOSEN}'")


def _heart() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 1))


def _convolutional() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, stride=2, padding=3),
        nn.Tanh(),
        nn.MaxPool2d(2, stride=1),
        nn.Conv2d(16, 32, 4, stride=2),
        nn.Tanh(),
        nn.MaxPool2d(2, stride=1),
        nn.Flatten(),
        nn.Linear(512, 32),
        nn.Tanh(),
        nn.Linear(32, 10),
    )
