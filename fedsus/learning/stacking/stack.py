"""The parameters of m models as the rows of one matrix, and what a layer must be to train them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Saved: TypeAlias = tuple[Tensor, ...]
"""What a layer keeps of its forward pass."""

_NARROW: Final = 16


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a trainable parameter of one model is in its row: from ``start``, in ``shape``."""

    start: int
    shape: torch.Size


class Sink(Protocol):
    """Receives what each layer's gradient is made of, in the backward pass, layer by layer from the last."""

    def take(self, layer: Layer, saved: Saved, grad: Tensor) -> None:
        """``grad``: gradient with respect to the layer's output, (m * B, ...)."""
        ...


class Stack:
    """Parameters and gradients of m models.

    Attributes:
        values, gradient: (m, d) float32; row i is the parameter vector, or the gradient, of model i.
        live: only the first ``live`` models are worked on; the others keep their values.
        sink: where gradients go.
        layers: all stacked layers of the module.
        strided: layers may return outputs in another memory order than torch's own layers.
        anchor: makes autograd visit layers whose input needs no gradient.
    """

    def __init__(self, dimension: int, device: torch.device, sink: Sink) -> None:
        self.dimension, self.sink, self.strided = dimension, sink, True
        self.layers: list[Layer] = []
        self.values = torch.empty(0, dimension, device=device)
        self.gradient = torch.empty(0, dimension, device=device)
        self.anchor = torch.zeros((), device=device, requires_grad=True)
        self.live = 0
        self._views: dict[tuple[bool, int], Tensor] = {}

    def start(self, rows: Tensor) -> None:
        """Sets the values of m models: (m, d)."""
        if len(self.values) != len(rows):
            self.values, self.gradient = (torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in "vg")
        self.values.copy_(rows)
        self.narrow(len(rows))

    def narrow(self, live: int) -> None:
        """From now on the first ``live`` models alone."""
        self.live = live
        self._views.clear()

    def value(self, slot: Slot) -> Tensor:
        """(live, *shape), a view."""
        return self._view(self.values, slot, False)

    def gradient_of(self, slot: Slot) -> Tensor:
        """(live, *shape), a view."""
        return self._view(self.gradient, slot, True)

    def _view(self, matrix: Tensor, slot: Slot, of_gradient: bool) -> Tensor:
        found = self._views.get((of_gradient, slot.start))
        if found is None:
            part = matrix[: self.live, slot.start : slot.start + slot.shape.numel()]
            found = self._views[of_gradient, slot.start] = part.view(self.live, *slot.shape)
        return found


class Layer(nn.Module):
    """A layer of m models. Inputs and outputs are flat: (m * B, ...), client by client.

    The sum of weighted per-example gradients is `add_gradient` of ``grad`` times the weights: it is linear in it.

    Attributes:
        slots: the trainable parameters, by torch's names.
        calls: forward passes since the last optimizer step.
    """

    def __init__(self, stack: Stack, slots: Mapping[str, Slot], frozen: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stack, self.slots, self.frozen, self.calls = stack, dict(slots), dict(frozen), 0
        stack.layers.append(self)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of all models."""
        object.__setattr__(self, "calls", self.calls + 1)  # nn.Module's own way takes 10 microseconds
        output: Tensor = _Run.apply(x, self.stack.anchor, self)  # type: ignore[no-untyped-call]
        return output

    @abstractmethod
    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        """Output, and what the other methods need."""

    @abstractmethod
    def pull(self, saved: Saved, grad: Tensor) -> Tensor:
        """Gradient with respect to the input."""

    def through(self, saved: Saved, grad: Tensor, wanted: bool) -> tuple[Tensor | None, Saved, Tensor]:
        """One backward pass: the gradient with respect to the input if ``wanted``, and what the sink receives."""
        return (self.pull(saved, grad) if wanted else None), saved, grad

    @abstractmethod
    def add_gradient(self, saved: Saved, grad: Tensor, targets: Mapping[str, Tensor], scale: float, keep: bool) -> None:
        """``target = keep * target + scale * gradient``, for each trainable parameter; targets (m, *shape)."""

    def own(self, name: str) -> Tensor | None:
        """The parameter ``name`` of each model, (m, *shape); None where the layer has none."""
        if name in self.slots:
            return self.stack.value(self.slots[name])
        shared = self.frozen.get(name)
        return None if shared is None else shared.expand(self.stack.live, *shared.shape)

    def weight(self) -> Tensor:
        """The parameter that every layer has."""
        found = self.own("weight")
        if found is None:
            raise RuntimeError("a stacked layer without a weight")
        return found

    def values(self) -> dict[str, Tensor]:
        """The trainable parameters, as views."""
        return {name: self.stack.value(slot) for name, slot in self.slots.items()}

    def gradients(self) -> dict[str, Tensor]:
        """Their gradients, as views."""
        return {name: self.stack.gradient_of(slot) for name, slot in self.slots.items()}


class _Run(Function):
    """One layer in autograd's graph; parameters' gradients go to the sink, not to leaves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: Layer) -> Tensor:
        output, saved = layer.run(x)
        ctx.save_for_backward(*saved)
        ctx.layer = layer
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        layer: Layer = ctx.layer
        before, saved, grad = layer.through(ctx.saved_tensors, grad, ctx.needs_input_grad[0])
        layer.stack.sink.take(layer, saved, grad)
        return before, None, None


def add(target: Tensor, change: Tensor, scale: float, keep: bool) -> None:
    """``target = keep * target + scale * change``, in place."""
    if keep:
        target.add_(change, alpha=scale)
    else:
        torch.mul(change, scale, out=target)


def add_product(target: Tensor, left: Tensor, right: Tensor, scale: float, keep: bool) -> None:
    """``target = keep * target + scale * left^T @ right``, for each model; ``left`` and ``right`` (m, rows, ...)."""
    if right.shape[2] < _NARROW <= left.shape[2]:
        # Matrix libraries read a wide left side column by column: the other way round is up to ten times as quick.
        add(target, torch.bmm(right.transpose(1, 2), left).transpose(1, 2), scale, keep)
    else:
        torch.baddbmm(target, left.transpose(1, 2), right, beta=int(keep), alpha=scale, out=target)


def forget_calls(layers: Iterable[Layer]) -> None:
    """Before a forward pass."""
    for layer in layers:
        object.__setattr__(layer, "calls", 0)
