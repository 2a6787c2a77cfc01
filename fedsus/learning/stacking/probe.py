"""Whether a stacked module does what the plain one does, found out on examples of the clients themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from fedsus.learning.loop import seeded
from fedsus.learning.stacking.converting import NotStackable
from fedsus.learning.stacking.steps import Gradients
from fedsus.learning.stacking.watching import memory, watched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from fedsus.learning.parameters import Flat
    from fedsus.learning.stacking.stack import Stack
    from fedsus.tasks.task import Batch, Task

_ROWS: Final = 3
_ATTEMPTS: Final = 3
_TOLERANCE: Final = 1e-4
_SMALLEST: Final = 1e-5
"""Gradients of a parameter may be off by as much of the largest of all: what is but rounding is no error."""

_HUGE: Final = 1e3


@dataclass(frozen=True, slots=True)
class Probed:
    """A model and its stack.

    Attributes:
        flat: the plain module.
        module: the stacked one.
    """

    task: Task
    flat: Flat
    stack: Stack
    module: nn.Module


def probe(of: Probed, model: Tensor, batches: Sequence[Batch], size: int) -> None:
    """Compares losses and gradients of clients with different parameters.

    A few rows of the first and the last client; the same with one of them spoilt, which the other may not notice; then
    ``size`` rows of each, for a model may do otherwise with many.

    Args:
        model: (d,), best an untrained one: where the loss is near zero, rounding is all that is left of a gradient.
        batches: at least one, of real examples, a client each; see `finite`.
        size: rows of a batch in training.

    Raises:
        NotStackable: the model treats its first dimension in a way of its own, mixes examples, decides by their values,
            draws at random or remembers.
    """
    few = [rows_of(batch, _ROWS) for batch in (batches[0], batches[-1])]
    _plain(of, model, few[0])  # what it makes once and keeps is no memory
    changed = memory(of.task, of.flat.module)
    _compare(of, model, few)
    _spoil(of, model, few)
    _compare(of, model, [rows_of(batch, size) for batch in batches])
    if (where := changed()) is not None:
        raise NotStackable(f"{where} changes with each loss, which clients would share")


def _compare(of: Probed, model: Tensor, rows: Sequence[Batch]) -> None:
    """The first and the last client of a stack with each alone.

    Losses must agree each time. Gradients must agree once: they are not continuous where a unit switches off.
    """
    generator, ends = torch.Generator().manual_seed(0), (0, -1)
    for _ in range(_ATTEMPTS):
        models = _models(model, len(rows), generator)
        expected = [_plain(of, models[i], rows[i]) for i in ends]
        losses, gradients = _stacked(of, models, rows)
        if not all(_close(loss, losses[i]) for i, (loss, _) in zip(ends, expected, strict=True)):
            raise NotStackable("its loss for one client depends on the examples of others, or on their number")
        if not any(bool(loss.isfinite().any()) for loss, _ in expected):
            raise NotStackable("its loss is not finite, which shows nothing")
        if all(_alike(of.stack, gradient, gradients[i]) for i, (_, gradient) in zip(ends, expected, strict=True)):
            return
    raise NotStackable("its gradients for one client depend on the examples of others")


def _spoil(of: Probed, model: Tensor, rows: Sequence[Batch]) -> None:
    """Each of two clients is the same whatever the parameters and examples of the other: even NaN stays there."""
    models = _models(model, 2, torch.Generator().manual_seed(1))
    losses, gradients = _stacked(of, models, rows)
    for bad, good in ((0, 1), (1, 0)):
        for value in (float("nan"), _HUGE, -_HUGE):
            spoilt, others = models.clone(), list(rows)
            spoilt[bad] *= value
            others[bad] = tuple(_filled(tensors, bad, value) for tensors in zip(*rows, strict=True))
            try:
                found = _stacked(of, spoilt, others)
            except NotStackable as error:
                if error.__cause__ is None:
                    raise
                continue  # it does not take such values
            if not (_close(losses[good], found[0][good]) and _close(gradients[good], found[1][good])):
                raise NotStackable("its loss for one client depends on the examples or the parameters of others")


def _filled(tensors: Sequence[Tensor], bad: int, value: float) -> Tensor:
    """The tensor at ``bad`` with ``value`` throughout; if of whole numbers, with the largest or smallest of all."""
    mine, together = tensors[bad], torch.cat(list(tensors))
    if mine.is_floating_point():
        return torch.full_like(mine, value)
    return (together.amin() if value < 0 else together.amax()).expand_as(mine) if mine.numel() else mine


def rows_of(batch: Batch, count: int) -> Batch:
    """``count`` rows from all over the batch; all of them again and again if there are fewer."""
    size = len(batch[0])
    rows = torch.linspace(0, size - 1, count).long() if count < size else torch.arange(count) % size
    return tuple(t[rows.to(t.device)] for t in batch)


def finite(batches: Sequence[Batch]) -> list[Batch]:
    """Each client's examples without NaN or infinity: what is broken shows nothing about the model.

    Clients that have none are left out; if nobody has any, all of all.
    """
    found = []
    for batch in batches:
        good = torch.ones(len(batch[0]), dtype=torch.bool, device=batch[0].device)
        for tensor in batch:
            good &= tensor.reshape(len(tensor), -1).isfinite().all(dim=1)
        if bool(good.any()):
            found.append(tuple(tensor[good] for tensor in batch))
    return found or list(batches)


def _models(model: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, d): the model, and others near to it."""
    noise = torch.randn(count, len(model), generator=generator).to(model.device)
    noise[0] = 0.0
    return model + noise * (0.05 * model.abs().mean() + 0.01)


def _plain(of: Probed, values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Losses of the rows, and the gradient of their mean."""
    of.flat.load(values)
    of.flat.module.train()
    of.flat.gradient.zero_()
    with seeded(0, values.device):
        losses = of.task.loss(of.flat.module, batch).float()
        losses.mean().backward()  # type: ignore[no-untyped-call]
    return losses.detach(), of.flat.gradient.clone()


def _stacked(of: Probed, models: Tensor, rows: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """As `_plain`, (m, rows) and (m, d)."""
    of.stack.start(models)
    sink = of.stack.sink = Gradients()
    sink.begin(of.stack)
    of.module.train()
    batch = tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
    count = len(rows[0][0])
    try:
        with seeded(1, models.device), watched(models.device):
            losses = of.task.loss(of.module, batch).float()
        if losses.shape != (len(rows) * count,):
            raise NotStackable(
                f"its loss has shape {tuple(losses.shape)} for {len(batch[0])} examples; one each is needed"
            )
        losses.backward(torch.full_like(losses, 1 / count))  # type: ignore[no-untyped-call]
    except NotStackable:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise NotStackable(
            f"it fails on the examples of two clients together: {type(error).__name__}: {reason}"
        ) from error
    sink.end(of.stack)
    return losses.detach().view(len(rows), -1), of.stack.gradient.clone()


def _alike(stack: Stack, one: Tensor, other: Tensor) -> bool:
    """Gradients (d,) of one client, parameter by parameter."""
    least = _SMALLEST / _TOLERANCE * _size(one)
    parts = [slice(s.start, s.start + s.shape.numel()) for layer in stack.layers for s in layer.slots.values()]
    return all(_close(one[part], other[part], least) for part in parts)


def _close(one: Tensor, other: Tensor, least: float = 1e-6) -> bool:
    if one.shape != other.shape:
        return False
    return torch.allclose(one, other, rtol=0.0, atol=_TOLERANCE * (_size(one) + least), equal_nan=True)


def _size(values: Tensor) -> float:
    return float(values.nan_to_num(0.0, 0.0, 0.0).abs().max())
