"""From the name of a task to the task: built-in ones, and classes that the owner's agent.toml names.

References come from files of the machine's own user. What crosses the wire is a key into the owner's table.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from fedsus.config import validate
from fedsus.errors import ConfigError

if TYPE_CHECKING:
    from fedsus.plan import Scalar
    from fedsus.tasks.task import Task

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "heart": "fedsus.tasks.heart:HeartDisease",
        "fashion-mnist": "fedsus.tasks.fashion:FashionMnist",
        "watch": "fedsus.tasks.watch:Watch",
        "shakespeare": "fedsus.tasks.shakespeare:Shakespeare",
        "adult": "fedsus.tasks.adult:Adult",
    }
)
"""Name of a built-in task -> where its class is."""

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_METHODS = ("model", "load", "loss", "measure")


def resolve(reference: str) -> type[Task]:
    """The class of a built-in task's name, or of ``module:Class``.

    Raises:
        ConfigError: no such name, module or class, or a class that is not a task.
    """
    place = BUILT_IN.get(reference, reference)
    if not _REFERENCE.fullmatch(place):
        close = difflib.get_close_matches(reference, BUILT_IN, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"built in: {', '.join(BUILT_IN)}; or 'module:Class'"
        raise ConfigError(f"task '{reference}': unknown; {hint}")
    module, _, name = place.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), name, None)
    except Exception as error:  # the module is the owner's own code: whatever it raises, they see one line
        lines = str(error).splitlines() or [""]
        raise ConfigError(f"task '{reference}': module '{module}' cannot be imported: {lines[0]}") from error
    if found is None:
        raise ConfigError(f"task '{reference}': module '{module}' has no '{name}'")
    _check_class(reference, found)
    return found  # type: ignore[no-any-return]


def build(task_class: type[Task], settings: Mapping[str, Scalar]) -> Task:
    """A task with ``settings``, validated by its own `Settings`.

    Raises:
        ConfigError: unknown setting, wrong type or out of range: field, value and range in one line; or a task whose
            ``bounds`` are missing, not finite or reversed.
    """
    task: Any = task_class
    made = task(validate(dict(settings), task_class.Settings, f"settings of task '{task_class.__name__}'"))
    bounds = getattr(made, "bounds", None)
    if not isinstance(bounds, Mapping) or not bounds:
        raise ConfigError(f"task '{task_class.__name__}': 'bounds' must map each metric to (low, high)")
    for metric, (low, high) in bounds.items():
        if not -float("inf") < low < high < float("inf"):
            raise ConfigError(
                f"task '{task_class.__name__}': bounds of '{metric}' = ({low}, {high}): must be low < high"
            )
    return made  # type: ignore[no-any-return]


def _check_class(reference: str, found: Any) -> None:
    if not isinstance(found, type):
        raise ConfigError(f"task '{reference}': not a class")
    absent = [method for method in _METHODS if not callable(getattr(found, method, None))]
    if absent:
        raise ConfigError(f"task '{reference}': not a task: it has no method '{absent[0]}'")
    settings = getattr(found, "Settings", None)
    if not (isinstance(settings, type) and issubclass(settings, BaseModel)):
        raise ConfigError(f"task '{reference}': not a task: 'Settings' must be a pydantic model")
    if settings.model_config.get("extra") != "forbid" or not settings.model_config.get("frozen"):
        raise ConfigError(f"task '{reference}': 'Settings' must be frozen and forbid unknown fields")
