"""Blocks that were measured, kept line by line: a benchmark of many of them can be stopped and gone on with.

A block is measured within one execution, whole or not at all; its ratios are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fedsus.errors import ConfigError
from fedsus_simulations.benchmarks import joules_blocks
from fedsus_simulations.benchmarks.joules_spent import Spent
from fedsus_simulations.benchmarks.result import load

if TYPE_CHECKING:
    from fedsus_simulations.benchmarks.utility_kept import Kept, Row


class Named(Protocol):
    """A way of a run."""

    @property
    def name(self) -> str:
        """Unlike the others'."""


W = TypeVar("W", bound=Named)
Measure = Callable[[list[W], int], Mapping[str, Spent]]
"""Of a block's order and number: way -> what its run used."""


def blocks(
    kept: Kept, asked: Mapping[str, Any], ways: Sequence[W], number: int, measure: Measure[W], seed: int
) -> tuple[dict[str, list[Spent]], list[float]]:
    """Way -> what its run of each block used, from block 0 on; and the load averages when each block had ended.

    Args:
        kept: blocks that are there are not measured again.
        asked: what else a block depends on.
        seed: of the orders.

    Raises:
        ConfigError: what was kept is no such block.
        RunFailed: a round lost a device, or a figure is missing.
    """
    found: dict[str, list[Spent]] = {way.name: [] for way in ways}
    loads = []
    for block, order in enumerate(joules_blocks.orders(ways, number, seed)):

        def measured(order: list[W] = order, block: int = block) -> Row:
            runs = measure(order, block)
            return {"load": load(), "runs": {name: one.written() for name, one in runs.items()}}

        row = kept.run({**asked, "block": block, "order": [way.name for way in order]}, measured)
        try:
            loads.append(float(row["load"]))
            for name in found:
                found[name].append(Spent.read(row["runs"][name]))
        except (ValueError, TypeError, KeyError):
            raise ConfigError(f"{kept.file}: block {block} of {dict(asked)} cannot be read; remove its line") from None
    return found, loads
