"""The commands that this distribution adds to `fedsus`; each is imported from its own module when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fedsus_simulations.benchmarks.cli import bench

_PLACES: Final = {"bench": "fedsus_simulations.benchmarks.cli"}


def __getattr__(name: str) -> Any:
    """The command of that name: an entry point loads one, and nothing of the others."""
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no '{name}'")
    return getattr(importlib.import_module(_PLACES[name]), name)


__all__ = ["bench"]
