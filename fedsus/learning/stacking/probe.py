"""Whether a stacked module does what the plain one does, found out on a few examples of two clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from fedsus.learning.loop import seeded
from fedsus.learning.stacking.converting import NotStackable
from fedsus.learning.stacking.steps import Gradients

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from fedsus.learning.parameters import Flat
    from fedsus.learning.stacking.stack import Stack
    from fedsus.tasks.task import Batch, Task

_ROWS: Final = 3
_ATTEMPTS: Final = 3
_TOLERANCE: Final = 1e-4


def probe(task: Task, flat: Flat, stack: Stack, module: nn.Module, model: Tensor, batches: Sequence[Batch]) -> None:
    """Compares losses and gradients of two clients with different parameters; ``batches``: two, of real examples.

    ``model`` (d,) is best an untrained one: where the loss is near zero, rounding is all that is left of a gradient.
    Losses must agree each time. Gradients must agree once: they are not continuous where a unit switches off.

    Raises:
        NotStackable: the model treats its first dimension in a way of its own, or mixes examples.
    """
    rows = [tuple(t[torch.arange(_ROWS, device=t.device) % len(t)] for t in batch) for batch in batches]
    generator = torch.Generator().manual_seed(0)
    agreed = False
    for _ in range(_ATTEMPTS):
        noise = torch.randn(2, len(model), generator=generator).to(model.device)
        models = model + noise * (0.05 * model.abs().mean() + 0.01) * torch.tensor([[0.0], [1.0]], device=model.device)
        with seeded(0, model.device):
            expected = [_plain(task, flat, values, batch) for values, batch in zip(models, rows, strict=True)]
        with seeded(1, model.device):  # another seed: a model that draws must not agree by chance
            found = _stacked(task, stack, module, models, rows)
        for (loss, _), other in zip(expected, found[0], strict=True):
            if not _close(loss, other):
                raise NotStackable("its loss for one client depends on the examples of others, or on chance")
        agreed = agreed or all(_close(gradient, other) for (_, gradient), other in zip(expected, found[1], strict=True))
    if not agreed:
        raise NotStackable("its gradients for one client depend on the examples of others")


def _plain(task: Task, flat: Flat, values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    flat.load(values)
    flat.module.train()
    flat.gradient.zero_()
    losses = task.loss(flat.module, batch).float()
    losses.mean().backward()  # type: ignore[no-untyped-call]
    return losses.detach(), flat.gradient.clone()


def _stacked(
    task: Task, stack: Stack, module: nn.Module, models: Tensor, rows: Sequence[Batch]
) -> tuple[Tensor, Tensor]:
    stack.start(models)
    sink = stack.sink = Gradients()
    sink.begin(stack)
    batch = tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
    try:
        losses = task.loss(module, batch).float()
        if losses.shape != (2 * _ROWS,):
            raise NotStackable(f"its loss has shape {tuple(losses.shape)} for {2 * _ROWS} examples; one each is needed")
        losses.backward(torch.full_like(losses, 1 / _ROWS))  # type: ignore[no-untyped-call]
    except NotStackable:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise NotStackable(
            f"it fails on the examples of two clients together: {type(error).__name__}: {reason}"
        ) from error
    sink.end(stack)
    return losses.detach().view(2, _ROWS), stack.gradient.clone()


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    scale = float(one.nan_to_num(0.0, 0.0, 0.0).abs().max()) + 1e-6
    return torch.allclose(one, other, rtol=0.0, atol=_TOLERANCE * scale, equal_nan=True)
