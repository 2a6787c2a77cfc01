"""The arithmetic limit of a round: floating-point operations of its layers, over what a matrix product reaches here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence


def operations(model: nn.Module, shape: Sequence[int]) -> int:
    """Operations of one example's forward and backward pass in linear and convolution layers; others are left out.

    A multiplication and an addition count as two. A layer of n products costs 2n forward, 2n for the gradient of its
    weights, and, unless it is the first, 2n for that of its inputs. Biases, activations, pooling and the optimizer's
    step are not counted, so that the limit is a lower bound.

    Args:
        shape: of one example.
    """
    products: list[int] = []

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del inputs
        if isinstance(layer, nn.Conv2d):
            products.append(output.numel() * layer.weight[0].numel())
        elif isinstance(layer, nn.Linear):
            products.append(output.numel() * layer.in_features)

    hooks = [layer.register_forward_hook(count) for layer in model.modules()]
    try:
        with torch.no_grad():
            model(torch.zeros(1, *shape))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(6 * n for n in products) - 2 * products[0]
