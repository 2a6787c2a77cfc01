"""Optimizer steps for many models: each row of the matrix moves as its own model would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from fedsus.learning import optimizers
from fedsus.learning.stacking.stack import forget_calls

if TYPE_CHECKING:
    from fedsus.learning.settings import TrainSettings
    from fedsus.learning.stacking.stack import Layer, Saved, Stack
    from fedsus.plan import Training


class Gradients:
    """Fills the rows of ``stack.gradient``, parameter by parameter."""

    def __init__(self) -> None:
        self._written: set[Layer] = set()

    def begin(self, stack: Stack) -> None:
        """Before a forward pass."""
        forget_calls(stack.layers)
        self._written.clear()

    def take(self, layer: Layer, saved: Saved, grad: Tensor) -> None:
        """Writes the layer's gradient, or adds to it if the layer was used more than once."""
        layer.add_gradient(saved, grad, layer.gradients(), 1.0, layer in self._written)
        self._written.add(layer)

    def end(self, stack: Stack) -> None:
        """Layers that the loss does not depend on have gradient zero."""
        for layer in stack.layers:
            if layer not in self._written:
                for part in layer.gradients().values():
                    part.zero_()


class Step(Protocol):
    """One optimizer step: `begin`, forward and backward pass, `end`."""

    def begin(self, stack: Stack) -> None:
        """Before a forward pass."""
        ...

    def end(self, stack: Stack) -> None:
        """After the backward pass: moves the values."""
        ...


class PlainStep(Gradients):
    """SGD without momentum: each layer's product is added to the values at once, and no gradient is kept.

    A layer that is used more than once in a pass must keep its values until the pass ends.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate = rate

    def take(self, layer: Layer, saved: Saved, grad: Tensor) -> None:
        """Moves the values of a layer that was used once."""
        if layer.calls == 1:
            layer.add_gradient(saved, grad, layer.values(), -self._rate, True)
        else:
            super().take(layer, saved, grad)

    def end(self, stack: Stack) -> None:
        """Moves the others."""
        for layer in self._written:
            gradients = layer.gradients()
            for name, part in layer.values().items():
                part.add_(gradients[name], alpha=-self._rate)


class SgdStep(Gradients):
    """SGD with all that may come with it."""

    def __init__(self, start: Tensor, training: Training, rate: float) -> None:
        super().__init__()
        self._start, self._training, self._rate = start, training, rate
        self._momentum: Tensor | None = None

    def end(self, stack: Stack) -> None:
        """As torch.optim.SGD for each row."""
        super().end(stack)
        chosen, live = self._training.optimizer, stack.live
        values, gradient = stack.values[:live], stack.gradient[:live]
        adjust(values, gradient, self._start, self._training)
        if chosen.weight_decay:
            gradient.add_(values, alpha=chosen.weight_decay)
        if chosen.momentum:
            if self._momentum is None:
                self._momentum = gradient.clone()
            else:
                self._momentum[:live].mul_(chosen.momentum).add_(gradient)
            moving = self._momentum[:live]
            gradient = gradient.add_(moving, alpha=chosen.momentum) if chosen.nesterov else moving
        values.add_(gradient, alpha=-self._rate)


class TorchStep(Gradients):
    """Any optimizer of the table: torch's own, on the matrix."""

    def __init__(self, stack: Stack, start: Tensor, training: Training, rate: float) -> None:
        super().__init__()
        self._start, self._training = start, training
        self._rows = nn.Parameter(stack.values)
        self._optimizer = optimizers.make(training.optimizer, [self._rows], rate)

    def end(self, stack: Stack) -> None:
        """One step for the models that are live."""
        super().end(stack)
        if stack.live < len(self._rows):
            self._narrow(stack)
        gradient = stack.gradient[: stack.live]
        with torch.no_grad():
            adjust(self._rows, gradient, self._start, self._training)
        self._rows.grad = gradient
        self._optimizer.step()

    def _narrow(self, stack: Stack) -> None:
        """The optimizer forgets the models that are finished."""
        state = self._optimizer.state.pop(self._rows)
        self._rows = nn.Parameter(stack.values[: stack.live])
        self._optimizer.param_groups[0]["params"] = [self._rows]
        self._optimizer.state[self._rows] = {
            name: value[: stack.live] if isinstance(value, Tensor) and value.dim() == 2 else value
            for name, value in state.items()
        }


def make(stack: Stack, start: Tensor, settings: TrainSettings) -> PlainStep | SgdStep | TorchStep:
    """The quickest step for these settings; ``start`` (d,): the received model.

    Raises:
        ConfigError: the optimizer has no momentum, and one was given.
    """
    training, rate = settings.training, settings.learning_rate
    chosen = training.optimizer
    if chosen.name != "sgd":
        return TorchStep(stack, start, training, rate)
    optimizers.make(chosen, [start], rate)
    if chosen.momentum or chosen.weight_decay or training.proximal or training.gradient_clip is not None:
        return SgdStep(start, training, rate)
    return PlainStep(rate)


def adjust(values: Tensor, gradient: Tensor, start: Tensor, training: Training) -> None:
    """Proximal term (Li et al. 2020, equation 2), then clipping: each row of ``gradient`` (m, d) alone, in place."""
    if training.proximal:
        gradient.add_(values - start, alpha=training.proximal)
    if training.gradient_clip is not None:
        norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        factors = torch.where(norms > training.gradient_clip, training.gradient_clip / norms, 1.0)
        gradient.mul_(factors)
