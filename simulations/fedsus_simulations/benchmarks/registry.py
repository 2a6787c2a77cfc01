"""Which benchmarks there are: a file with ``run(quick) -> dict`` each, and a row here."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from fedsus.errors import ConfigError

if TYPE_CHECKING:
    from fedsus_simulations.benchmarks import carbon_hours
    from fedsus_simulations.benchmarks.result import Result
    from fedsus_simulations.benchmarks.simulate_peers import Places
    from fedsus_simulations.benchmarks.utility_kept import Options

    Draw = Callable[[Result, Path], Sequence[Path]]

Run = Callable[..., dict[str, Any]]
"""Takes whether to use quick sizes, and `Places` where it has peers; returns the fields of a `result.Result` that are
its own."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A row: the module that measures, and one line for ``fedsus bench list``.

    Attributes:
        draws: its module has ``draw(result, folder)`` too, which writes a picture.
        peers: it looks for peers and data where it is told.
        seeds: it makes run after run, which `Options` can keep.
        data: it looks for data where it is told.
        trace: it looks for a trace of carbon intensity where it is told.
    """

    name: str
    module: str
    summary: str
    draws: bool = False
    peers: bool = False
    seeds: bool = False
    data: bool = False
    trace: bool = False

    def run(self, quick: bool, places: Places | Options | carbon_hours.Options | None = None) -> dict[str, Any]:
        """Measure; seconds to minutes, and full sizes of what makes many runs an hour or more."""
        measure: Run = importlib.import_module(self.module).run
        told = (self.peers or self.seeds or self.data or self.trace) and places is not None
        return measure(quick, places) if told else measure(quick)

    def draw(self, result: Result, folder: Path) -> Sequence[Path]:
        """Write the picture of a result; the files."""
        draw: Draw = importlib.import_module(self.module).draw
        return draw(result, folder)


def _row(
    name: str,
    module: str,
    summary: str,
    *,
    draws: bool = False,
    peers: bool = False,
    seeds: bool = False,
    data: bool = False,
    trace: bool = False,
) -> Benchmark:
    return Benchmark(name, f"{__package__}.{module}", summary, draws, peers, seeds, data, trace)


_ROWS: Final = (
    _row("deployed-round", "deployed_round", "seconds a round, three agents, 100k parameters; against stock Flower"),
    _row("secure-round", "secure_round", "seconds a round of a secure sum, four agents; against Flower's SecAgg+"),
    _row("secure-sum", "secure_sum", "a secure sum in memory, 100 clients x 1M; against Flower's SecAgg+ (needs Ray)"),
    _row("secure-scaling", "secure_scaling", "costs of a secure sum by clients and parameters; a table", draws=True),
    _row("server-memory", "server_memory", "memory of the round loop with 400 clients; against 4"),
    _row("agent", "agent", "start, memory and idle CPU of one agent; against a stock SuperNode"),
    _row("simulate-mlp", "simulate_mlp", "a simulated round, 784-64-10; against pfl-research, Flower's", peers=True),
    _row("simulate-cnn", "simulate_cnn", "a simulated round, convolutions; against pfl-research, Flower's", peers=True),
    _row("simulate-trivial", "simulate_trivial", "a simulated round, 1,000 clients, no training", peers=True),
    _row("simulate-privacy", "simulate_privacy", "a simulated round of each unit and placement; against a plain one"),
    _row(
        "utility-heart", "utility_heart", "heart disease: AUC by epsilon, local and distributed", draws=True, seeds=True
    ),
    _row("utility-fashion", "utility_fashion", "100 clients, noise in shares; against central DP-SGD", seeds=True),
    _row("utility-clients", "utility_clients", "1,000 clients, unit a client; noise in shares or central", seeds=True),
    _row("compression", "compression", "uplinks of a share of the coordinates: accuracy, bytes, joules", seeds=True),
    _row("downlink", "downlink", "models as differences: accuracy, bytes down, time of the codec", seeds=True),
    _row(
        "carbon-hours",
        "carbon_hours",
        "rounds at cleaner hours of a trace: grams; against rounds at once",
        draws=True,
        trace=True,
    ),
    _row("encode", "encode", "a million coordinates clipped, rotated, rounded, noised; against numpy's Poisson"),
    _row("dp-step", "dp_step", "a local step of DP-SGD on a device; against a plain one"),
    _row("metering", "metering", "a device's round with a meter of its energy; against one without"),
    _row(
        "joules-of-privacy",
        "joules_of_privacy",
        "joules, seconds and bytes of a round with DP, secure sum, both; against a plain one",
        draws=True,
        data=True,
    ),
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
