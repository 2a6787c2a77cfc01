"""Which benchmarks there are: a file with ``run(quick) -> dict`` each, and a row here."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from fedsus.errors import ConfigError

Run = Callable[[bool], dict[str, Any]]
"""Takes whether to use quick sizes; returns the fields of a `result.Result` that are its own."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A row: the module that measures, and one line for ``fedsus bench list``."""

    name: str
    module: str
    summary: str

    def run(self, quick: bool) -> dict[str, Any]:
        """Measure; seconds to minutes."""
        measure: Run = importlib.import_module(self.module).run
        return measure(quick)


def _row(name: str, module: str, summary: str) -> Benchmark:
    return Benchmark(name, f"{__package__}.{module}", summary)


_ROWS: Final = (
    _row("deployed-round", "deployed_round", "seconds a round, three agents, 100k parameters; against stock Flower"),
    _row("server-memory", "server_memory", "memory of the round loop with 400 clients; against 4"),
    _row("agent", "agent", "start, memory and idle CPU of one agent; against a stock SuperNode"),
    _row("gradient-mode", "gradient_mode", "Opacus' ways to each example's gradient; against a bare step"),
)

BENCHMARKS: Final[Mapping[str, Benchmark]] = MappingProxyType({row.name: row for row in _ROWS})


def find(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        ConfigError: there is none.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    close = difflib.get_close_matches(name, BENCHMARKS, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(BENCHMARKS)}"
    raise ConfigError(f"no benchmark '{name}'; {hint}")
