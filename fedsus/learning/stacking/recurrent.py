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

_sigmoid_into: Final = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward: Final = torch.ops.aten.tanh_backward
_tanh_into: Final = torch.ops.aten.tanh_backward.grad_input


class Recurrence(Linear):
    """From the multiplied inputs (m * B, T, gates) to the states (m * B, T, H); its own weights multiply the states.

    Their gradient is that of a linear layer that saw the state before each time. The state before the first is zero.
    Inside, time comes first: (T, m, B, ...).
    """

    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        """Saves the states and what `_steps` keeps."""
        weight, bias = self.weight(), self.own("bias")
        gates = self._by_time(x)
        if bias is not None:
            gates += bias.unsqueeze(1)
        saved = self._steps(gates, weight.transpose(1, 2), weight.shape[2])
        return _by_example(saved[0]), saved

    def pull(self, saved: Saved, grad: Tensor) -> Tensor:
        """Gradient with respect to the multiplied inputs."""
        return _by_example(self._back(self._by_time(grad), saved, self.weight())[0])

    def through(self, saved: Saved, grad: Tensor, wanted: bool) -> tuple[Tensor | None, Saved, Tensor]:
        """Back through all times, once for the inputs and for the weights."""
        inputs, products = self._back(self._by_time(grad), saved, self.weight())
        before = functional.pad(_by_example(saved[0][:-1]), (0, 0, 1, 0))
        change = _by_example(products)
        if inputs is products:
            return change, (before,), change
        return (_by_example(inputs) if wanted else None), (before,), change

    @abstractmethod
    def _steps(self, gates: Tensor, weight: Tensor, width: int) -> Saved:
        """States (T, m, B, width), and what `_back` needs beside them; ``gates`` may be changed."""

    @abstractmethod
    def _back(self, grad: Tensor, saved: Saved, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients with respect to the multiplied inputs and to the multiplied states, (T, m, B, gates)."""

    def _by_time(self, x: Tensor) -> Tensor:
        """A copy, (T, m, B, ...)."""
        copy = x.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        return copy.view(x.shape[1], self.stack.live, -1, x.shape[2])


class Lstm(Recurrence):
    """``nn.LSTM``: gates input, forget, cell, output."""

    def _steps(self, gates: Tensor, weight: Tensor, width: int) -> Saved:
        states, cells, tanhs = (gates.new_empty(*gates.shape[:3], width) for _ in range(3))
        for t, gate in enumerate(gates):
            if t:
                torch.baddbmm(gate, states[t - 1], weight, out=gate)
            i, f, g, o = gate.chunk(4, dim=2)
            gate[..., : 2 * width].sigmoid_()
            torch.mul(i, g.tanh_(), out=cells[t])
            if t:
                cells[t].addcmul_(f, cells[t - 1])
            torch.tanh(cells[t], out=tanhs[t])
            torch.mul(o.sigmoid_(), tanhs[t], out=states[t])
        return states, gates, cells, tanhs

    def _back(self, grad: Tensor, saved: Saved, weight: Tensor) -> tuple[Tensor, Tensor]:
        states, gates, cells, tanhs = saved
        change, d_cell = torch.empty_like(gates), torch.zeros_like(states[0])
        for t in reversed(range(len(grad))):
            d_state = torch.baddbmm(grad[t], change[t + 1], weight) if t + 1 < len(grad) else grad[t]
            i, f, g, o = gates[t].chunk(4, dim=2)
            d_i, d_f, d_g, d_o = change[t].chunk(4, dim=2)
            d_cell += _tanh_backward(d_state * o, tanhs[t])
            _sigmoid_into(d_cell * g, i, grad_input=d_i)
            _tanh_into(d_cell * i, g, grad_input=d_g)
            _sigmoid_into(d_state * tanhs[t], o, grad_input=d_o)
            if t:
                _sigmoid_into(d_cell * cells[t - 1], f, grad_input=d_f)
            else:
                d_f.zero_()
            d_cell *= f
        return change, change


class Gru(Recurrence):
    """``nn.GRU``: gates reset, update, new. Its bias is part of the new gate's product, which the reset gate scales."""

    def run(self, x: Tensor) -> tuple[Tensor, Saved]:
        """As of the others; the bias is added to the products."""
        weight, bias = self.weight(), self.own("bias")
        gates, width = self._by_time(x), weight.shape[2]
        states, products = gates.new_empty(*gates.shape[:3], width), torch.empty_like(gates)
        products.copy_(torch.zeros_like(gates[0]) if bias is None else bias.unsqueeze(1).expand_as(gates[0]))
        for t, gate in enumerate(gates):
            if t:
                torch.baddbmm(products[t], states[t - 1], weight.transpose(1, 2), out=products[t])
            reset, update, new = gate.chunk(3, dim=2)
            gate[..., : 2 * width].add_(products[t][..., : 2 * width]).sigmoid_()
            new.addcmul_(reset, products[t][..., 2 * width :]).tanh_()
            before = states[t - 1] if t else torch.zeros_like(states[0])
            torch.lerp(new, before, update, out=states[t])
        return _by_example(states), (states, gates, products)

    def _steps(self, gates: Tensor, weight: Tensor, width: int) -> Saved:
        raise RuntimeError("`run` takes the steps")

    def _back(self, grad: Tensor, saved: Saved, weight: Tensor) -> tuple[Tensor, Tensor]:
        states, gates, products = saved
        width, of_inputs, of_products = states.shape[3], torch.empty_like(gates), torch.empty_like(gates)
        d_state = torch.zeros_like(grad[0])
        for t in reversed(range(len(grad))):
            d_state = d_state + grad[t]
            reset, update, new = gates[t].chunk(3, dim=2)
            d_reset, d_update, d_new = of_inputs[t].chunk(3, dim=2)
            before = states[t - 1] if t else torch.zeros_like(d_state)
            _tanh_into(d_state * (1 - update), new, grad_input=d_new)
            _sigmoid_into(d_state * (before - new), update, grad_input=d_update)
            _sigmoid_into(d_new * products[t][..., 2 * width :], reset, grad_input=d_reset)
            of_products[t].copy_(of_inputs[t])[..., 2 * width :].mul_(reset)
            d_state = torch.baddbmm(d_state * update, of_products[t], weight)
        return of_inputs, of_products


class Rnn(Recurrence):
    """``nn.RNN`` with tanh."""

    def _steps(self, gates: Tensor, weight: Tensor, width: int) -> Saved:
        for t, gate in enumerate(gates):
            if t:
                torch.baddbmm(gate, gates[t - 1], weight, out=gate)
            gate.tanh_()
        return (gates,)

    def _back(self, grad: Tensor, saved: Saved, weight: Tensor) -> tuple[Tensor, Tensor]:
        (states,) = saved
        change = torch.empty_like(grad)
        for t in reversed(range(len(grad))):
            d_state = torch.baddbmm(grad[t], change[t + 1], weight) if t + 1 < len(grad) else grad[t]
            _tanh_into(d_state, states[t], grad_input=change[t])
        return change, change


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


def _by_example(x: Tensor) -> Tensor:
    """(T, m, B, n) -> (m * B, T, n), a copy."""
    return x.flatten(1, 2).transpose(0, 1).contiguous()
