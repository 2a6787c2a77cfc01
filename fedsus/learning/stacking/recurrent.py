"""Recurrent layers of many models: inputs are multiplied for all times at once, states time by time."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedsus.learning.stacking.layers import Linear

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedsus.learning.stacking.stack import Saved

_sigmoid_backward: Final = torch.ops.aten.sigmoid_backward
_tanh_backward: Final = torch.ops.aten.tanh_backward


class Recurrence(Linear):
    """From the multiplied inputs (m * B, T, gates) to the states (m * B, T, H); its own weights multiply the states.

    Their gradient is that of a linear layer that saw the state before each time. The state before the first is zero.
    """

    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        """Saves what `_steps` keeps and the states, (m * B, T, ...) each."""
        times = [part.reshape(self.stack.live, -1, x.shape[2]) for part in x.unbind(1)]
        states, kept = self._steps(times, self.weight().transpose(1, 2), self.own("bias"))
        output = _rows(states)
        return output, (output, *(_rows(parts) for parts in kept))

    def pull(self, saved: Saved, grad: Tensor) -> Tensor:
        """Gradient with respect to the multiplied inputs."""
        return self.through(saved, grad, True)[0]  # type: ignore[return-value]

    def through(self, saved: Saved, grad: Tensor, wanted: bool) -> tuple[Tensor | None, Saved, Tensor]:
        """Back through all times, once for the inputs and for the weights."""
        live, count = self.stack.live, grad.shape[1]
        parts = [[t.reshape(live, -1, t.shape[1]) for t in tensor.unbind(1)] for tensor in (grad, *saved)]
        inputs, products = self._back(parts[0], parts[1], parts[2:], self.weight())
        before = functional.pad(saved[0][:, : count - 1], (0, 0, 1, 0))
        return (_rows(inputs) if wanted else None), (before,), _rows(products)

    @abstractmethod
    def _steps(
        self, inputs: Sequence[Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        """States, and what `_back` needs beside them, time by time; each (m, B, ...)."""

    @abstractmethod
    def _back(
        self, grads: Sequence[Tensor], states: Sequence[Tensor], kept: Sequence[Sequence[Tensor]], weight: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients with respect to the multiplied inputs and to the multiplied states, time by time."""


class Lstm(Recurrence):
    """``nn.LSTM``: gates input, forget, cell, output."""

    def _steps(
        self, inputs: Sequence[Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        states: list[Tensor] = []
        gates: list[Tensor] = []
        cells: list[Tensor] = []
        for x in inputs:
            all_four = _product(x, states, weight, bias)
            i, f, g, o = all_four.chunk(4, dim=2)
            for part in (i, f, o):
                part.sigmoid_()
            cell = i * g.tanh_()
            if cells:
                cell.addcmul_(f, cells[-1])
            states.append(o * cell.tanh())
            gates.append(all_four)
            cells.append(cell)
        return states, [gates, cells]

    def _back(
        self, grads: Sequence[Tensor], states: Sequence[Tensor], kept: Sequence[Sequence[Tensor]], weight: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        gates, cells = kept
        result: list[Tensor] = []
        d_cell = torch.zeros_like(cells[0])
        for t in reversed(range(len(grads))):
            d_state = torch.baddbmm(grads[t], result[-1], weight) if result else grads[t]
            i, f, g, o = gates[t].chunk(4, dim=2)
            tanh = cells[t].tanh()
            d_cell = d_cell + _tanh_backward(d_state * o, tanh)
            before = cells[t - 1] if t else torch.zeros_like(d_cell)
            parts = (
                _sigmoid_backward(d_cell * g, i),
                _sigmoid_backward(d_cell * before, f),
                _tanh_backward(d_cell * i, g),
                _sigmoid_backward(d_state * tanh, o),
            )
            result.append(torch.cat(parts, dim=2))
            d_cell = d_cell * f
        result.reverse()
        return result, result


class Gru(Recurrence):
    """``nn.GRU``: gates reset, update, new."""

    def _steps(
        self, inputs: Sequence[Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        states: list[Tensor] = []
        gates: list[Tensor] = []
        news: list[Tensor] = []
        for x in inputs:
            width = x.shape[2] // 3
            product = _product(torch.zeros_like(x), states, weight, bias)
            both = (x[..., : 2 * width] + product[..., : 2 * width]).sigmoid_()
            reset, update = both.chunk(2, dim=2)
            new = (x[..., 2 * width :] + reset * product[..., 2 * width :]).tanh_()
            states.append(torch.lerp(new, states[-1], update) if states else new * (1 - update))
            gates.append(torch.cat((both, new), dim=2))
            news.append(product[..., 2 * width :])
        return states, [gates, news]

    def _back(
        self, grads: Sequence[Tensor], states: Sequence[Tensor], kept: Sequence[Sequence[Tensor]], weight: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        inputs: list[Tensor] = []
        products: list[Tensor] = []
        later = torch.zeros_like(grads[0])
        for t in reversed(range(len(grads))):
            d_state = grads[t] + later
            reset, update, new = kept[0][t].chunk(3, dim=2)
            before = states[t - 1] if t else torch.zeros_like(d_state)
            d_new = _tanh_backward(d_state * (1 - update), new)
            d_update = _sigmoid_backward(d_state * (before - new), update)
            d_reset = _sigmoid_backward(d_new * kept[1][t], reset)
            inputs.append(torch.cat((d_reset, d_update, d_new), dim=2))
            products.append(torch.cat((d_reset, d_update, d_new * reset), dim=2))
            later = torch.baddbmm(d_state * update, products[-1], weight)
        return inputs[::-1], products[::-1]


class Rnn(Recurrence):
    """``nn.RNN`` with tanh."""

    def _steps(
        self, inputs: Sequence[Tensor], weight: Tensor, bias: Tensor | None
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        states: list[Tensor] = []
        for x in inputs:
            states.append(_product(x, states, weight, bias).tanh_())
        return states, []

    def _back(
        self, grads: Sequence[Tensor], states: Sequence[Tensor], kept: Sequence[Sequence[Tensor]], weight: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        result: list[Tensor] = []
        for grad, state in zip(reversed(grads), reversed(states), strict=True):
            result.append(_tanh_backward(torch.baddbmm(grad, result[-1], weight) if result else grad, state))
        result.reverse()
        return result, result


class Memory(nn.Module):
    """One or more recurrent layers, batch first.

    The state after the last time is that of the last output; an LSTM's cell is not given.
    """

    def __init__(self, parts: Sequence[tuple[Linear, Recurrence]], with_cell: bool) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(part for part, _ in parts)
        self.states = nn.ModuleList(part for _, part in parts)
        self._with_cell = with_cell

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | tuple[Tensor, None]]:
        """(m * B, T, in) -> (m * B, T, H), and the last states (layers, m * B, H)."""
        last = []
        for multiplied, recurrence in zip(self.inputs, self.states, strict=True):
            x = recurrence(multiplied(x))
            last.append(x[:, -1])
        states = torch.stack(last)
        return x, ((states, None) if self._with_cell else states)


KINDS: Final[Mapping[type[nn.Module], type[Recurrence]]] = {nn.LSTM: Lstm, nn.GRU: Gru, nn.RNN: Rnn}


def _product(x: Tensor, states: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> Tensor:
    """A new tensor: x + bias + the last state times the weights."""
    first = x + bias.unsqueeze(1) if bias is not None else x.clone()
    return torch.baddbmm(first, states[-1], weight, out=first) if states else first


def _rows(parts: Sequence[Tensor]) -> Tensor:
    """Time by time (m, B, n) -> (m * B, T, n)."""
    return torch.stack([part.flatten(0, 1) for part in parts], dim=1)
