"""Convolutions of many models: patches copied side by side, then one matrix product a model (im2col)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from fedsus.learning.stacking.stack import Layer, add

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fedsus.learning.stacking.stack import Saved, Slot, Stack

_ONE: Final = (1, 1)


class Patches(Layer):
    """``nn.Conv2d`` without groups or dilation. Inside, channels come last: patches are then copied in long runs.

    ``nn.Conv1d`` is one of height 1.
    """

    def __init__(
        self, stack: Stack, slots: Mapping[str, Slot], frozen: Mapping[str, Tensor], module: nn.Conv1d | nn.Conv2d
    ) -> None:
        super().__init__(stack, slots, frozen)
        self._kernel = pair(module.kernel_size, 1)
        self._stride, self._padding = pair(module.stride, 1), pair(edges(module), 0)

    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        padded = self._padded(x)
        (high, wide), (down, right) = self._kernel, self._stride
        count, height, width, channels = padded.shape
        rows, columns = (height - high) // down + 1, (width - wide) // right + 1
        each, line, cell, _ = padded.stride()
        shape = (count, rows, columns, high, wide * channels)
        patches = padded.as_strided(shape, (each, down * line, right * cell, line, 1)).reshape(
            self.stack.live, -1, high * wide * channels
        )
        matrix, bias = self._matrix(), self.own("bias")
        if bias is None:
            y = torch.bmm(patches, matrix.transpose(1, 2))
        else:
            y = torch.baddbmm(bias.unsqueeze(1), patches, matrix.transpose(1, 2))
        y = y.view(count, rows, columns, -1).permute(0, 3, 1, 2)
        return (y if self.stack.strided else y.contiguous()), (x, patches)

    def pull(self, saved: Saved, grad: Tensor) -> Tensor:
        (high, wide), (above, left) = self._kernel, self._padding
        count, channels, height, width = saved[0].shape
        parts = torch.bmm(self._last(grad), self._matrix()).view(count, *grad.shape[2:], high, wide, channels)
        padded = self._overlaid(parts)
        missing = (above + height - padded.shape[1], left + width - padded.shape[2])
        if max(missing) > 0:
            padded = nn.functional.pad(padded, (0, 0, 0, max(missing[1], 0), 0, max(missing[0], 0)))
        return padded[:, above : above + height, left : left + width].permute(0, 3, 1, 2)

    def _overlaid(self, parts: Tensor) -> Tensor:
        """Sum of patches (n, rows, columns, high, wide, channels), each where it was taken from."""
        (high, wide), (down, right) = self._kernel, self._stride
        count, rows, columns, _, _, channels = parts.shape
        if self._kernel == self._stride:
            return parts.transpose(2, 3).reshape(count, rows * down, columns * right, channels)
        # Whole strides of rows and columns: then each of the parts below is one addition without overlap.
        more_rows, more_columns = -(-high // down) - 1, -(-wide // right) - 1
        padded = parts.new_zeros(count, (rows + more_rows) * down, (columns + more_columns) * right, channels)
        for y in range(0, high, down):
            for x in range(0, wide, right):
                part = parts[:, :, :, y : y + down, x : x + right]
                target = padded[:, y : y + rows * down, x : x + columns * right]
                target = target.view(count, rows, down, columns, right, channels)
                target[:, :, : part.shape[3], :, : part.shape[4]].add_(part.transpose(2, 3))
        return padded

    def add_gradient(self, saved: Saved, grad: Tensor, targets: Mapping[str, Tensor], scale: float, keep: bool) -> None:
        rows = self._last(grad)
        if "weight" in targets:
            target = targets["weight"]
            models, outputs, channels = target.shape[:3]
            total = torch.bmm(rows.transpose(1, 2), saved[1]).view(models, outputs, *self._kernel, channels)
            add(target, total.permute(0, 1, 4, 2, 3).reshape(target.shape), scale, keep)
        if "bias" in targets:
            add(targets["bias"], rows.sum(1), scale, keep)

    def _matrix(self) -> Tensor:
        """The weights, (m, outputs, height * width * channels)."""
        weight = self.weight()
        models, outputs, channels = weight.shape[:3]
        return weight.view(models, outputs, channels, *self._kernel).permute(0, 1, 3, 4, 2).reshape(models, outputs, -1)

    def _padded(self, x: Tensor) -> Tensor:
        """(m * B, height, width, channels), channels last in memory too."""
        above, left = self._padding
        last = x.permute(0, 2, 3, 1)
        if not above and not left:
            return last.contiguous()
        count, height, width, channels = last.shape
        padded = x.new_zeros(count, height + 2 * above, width + 2 * left, channels)
        padded[:, above : above + height, left : left + width] = last
        return padded

    def _last(self, grad: Tensor) -> Tensor:
        """(m, B * positions, outputs)."""
        return grad.permute(0, 2, 3, 1).reshape(self.stack.live, -1, grad.shape[1])


class Grouped(Layer):
    """Any other ``nn.Conv2d``: the models are groups of one convolution of torch."""

    def __init__(
        self, stack: Stack, slots: Mapping[str, Slot], frozen: Mapping[str, Tensor], module: nn.Conv1d | nn.Conv2d
    ) -> None:
        super().__init__(stack, slots, frozen)
        self._kernel, self._groups = pair(module.kernel_size, 1), module.groups
        self._stride, self._padding = pair(module.stride, 1), pair(edges(module), 0)
        self._dilation = pair(module.dilation, 1)

    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        bias = self.own("bias")
        y = nn.functional.conv2d(
            self._together(x),
            self._weights(),
            None if bias is None else bias.reshape(-1),
            *(self._stride, self._padding, self._dilation, self.stack.live * self._groups),
        )
        return self._apart(y), (x,)

    def pull(self, saved: Saved, grad: Tensor) -> Tensor:
        return self._apart(self._backward(saved, grad, (True, False))[0])

    def add_gradient(self, saved: Saved, grad: Tensor, targets: Mapping[str, Tensor], scale: float, keep: bool) -> None:
        if "weight" in targets:
            total = self._backward(saved, grad, (False, True))[1]
            add(targets["weight"], total.reshape(targets["weight"].shape), scale, keep)
        if "bias" in targets:
            add(targets["bias"], grad.sum((2, 3)).view(self.stack.live, -1, grad.shape[1]).sum(1), scale, keep)

    def _backward(self, saved: Saved, grad: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
        numbers = (self._stride, self._padding, self._dilation, False, (0, 0), self.stack.live * self._groups)
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
            self._together(grad), self._together(saved[0]), self._weights(), None, *numbers, (*wanted, False)
        )
        return found[0], found[1]

    def _weights(self) -> Tensor:
        weight = self.weight()
        return weight.reshape(-1, weight.shape[2], *self._kernel)

    def _together(self, x: Tensor) -> Tensor:
        """(B, m * channels, height, width)."""
        return x.reshape(self.stack.live, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)

    def _apart(self, x: Tensor) -> Tensor:
        """(m * B, channels, height, width)."""
        return x.reshape(x.shape[0], self.stack.live, -1, *x.shape[2:]).transpose(0, 1).flatten(0, 1)


class Flat1d(nn.Module):
    """A convolution over one dimension, as one over two."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(m * B, channels, length) -> (m * B, outputs, length)."""
        result: Tensor = self.layer(x.unsqueeze(2))
        return result.squeeze(2)


def edges(module: nn.Conv1d | nn.Conv2d) -> tuple[int, ...]:
    """Zeros on each side, for height and width.

    Raises:
        ValueError: more on one side than on the other.
    """
    if isinstance(module.padding, str):
        both = [
            d * (k - 1) if module.padding == "same" else 0
            for d, k in zip(module.dilation, module.kernel_size, strict=True)
        ]
        if any(total % 2 for total in both):
            raise ValueError("unequal sides")
        return tuple(total // 2 for total in both)
    return module.padding


def pair(numbers: tuple[int, ...], lacking: int) -> tuple[int, int]:
    """Of height and width; a convolution over one dimension has height 1."""
    return (lacking, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])
