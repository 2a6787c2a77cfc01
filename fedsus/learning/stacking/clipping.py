"""The sum of each model's clipped per-example gradients, from one backward pass of the stack.

For a linear layer that sees an example once, the norm of its gradient is |input| * |output gradient|, and the sum is
one product a model: no gradient of one example is ever made (Goodfellow 2015, arXiv:1510.01799; "ghost norm" in Bu et
al. 2022, arXiv:2205.10683). For the other layers the gradient of each example is made, as if each were a model of its
own. Norms, factors and sums are of the wide type, float64 where the device has it: there an example moves a sum by no
more than the clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import torch
from torch import Tensor

from fedsus.learning.stacking.converting import NotStackable
from fedsus.learning.stacking.layers import Linear
from fedsus.learning.stacking.stack import forget_calls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedsus.learning.stacking.stack import Layer, Saved, Slot, Stack

_CACHED: Final = 1 << 16
_LARGEST: Final = torch.finfo(torch.float32).max


@dataclass(frozen=True, slots=True)
class Products:
    """The gradient of an example is the outer product of ``right`` (rows, out) and ``left`` (rows, in).

    That of the bias is ``right`` itself; either parameter may be frozen.
    """

    slots: Mapping[str, Slot]
    left: Tensor
    right: Tensor

    def squares(self) -> Tensor:
        """Squared norm of each example's gradient, (rows,)."""
        across = _squares(self.left) if "weight" in self.slots else torch.zeros_like(self.left[:, 0])
        return _squares(self.right) * (across + int("bias" in self.slots))

    def clear(self, rows: Tensor) -> None:
        """These rows count as zero, whatever they hold."""
        self.left.masked_fill_(rows.unsqueeze(1), 0.0)
        self.right.masked_fill_(rows.unsqueeze(1), 0.0)

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        """Add the sum of each model's gradients times ``factors`` (m, B) to ``total`` (m, d)."""
        left = self.left.view(*factors.shape, -1)
        right = self.right.view(*factors.shape, -1) * factors.unsqueeze(2)
        if "weight" in self.slots:
            target = _part(total, self.slots["weight"])
            torch.baddbmm(target, right.transpose(1, 2), left, out=target)
        if "bias" in self.slots:
            _part(total, self.slots["bias"]).add_(right.sum(1))


@dataclass(frozen=True, slots=True)
class Gradients:
    """The gradient of each example for one parameter, (rows, p)."""

    slot: Slot
    each: Tensor
    wide: torch.dtype

    def squares(self) -> Tensor:
        """As `Products.squares`; some rows at a time, so that their wide copy stays in the cache."""
        together = max(1, _CACHED // self.each.shape[1])
        return torch.cat([_squares(rows.to(self.wide)) for rows in torch.split(self.each, together)])

    def clear(self, rows: Tensor) -> None:
        """As `Products.clear`."""
        self.each.masked_fill_(rows.unsqueeze(1), 0.0)

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        """As `Products.add_to`; some models at a time, as in `squares`."""
        each, target = self.each.view(*factors.shape, -1), _part(total, self.slot)
        together = max(1, _CACHED // each[0].numel())
        for i in range(0, len(each), together):
            models = slice(i, i + together)
            sums = torch.bmm(factors[models].unsqueeze(1), each[models].to(self.wide))
            target[models] += sums.view(-1, *self.slot.shape)


class Clipping:
    """Sink of the backward pass of ``losses.sum()``: `begin`, forward and backward pass, `end`.

    Args:
        wide: type of norms and sums.

    Attributes:
        wide: the same.
        made: values of one example's gradient that were made in the last pass; the memory of a pass is ``made`` * rows.
    """

    def __init__(self, wide: torch.dtype) -> None:
        self.wide, self._rows, self.made = wide, 0, 0
        self._products: list[Products] = []
        self._gradients: dict[Slot, Gradients] = {}

    def begin(self, stack: Stack, rows: int) -> None:
        """Before a forward pass of ``rows`` = m * B examples."""
        forget_calls(stack.layers)
        self._rows, self.made = rows, 0
        self._products.clear()
        self._gradients.clear()

    def take(self, layer: Layer, saved: Saved, grad: Tensor) -> None:
        """Keeps what the gradients of the layer's parameters are made of.

        Raises:
            NotStackable: the layer's first dimension is not the example.
        """
        if len(grad) != self._rows or len(saved[0]) != self._rows:
            kind = type(layer).__name__
            raise NotStackable(f"its {kind} layer sees {len(saved[0])} rows of {self._rows} examples")
        if type(layer) is Linear and grad.dim() == 2 and layer.calls == 1:
            copies = (values.to(self.wide, copy=True) for values in (saved[0], grad))
            self._products.append(Products(layer.slots, *copies))
            return
        for name, each in gradients(layer, saved, grad).items():
            slot = layer.slots[name]
            if slot in self._gradients:  # the layer is used more than once
                self._gradients[slot].each.add_(each)
            else:
                self._gradients[slot] = Gradients(slot, each, self.wide)
                self.made += each.shape[1]

    def end(self, total: Tensor, valid: Tensor, clip: float) -> Tensor:
        """Add each model's sum of clipped gradients to ``total`` (m, d); the norms, (m, B).

        Args:
            valid: (m, B), False for rows that only fill up. An example whose gradient is not finite, or has a norm
                beyond float32, counts as zero.
        """
        parts: list[Products | Gradients] = [*self._products, *self._gradients.values()]
        squares = torch.zeros(self._rows, dtype=self.wide, device=total.device)
        for part in parts:
            squares += part.squares()
        norms = squares.sqrt_()
        broken = ~(norms <= _LARGEST)
        if bool(broken.any()):
            for part in parts:
                part.clear(broken)  # zero times NaN would still be NaN
        used = valid & ~broken.view(valid.shape)
        factors = torch.where(used, (clip / norms.view(valid.shape)).clamp(max=1.0), 0.0)
        for part in parts:
            part.add_to(total, factors)
        self._products.clear()
        self._gradients.clear()
        return norms.view(valid.shape)


class _Apart:
    """A stack in which each of ``live`` examples has a model of its own, with the values of its client."""

    def __init__(self, stack: Stack, live: int) -> None:
        self._stack, self.live = stack, live

    def value(self, slot: Slot) -> Tensor:
        """(live, *shape)."""
        return self._stack.value(slot).repeat_interleave(self.live // self._stack.live, dim=0)


def gradients(layer: Layer, saved: Saved, grad: Tensor) -> dict[str, Tensor]:
    """The gradient of each example for each trainable parameter, (rows, p)."""
    stack, rows = layer.stack, len(grad)
    targets = {name: grad.new_empty(rows, *slot.shape) for name, slot in layer.slots.items()}
    mine = tuple(t if len(t) == rows else t.reshape(rows, -1, *t.shape[2:]) for t in saved)
    layer.stack = cast("Stack", _Apart(stack, rows))
    try:
        layer.add_gradient(mine, grad, targets, 1.0, False)
    finally:
        layer.stack = stack
    return {name: target.view(rows, -1) for name, target in targets.items()}


def _squares(values: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(values, dim=1)
    return norms.square_()


def _part(total: Tensor, slot: Slot) -> Tensor:
    """The parameter's part of each row, (m, *shape), a view."""
    return total[:, slot.start : slot.start + slot.shape.numel()].view(len(total), *slot.shape)
