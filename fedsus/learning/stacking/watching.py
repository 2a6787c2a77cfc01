"""What a loss does besides computing: reading values, drawing at random, remembering. None of it is apart by client.

Comparing losses would find it only where the few examples of a probe happen to bring it about.
"""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedsus.learning.stacking.converting import NotStackable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fedsus.tasks.task import Task

_READING: Final = frozenset(
    {
        *("__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__", "__array__", "__dlpack__"),
        *("item", "tolist", "numpy", "is_nonzero", "equal", "allclose", "data_ptr"),
    }
)
_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None))
_DEPTH: Final = 3


class _Reading(TorchFunctionMode):
    """Refuses what turns a tensor's values into Python's."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        if (name := getattr(func, "__name__", "")) in _READING:
            raise NotStackable(f"it reads values of tensors ({name.strip('_')}), and may decide by those of others")
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(device: torch.device) -> Iterator[None]:
    """Around a loss of several clients.

    Raises:
        NotStackable: it read the values of a tensor, or drew at random.
    """
    before = _generators(device)
    with _Reading():
        yield
    if _generators(device) != before:
        raise NotStackable("it draws at random, which clients would draw together")


def _generators(device: torch.device) -> tuple[Any, ...]:
    """States of the global generators."""
    kinds = [torch.random.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    return *(state.numpy().tobytes() for state in kinds), random.getstate(), repr(np.random.get_state())  # noqa: NPY002


def memory(task: Task, module: nn.Module) -> Callable[[], str | None]:
    """Remembers what task and model hold now. To be called after more losses: who holds something else, or None."""
    holders = {
        f"task '{type(task).__name__}'": task,
        **{f"'{path or 'model'}'": m for path, m in module.named_modules()},
    }
    before = {name: _held(holder) for name, holder in holders.items()}

    def changed() -> str | None:
        for name, holder in holders.items():
            now = _held(holder)
            for key in now.keys() | before[name].keys():
                if now.get(key) != before[name].get(key):
                    return f"{name} ({key})"
        return None

    return changed


def _held(holder: object) -> dict[str, Any]:
    return {name: _mark(value, _DEPTH) for name, value in getattr(holder, "__dict__", {}).items()}


class _Same:
    """Equal for one and the same object, which it keeps: no later one gets its address meanwhile."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def _mark(value: Any, depth: int) -> Any:
    """Equal for what has not changed; parameters and what is not known here have none."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, nn.Parameter):
        return None
    if isinstance(value, Tensor):
        return _Same(value), 0 if value.is_inference() else value._version
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if depth and isinstance(value, dict):
        return {repr(key): _mark(part, depth - 1) for key, part in value.items()}
    if depth and isinstance(value, list | tuple):
        return [_mark(part, depth - 1) for part in value]
    return None
