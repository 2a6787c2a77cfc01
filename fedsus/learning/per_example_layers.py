"""Layers whose backward pass hands over the gradient of each example instead of adding them up.

Forward passes and gradients of inputs are torch's own; only what a layer does for its parameters is another. For a
convolution that is one small matrix product an example, of its patches and its output gradient; torch's backward pass
of all examples together takes as long.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional

from fedsus.errors import ConfigError
from fedsus.learning.stacking.convolution import edges, pair

if TYPE_CHECKING:
    from collections.abc import Mapping

Saved: TypeAlias = tuple[Tensor, ...]
_CACHED: Final = 1 << 21
"""Values of patches made at once: 8 MB."""


class NotLayerwise(ConfigError):
    """A part of the model whose gradients of single examples are not known here. One line says which."""


class Sink(Protocol):
    """Receives the gradients of each example in the backward pass, layer by layer from the last.

    Attributes:
        rows: examples of this pass.
    """

    rows: int

    def take(self, place: slice, each: Tensor) -> None:
        """The gradient of each example for the parameter at ``place``, (rows, p); one more for each use of it."""
        ...

    def take_products(self, weight: slice | None, bias: slice | None, left: Tensor, right: Tensor) -> None:
        """That of a linear layer: ``left`` (rows, in), ``right`` (rows, out)."""
        ...


class Layer:
    """A layer of torch in its place.

    Args:
        places: where its trainable parameters are among all, by torch's names.
        shared: other layers have one of its parameters too.

    Raises:
        NotLayerwise: it is used in a way that is not known here.
    """

    kinds: ClassVar[tuple[type[nn.Module], ...]]

    def __init__(self, module: Any, places: Mapping[str, slice], sink: Sink, anchor: Tensor, *, shared: bool) -> None:
        self.module, self.places, self.sink, self.shared = module, places, sink, shared
        self.calls, self._anchor = 0, anchor

    def __call__(self, x: Tensor) -> Tensor:
        """The layer's output."""
        self.calls += 1
        output: Tensor = _Run.apply(x, self._anchor, self)  # type: ignore[no-untyped-call]
        return output

    @abstractmethod
    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        """Output, and what `back` needs."""

    @abstractmethod
    def back(self, saved: Saved, grad: Tensor, wanted: bool) -> Tensor | None:
        """The gradient with respect to the input if ``wanted``; those of the parameters go to the sink."""

    def give(self, name: str, each: Tensor) -> None:
        """The gradients of one parameter, (rows, ...), to the sink; nothing if it is frozen."""
        self.sink.take(self.places[name], each.reshape(len(each), -1))


class _Run(Function):
    """One layer in autograd's graph. The anchor makes autograd visit it though its input may need no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, layer: Layer) -> Tensor:
        del anchor
        output, saved = layer.run(x)
        ctx.save_for_backward(*saved)
        ctx.layer = layer
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        layer: Layer = ctx.layer
        rows = layer.sink.rows
        if grad.dim() < 2 or len(grad) != rows or len(ctx.saved_tensors[0]) != rows:
            raise NotLayerwise(f"a {type(layer.module).__name__} sees {tuple(grad.shape)} for {rows} examples")
        return layer.back(ctx.saved_tensors, grad, ctx.needs_input_grad[0]), None, None


class Linear(Layer):
    """``nn.Linear``: inputs (rows, ..., in)."""

    kinds = (nn.Linear,)

    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        """As `Layer.run`."""
        y = functional.linear(x, self.module.weight, self.module.bias)
        # Autograd lets no views of a custom function be changed in place, as nn.ReLU(inplace=True) does.
        return torch.ops.aten._unsafe_view(y, y.shape) if y.dim() > 2 else y, (x,)

    def back(self, saved: Saved, grad: Tensor, wanted: bool) -> Tensor | None:
        """As `Layer.back`."""
        weight, bias = self.places.get("weight"), self.places.get("bias")
        if grad.dim() == 2 and self.calls == 1 and not self.shared:
            self.sink.take_products(weight, bias, saved[0], grad)
        else:
            right = grad.reshape(len(grad), -1, grad.shape[-1])
            if weight is not None:
                self.give("weight", torch.bmm(right.transpose(1, 2), saved[0].reshape(*right.shape[:2], -1)))
            if bias is not None:
                self.give("bias", right.sum(1))
        return grad @ self.module.weight if wanted else None


class Convolution(Layer):
    """``nn.Conv1d`` and ``nn.Conv2d``."""

    kinds = (nn.Conv1d, nn.Conv2d)

    def __init__(self, module: Any, *rest: Any, **more: Any) -> None:
        super().__init__(module, *rest, **more)
        self._around, self._padding = self._paddings()
        self._numbers = (module.stride, self._padding, module.dilation)
        self._convolve = functional.conv1d if isinstance(module, nn.Conv1d) else functional.conv2d

    def __call__(self, x: Tensor) -> Tensor:
        """As `Layer.__call__`."""
        if self._around is not None:
            mode = self.module.padding_mode
            x = functional.pad(x, self._around, mode="constant" if mode == "zeros" else mode)
        return super().__call__(x)

    def _paddings(self) -> tuple[list[int] | None, tuple[int, ...]]:
        """What is put around the input first, if that is more than zeros alike on both sides; and such zeros."""
        around: list[int] = self.module._reversed_padding_repeated_twice
        if self.module.padding_mode == "zeros":
            try:
                return None, edges(self.module)
            except ValueError:
                pass
        return around, (0,) * (len(around) // 2)

    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        """As `Layer.run`."""
        return self._convolve(x, self.module.weight, self.module.bias, *self._numbers, self.module.groups), (x,)

    def back(self, saved: Saved, grad: Tensor, wanted: bool) -> Tensor | None:
        """As `Layer.back`."""
        (x,), groups = saved, self.module.groups
        positions = grad.flatten(2)
        if "weight" in self.places:
            self.give("weight", self._weights(x, grad))
        if "bias" in self.places:
            self.give("bias", positions.sum(2))
        if not wanted:
            return None
        zeros, mask = [0] * len(self._padding), (True, False, False)
        found: Tensor = torch.ops.aten.convolution_backward(
            grad, x, self.module.weight, None, *self._numbers, False, zeros, groups, mask
        )[0]
        return found

    def _weights(self, x: Tensor, grad: Tensor) -> Tensor:
        """The gradient of each example for the weights, (rows, p); some examples at a time."""
        groups, size = self.module.groups, self.module.weight[0].numel()
        if x.dim() == 3:
            x, grad = x.unsqueeze(2), grad.unsqueeze(2)
        places = grad[0, 0].numel()
        each = grad.new_empty(len(grad), self.module.weight.numel())
        together = max(1, _CACHED // (groups * size * places))
        for first in range(0, len(x), together):
            some = slice(first, first + together)
            patches = self._patches(x[some], grad.shape[2:])
            mine = grad[some].reshape(len(patches), -1, places)
            torch.bmm(mine, patches.transpose(1, 2), out=each[some].view(len(patches), -1, size))
        return each

    def _patches(self, x: Tensor, shape: torch.Size) -> Tensor:
        """What each weight is multiplied with at each position, (rows * groups, weights of an output, positions)."""
        high, wide = pair(self.module.kernel_size, 1)
        (down, right), (below, beside) = pair(self.module.stride, 1), pair(self.module.dilation, 1)
        above, left = pair(self._padding, 0)
        padded = functional.pad(x, (left, left, above, above)) if above or left else x
        each, channel, line, cell = padded.stride()
        strides = (each, channel, line * below, cell * beside, line * down, cell * right)
        patches = padded.as_strided((*padded.shape[:2], high, wide, *shape), strides, padded.storage_offset())
        return patches.reshape(len(x) * self.module.groups, -1, shape.numel())


class GroupNorm(Layer):
    """``nn.GroupNorm``."""

    kinds = (nn.GroupNorm,)

    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        """As `Layer.run`."""
        part, x = self.module, x.contiguous()
        count, channels = x.shape[:2]
        sizes = (count, channels, x[0, 0].numel(), part.num_groups)
        y, mean, deviation = torch.native_group_norm(x, part.weight, part.bias, *sizes, part.eps)
        return y, (x, mean, deviation)

    def back(self, saved: Saved, grad: Tensor, wanted: bool) -> Tensor | None:
        """As `Layer.back`. To torch the examples are further groups of one: then nothing is added over examples."""
        x, mean, deviation = saved
        count, channels = x.shape[:2]
        sizes = (1, count * channels, x[0, 0].numel(), count * self.module.num_groups)
        before, weight, bias = torch.ops.aten.native_group_norm_backward(
            grad.reshape(1, count * channels, -1),
            x.view(1, count * channels, -1),
            *(mean.view(1, -1), deviation.view(1, -1), self.module.weight.repeat(count)),
            *(*sizes, (wanted, True, True)),
        )
        for name, each in (("weight", weight), ("bias", bias)):
            if name in self.places:
                self.give(name, each.view(count, channels))
        return before.view(x.shape) if wanted else None


class LayerNorm(Layer):
    """``nn.LayerNorm``: the last dimensions are normalised."""

    kinds = (nn.LayerNorm,)

    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        """As `Layer.run`."""
        part = self.module
        y, mean, deviation = torch.native_layer_norm(x, part.normalized_shape, part.weight, part.bias, part.eps)
        return y, (x, mean, deviation)

    def back(self, saved: Saved, grad: Tensor, wanted: bool) -> Tensor | None:
        """As `Layer.back`."""
        (x, mean, deviation), part = saved, self.module
        features = part.weight.numel()
        if "weight" in self.places:
            products = (x - mean) * deviation * grad
            self.give("weight", products.reshape(len(x), -1, features).sum(1))
        if "bias" in self.places:
            self.give("bias", grad.reshape(len(x), -1, features).sum(1))
        if not wanted:
            return None
        found: Tensor = torch.ops.aten.native_layer_norm_backward(
            grad.contiguous(), x, part.normalized_shape, mean, deviation, part.weight, part.bias, (True, False, False)
        )[0]
        return found


class Embedding(Layer):
    """``nn.Embedding``: inputs (rows, ...) of integers."""

    kinds = (nn.Embedding,)

    def __init__(self, module: Any, *rest: Any, **more: Any) -> None:
        super().__init__(module, *rest, **more)
        if module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
            raise NotLayerwise("an Embedding uses max_norm, scale_grad_by_freq or sparse")

    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        """As `Layer.run`."""
        return functional.embedding(x, self.module.weight), (x,)

    def back(self, saved: Saved, grad: Tensor, wanted: bool) -> Tensor | None:
        """As `Layer.back`. The words of each example have rows of their own."""
        (x,), (words, width) = saved, self.module.weight.shape
        if self.module.padding_idx is not None:
            grad = grad.masked_fill((x == self.module.padding_idx).unsqueeze(-1), 0.0)
        own = x.reshape(len(x), -1) + torch.arange(len(x), device=x.device).unsqueeze(1) * words
        each = torch.ops.aten.embedding_dense_backward(grad.reshape(-1, width), own.view(-1), len(x) * words, -1, False)
        self.give("weight", each.view(len(x), -1))
        return None


TABLE: Final[Mapping[type[nn.Module], type[Layer]]] = {
    kind: layer for layer in (Linear, Convolution, GroupNorm, LayerNorm, Embedding) for kind in layer.kinds
}
