"""Linear layers, embeddings and normalisations of many models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsus.learning.stacking.stack import Layer, add, add_product

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fedsus.learning.stacking.stack import Saved, Slot, Stack


class Linear(Layer):
    """``nn.Linear``: inputs (m * B, ..., in)."""

    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        weight, bias = self.weight(), self.own("bias")
        rows, columns = self._rows(x), weight.transpose(1, 2)
        y = torch.bmm(rows, columns) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, columns)
        # Not view(): autograd lets no views of a custom function be changed in place, as nn.ReLU(inplace=True) does.
        return torch.ops.aten._unsafe_view(y, (*x.shape[:-1], weight.shape[1])), (x,)

    def pull(self, saved: Saved, grad: Tensor) -> Tensor:
        return torch.bmm(self._rows(grad), self.weight()).view(saved[0].shape)

    def add_gradient(self, saved: Saved, grad: Tensor, targets: Mapping[str, Tensor], scale: float, keep: bool) -> None:
        rows = self._rows(grad)
        if "weight" in targets:
            add_product(targets["weight"], rows, self._rows(saved[0]), scale, keep)
        if "bias" in targets:
            add(targets["bias"], rows.sum(1), scale, keep)

    def _rows(self, x: Tensor) -> Tensor:
        return x.reshape(self.stack.live, -1, x.shape[-1])


class Embedding(Layer):
    """``nn.Embedding``: inputs (m * B, ...) of integers."""

    def __init__(
        self, stack: Stack, slots: Mapping[str, Slot], frozen: Mapping[str, Tensor], padding: int | None
    ) -> None:
        super().__init__(stack, slots, frozen)
        self._padding = padding

    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        weight, words = self.weight(), x.reshape(self.stack.live, -1)
        if words.numel():  # indexing would count from the end, and the gradient go to another client
            torch._assert_async(words.min() >= 0, "index out of range in self")
        clients = torch.arange(self.stack.live, device=x.device).unsqueeze(1)
        return weight[clients, words].view(*x.shape, weight.shape[2]), (x,)

    def pull(self, saved: Saved, grad: Tensor) -> Tensor:
        raise RuntimeError("integers have no gradient")

    def add_gradient(self, saved: Saved, grad: Tensor, targets: Mapping[str, Tensor], scale: float, keep: bool) -> None:
        target = targets["weight"]
        models, words, width = target.shape
        index = saved[0].reshape(models, -1)
        if self._padding is not None:
            grad = grad.masked_fill((saved[0] == self._padding).unsqueeze(-1), 0.0)
        index = index + torch.arange(models, device=index.device).unsqueeze(1) * words
        total = torch.ops.aten.embedding_dense_backward(
            grad.reshape(-1, width), index.view(-1), models * words, -1, False
        )
        add(target, total.view(target.shape), scale, keep)


class Scale(Layer):
    """The affine part of a normalisation: a weight, and perhaps a bias, for each of P features.

    Args:
        channels: the features are dimension 1, followed by positions; else they are the last dimensions.
    """

    def __init__(
        self, stack: Stack, slots: Mapping[str, Slot], frozen: Mapping[str, Tensor], *, channels: bool
    ) -> None:
        super().__init__(stack, slots, frozen)
        self._channels = channels

    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        weight, bias, parts = self._wide(self.weight()), self.own("bias"), self._parts(x)
        y = parts * weight if bias is None else torch.addcmul(self._wide(bias), parts, weight)
        return y.view(x.shape), (x,)

    def pull(self, saved: Saved, grad: Tensor) -> Tensor:
        return (self._parts(grad) * self._wide(self.weight())).view(grad.shape)

    def add_gradient(self, saved: Saved, grad: Tensor, targets: Mapping[str, Tensor], scale: float, keep: bool) -> None:
        parts = self._parts(grad)
        if "weight" in targets:
            add(targets["weight"], (parts * self._parts(saved[0])).sum((1, 3)).view_as(targets["weight"]), scale, keep)
        if "bias" in targets:
            add(targets["bias"], parts.sum((1, 3)).view_as(targets["bias"]), scale, keep)

    def _parts(self, x: Tensor) -> Tensor:
        """(m, rows, P, positions)."""
        live, features = self.stack.live, self.weight()[0].numel()
        if self._channels:
            return x.reshape(live, -1, features, x[0, 0].numel())
        return x.reshape(live, -1, features, 1)

    def _wide(self, parameter: Tensor) -> Tensor:
        return parameter.reshape(self.stack.live, 1, -1, 1)


class Normalised(nn.Module):
    """A normalisation of each example alone, then `Scale`."""

    def __init__(self, normalise: Callable[[Tensor], Tensor], scale: Scale) -> None:
        super().__init__()
        self.normalise, self.scale = normalise, scale

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        result: Tensor = self.scale(self.normalise(x))
        return result


def group_norm(module: nn.GroupNorm) -> Callable[[Tensor], Tensor]:
    """Without weights."""
    groups, epsilon = module.num_groups, module.eps
    return lambda x: functional.group_norm(x, groups, eps=epsilon)


def layer_norm(module: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    """Without weights."""
    shape, epsilon = list(module.normalized_shape), module.eps
    return lambda x: functional.layer_norm(x, shape, eps=epsilon)
