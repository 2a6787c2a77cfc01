"""A module for one model -> a module for many, or the reason why not."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from torch import Tensor, nn

from fedsus.errors import ConfigError
from fedsus.learning.stacking import layers
from fedsus.learning.stacking.convolution import Flat1d, Grouped, Patches, edges
from fedsus.learning.stacking.recurrent import KINDS, Memory
from fedsus.learning.stacking.stack import Slot, Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Parts = tuple[dict[str, Slot], dict[str, Tensor]]
_USUAL: Final = re.compile("weight|bias")
_RECURRENT: Final = re.compile("(weight|bias)_(ih|hh)_l[0-9]+")
_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_DROPOUT: Final = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class NotStackable(ConfigError):
    """The model cannot be trained for many clients at once; the loop trainer can. One line says why."""


def stacked(module: nn.Module, stack: Stack) -> nn.Module:
    """A copy of ``module`` whose trainable layers are those of ``stack``; the rest is shared by all models.

    Raises:
        NotStackable: names the part of the model and what is not possible.
    """
    for path, p in module.named_parameters():  # a copy has no hooks
        if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None):
            raise NotStackable(f"parameter '{path}' has hooks")
    try:
        module = copy.deepcopy(module)
    except Exception as error:  # a module may hold anything
        raise NotStackable(
            f"it cannot be copied: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        ) from None
    slots = _slots(module)
    _check_alone(module)
    made: dict[int, nn.Module] = {}
    for path, part in list(module.named_modules(remove_duplicate=False)):
        own = dict(part.named_parameters(recurse=False))
        _check_dropout(path, part)
        if not any(p.requires_grad for p in own.values()):
            continue
        if id(part) not in made:
            made[id(part)] = _layer(path, part, own, slots, stack)
        if part is module:
            module = made[id(part)]
            break
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, made[id(part)])
    for part in module.modules():
        vars(part).update(named_parameters=_no_parameters, state_dict=_no_parameters)
    return module


def _no_parameters(*_: object, **__: object) -> NoReturn:
    raise NotStackable("its forward pass or loss asks for all parameters, such as for a penalty")


def _slots(module: nn.Module) -> dict[int, Slot]:
    """By the parameter's id; the order is that of `fedsus.learning.parameters`."""
    slots, start = {}, 0
    for _, p in module.named_parameters():
        if p.requires_grad:
            slots[id(p)] = Slot(start, p.shape)
            start += p.numel()
    return slots


def _check_alone(module: nn.Module) -> None:
    owners: dict[int, str] = {}
    for path, part in module.named_modules():
        for name, p in part.named_parameters(recurse=False, remove_duplicate=False):
            if p.requires_grad and id(p) in owners:
                raise NotStackable(f"'{path}.{name}' is the same parameter as '{owners[id(p)]}'")
            owners[id(p)] = f"{path}.{name}"


def _check_dropout(path: str, part: nn.Module) -> None:
    chance = part.p if isinstance(part, _DROPOUT) else getattr(part, "dropout", 0.0)
    if isinstance(chance, float | int) and chance > 0:
        raise NotStackable(f"'{path}' ({type(part).__name__}) drops at random, which clients would draw together")


def _layer(path: str, part: nn.Module, own: Mapping[str, nn.Parameter], slots: Mapping[int, Slot], stack: Stack) -> Any:
    where = f"'{path or 'model'}' ({type(part).__name__})"
    make = _TABLE.get(type(part))
    if make is None:
        raise NotStackable(f"{where} has trainable parameters of its own and is none of {', '.join(sorted(_names()))}")
    expected = _RECURRENT if type(part) in KINDS else _USUAL
    hooked = any(getattr(part, name) for name in _HOOKS)
    if hooked or "forward" in vars(part) or not all(expected.fullmatch(name) for name in own):
        raise NotStackable(f"{where} has hooks, a forward pass or parameters that torch's own layer has not")
    mine = {name: slots[id(p)] for name, p in own.items() if p.requires_grad}
    frozen = {name: p.detach() for name, p in own.items() if not p.requires_grad}
    return make(where, part, stack, (mine, frozen))


def _linear(_where: str, _part: Any, stack: Stack, parts: Parts) -> nn.Module:
    return layers.Linear(stack, *parts)


def _embedding(where: str, part: nn.Embedding, stack: Stack, parts: Parts) -> nn.Module:
    if part.max_norm is not None or part.scale_grad_by_freq or part.sparse:
        raise NotStackable(f"{where} uses max_norm, scale_grad_by_freq or sparse")
    return layers.Embedding(stack, *parts, part.padding_idx)


def _convolution(where: str, part: nn.Conv1d | nn.Conv2d, stack: Stack, parts: Parts) -> nn.Module:
    if part.padding_mode != "zeros":
        raise NotStackable(f"{where} pads by '{part.padding_mode}', not by 'zeros'")
    try:
        edges(part)
    except ValueError:
        raise NotStackable(f"{where} pads one side by more than the other: its kernel is even") from None
    plain = part.groups == 1 and set(part.dilation) == {1}
    layer = (Patches if plain else Grouped)(stack, *parts, part)
    return Flat1d(layer) if isinstance(part, nn.Conv1d) else layer


def _group_norm(_where: str, part: nn.GroupNorm, stack: Stack, parts: Parts) -> nn.Module:
    return layers.Normalised(layers.group_norm(part), layers.Scale(stack, *parts, channels=True))


def _layer_norm(_where: str, part: nn.LayerNorm, stack: Stack, parts: Parts) -> nn.Module:
    return layers.Normalised(layers.layer_norm(part), layers.Scale(stack, *parts, channels=False))


def _recurrent(where: str, part: nn.RNNBase, stack: Stack, parts: Parts) -> nn.Module:
    if not part.batch_first or part.bidirectional or part.proj_size or getattr(part, "nonlinearity", "tanh") != "tanh":
        raise NotStackable(f"{where} must be batch_first, of one direction, without projection and with tanh")

    def named(of: str, number: int) -> Parts:
        names = {"weight": f"weight_{of}_l{number}", "bias": f"bias_{of}_l{number}"}
        slots, frozen = ({n: mine[own] for n, own in names.items() if own in mine} for mine in parts)
        return slots, frozen  # type: ignore[return-value]

    kind = KINDS[type(part)]
    made = [(layers.Linear(stack, *named("ih", i)), kind(stack, *named("hh", i))) for i in range(part.num_layers)]
    return Memory(made, isinstance(part, nn.LSTM))


_TABLE: Final[Mapping[type[nn.Module], Callable[[str, Any, Stack, Parts], nn.Module]]] = {
    nn.Linear: _linear,
    nn.Embedding: _embedding,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.LSTM: _recurrent,
    nn.GRU: _recurrent,
    nn.RNN: _recurrent,
}


def _names() -> list[str]:
    return [kind.__name__ for kind in _TABLE]
