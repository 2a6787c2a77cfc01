"""Two ways to the gradient of each example: layer by layer, and by Opacus' hooks for all other models."""

from __future__ import annotations

import warnings
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

import torch

from fedsus.errors import ConfigError
from fedsus.learning.per_example_layers import TABLE, Layer, NotLayerwise
from fedsus.learning.per_example_parts import Gradients, Products

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from fedsus.learning.parameters import Flat
    from fedsus.learning.per_example_parts import Part
    from fedsus.tasks.task import Batch, Task

_NAMES: Final = frozenset({"weight", "bias"})
_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class PerExample(Protocol):
    """Turns a batch into the gradients of its examples."""

    def parts(self, batch: Batch) -> Sequence[Part]:
        """One forward and backward pass. Parameters that the loss does not reach may be missing: they count as zero.

        Raises:
            ConfigError: the loss is not one number an example.
        """
        ...


class Layerwise:
    """Torch's own passes, in which each layer hands over the gradients of each example; see `per_example_layers`.

    The module's layers get another ``forward`` by `open`, as when it is made; `close` gives back their own.

    Raises:
        NotLayerwise: a layer with trainable parameters is not one of the table, or has been changed.
    """

    def __init__(self, task: Task, flat: Flat, wide: torch.dtype) -> None:
        self._task, self._module, self._wide, self.rows = task, flat.module, wide, 0
        self._products: list[Products] = []
        self._gradients: dict[int, Gradients] = {}
        anchor = torch.zeros((), device=flat.values.device, requires_grad=True)
        places, self._layers = _places(flat.module), list[Layer]()
        owners = Counter(
            id(p) for part in flat.module.modules() for p in part.parameters(recurse=False) if p.requires_grad
        )
        for path, part in flat.module.named_modules():
            own = {name: p for name, p in part.named_parameters(recurse=False) if p.requires_grad}
            if own:
                _check(path, part)
                shared = any(owners[id(p)] > 1 for p in own.values())
                mine = {name: places[id(p)] for name, p in own.items()}
                self._layers.append(TABLE[type(part)](part, mine, self, anchor, shared=shared))
        self.open()

    def open(self) -> None:
        """The layers are used in place of torch's."""
        for layer in self._layers:
            layer.module.forward = layer

    def parts(self, batch: Batch) -> Sequence[Part]:
        """As `PerExample.parts`."""
        self.rows = len(batch[0])
        self._products.clear()
        self._gradients.clear()
        for layer in self._layers:
            layer.calls = 0
        losses_of(self._task, self._module, batch).sum().backward()  # type: ignore[no-untyped-call]
        found: list[Part] = [*self._products, *self._gradients.values()]
        self._products.clear()
        self._gradients.clear()
        return found

    def take(self, place: slice, each: Tensor) -> None:
        """As `Sink.take`."""
        before = self._gradients.get(place.start)
        self._gradients[place.start] = Gradients(place, each if before is None else before.each + each, self._wide)

    def take_products(self, weight: slice | None, bias: slice | None, left: Tensor, right: Tensor) -> None:
        """As `Sink.take_products`."""
        self._products.append(Products(weight, bias, left, right, self._wide))

    def close(self) -> None:
        """The module is as it was."""
        for layer in self._layers:
            del layer.module.forward


class Hooked:
    """Opacus' hooks: any model that Opacus trains."""

    def __init__(self, task: Task, flat: Flat, wide: torch.dtype) -> None:
        from opacus.grad_sample import GradSampleHooks

        self._task, self._module, self._wide = task, flat.module, wide
        self._hooks = GradSampleHooks(flat.module, loss_reduction="sum")
        places = _places(flat.module)
        self._trainable = [(p, places[id(p)]) for p in flat.module.parameters() if p.requires_grad]

    def parts(self, batch: Batch) -> Sequence[Part]:
        """As `PerExample.parts`."""
        self._forget()
        with quiet_hooks():
            losses_of(self._task, self._module, batch).sum().backward()  # type: ignore[no-untyped-call]
        found = []
        for p, place in self._trainable:
            each: Tensor | None = vars(p)["grad_sample"]
            vars(p)["grad_sample"] = None
            if each is not None:
                found.append(Gradients(place, each.reshape(len(batch[0]), -1), self._wide))
        return found

    def _forget(self) -> None:
        """Drops what an interrupted pass left in Opacus' hooks: its gradients would count as zero from then on."""
        for module in self._module.modules():
            vars(module).pop("activations", None)
            vars(module).pop("max_batch_len", None)
        for p, _ in self._trainable:
            vars(p).update(grad_sample=None, _forward_counter=0)
            vars(p).pop("_current_grad_sample", None)


def losses_of(task: Task, module: nn.Module, batch: Batch) -> Tensor:
    """The loss of each example, (B,).

    Raises:
        ConfigError: the task returns another shape.
    """
    count, losses = len(batch[0]), task.loss(module, batch)
    if losses.shape != (count,):
        raise ConfigError(
            f"task '{type(task).__name__}': loss has shape {tuple(losses.shape)} for {count} examples; "
            "it must be one number an example"
        )
    return losses


def _places(module: nn.Module) -> dict[int, slice]:
    """By the parameter's id; the order is that of `fedsus.learning.parameters`."""
    places, start = {}, 0
    for p in module.parameters():
        if p.requires_grad:
            places[id(p)] = slice(start, start + p.numel())
            start += p.numel()
    return places


def _check(path: str, part: nn.Module) -> None:
    where = f"'{path or 'model'}' ({type(part).__name__})"
    if type(part) not in TABLE:
        raise NotLayerwise(f"{where} has trainable parameters of its own")
    hooked = any(getattr(part, name) for name in _HOOKS) or "forward" in vars(part)
    if hooked or not {name for name, _ in part.named_parameters()} <= _NAMES:
        raise NotLayerwise(f"{where} has hooks, a forward pass or parameters that torch's own layer has not")


@contextmanager
def quiet_hooks() -> Iterator[None]:
    """Without torch's warning that a first layer's inputs need no gradient: Opacus uses those of the outputs alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing when gradients are computed", UserWarning)
        yield
