"""A model's trainable parameters as one vector, and what a model must be for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor, nn

from fedsus.errors import ConfigError

if TYPE_CHECKING:
    from fedsus.types import Vector

_RUNNING: Final = frozenset(
    {
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "weight_u",
        "weight_v",
        "_u",
        "_v",
        "activation_post_process",
    }
)
"""Buffers that training changes: statistics of batches (BatchNorm), power iterations (spectral norm)."""


def dimension(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in _trainable(module))


def flatten(module: nn.Module) -> Vector:
    """The trainable parameters in the order of ``named_parameters()``, (d,) float32; a copy."""
    parts = [p.detach().to("cpu", torch.float32).reshape(-1) for p in _trainable(module)]
    vector: Vector = np.array(torch.cat(parts).numpy(), copy=True)
    return vector


def load_into(module: nn.Module, vector: Vector) -> None:
    """Copy ``vector`` (d,) float32 into the trainable parameters.

    Raises:
        ConfigError: the vector is of another model.
    """
    if vector.shape != (expected := dimension(module),):
        raise ConfigError(f"the model has {expected} trainable parameters, the vector has shape {vector.shape}")
    source, start = torch.tensor(vector), 0
    with torch.no_grad():
        for p in _trainable(module):
            p.copy_(source[start : start + p.numel()].view_as(p))
            start += p.numel()


def check_model(module: nn.Module, name: str, *, private: bool = False) -> None:
    """Refuse a model that cannot be trained as one vector; with ``private``, also one that DP-SGD cannot train.

    Running statistics are no parameters: averaged or not, they would leave the device without noise.

    Raises:
        ConfigError: names task, module and fix in one line.
    """
    for path, part in module.named_modules():
        for buffer, _ in part.named_buffers(recurse=False):
            if buffer in _RUNNING:
                raise ConfigError(
                    f"task '{name}': module '{path or 'model'}' ({type(part).__name__}) keeps the running buffer "
                    f"'{buffer}'; use GroupNorm or LayerNorm in its place"
                )
    if not _trainable(module):
        raise ConfigError(f"task '{name}': the model has no trainable parameter")
    for path, p in module.named_parameters():
        if p.requires_grad and p.dtype != torch.float32:
            raise ConfigError(f"task '{name}': parameter '{path}' is {p.dtype}; parameters must be torch.float32")
    if private:
        _check_private(module, name)


class Flat:
    """A module whose trainable parameters and gradients are views of two vectors.

    One copy loads a model and the optimizer updates one tensor, whatever the number of layers: for small models
    that is most of a step's time.

    Attributes:
        module: the module, on ``device``.
        values: (d,) float32, the parameters; its ``grad`` is ``gradient``.
        gradient: (d,) float32; backward passes add to it.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module = module.to(device)
        parameters = _trainable(module)
        self.values = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
        self.gradient = torch.zeros_like(self.values.detach())
        self.values.grad = self.gradient
        start = 0
        for p in parameters:
            part = slice(start, start + p.numel())
            p.data, p.grad = self.values.detach()[part].view_as(p), self.gradient[part].view_as(p)
            start = part.stop

    def load(self, vector: Tensor) -> None:
        """Set the parameters: (d,) float32."""
        if vector.shape != self.gradient.shape:
            raise ConfigError(
                f"the model has {self.gradient.numel()} trainable parameters, "
                f"the vector has shape {tuple(vector.shape)}"
            )
        with torch.no_grad():
            self.values.copy_(vector)

    def difference(self, start: Tensor) -> Vector:
        """Parameters minus ``start``, (d,) float32."""
        change: Vector = (self.values.detach() - start).cpu().numpy()
        return change


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [p for _, p in module.named_parameters() if p.requires_grad]


def _check_private(module: nn.Module, name: str) -> None:
    from opacus.validators import ModuleValidator

    errors = ModuleValidator.validate(module, strict=False)
    if errors:
        reason = " ".join(str(errors[0]).split())
        raise ConfigError(f"task '{name}': the model cannot be trained with example privacy: {reason}")
