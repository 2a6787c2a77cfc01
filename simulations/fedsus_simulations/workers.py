"""Where blocks of a cohort are trained: in this process, in several, or on a Ray cluster.

A block is the unit: its clients are trained together, so the same blocks give the same integers wherever they run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from fedsus.rounds.messages import Request
    from fedsus.types import Ring
    from fedsus_simulations.scenario import Scenario
    from fedsus_simulations.training import BlockTrainer

Block = Sequence[int]
"""Positions of clients in the population."""


class Workers(Protocol):
    """Trains the blocks of one request."""

    def totals(self, request: Request, blocks: Sequence[Block]) -> Iterator[tuple[int, Ring]]:
        """The number of each block and the sum of its clients' integers, (size,) uint32, as they come.

        Raises:
            RunFailed: a worker failed more often than it may.
        """
        ...

    def rings(self, request: Request, blocks: Sequence[Block]) -> Iterator[NDArray[np.uint32]]:
        """The integers of each block's clients, (m, size) uint32, in the order of the blocks."""
        ...

    def close(self) -> None:
        """Stop what was started."""
        ...


@dataclass(slots=True)
class Inline:
    """One worker: this process."""

    trainer: BlockTrainer

    def totals(self, request: Request, blocks: Sequence[Block]) -> Iterator[tuple[int, Ring]]:
        """As `Workers`, in the order of the blocks."""
        for number, block in enumerate(blocks):
            yield number, self.trainer.total(request, block)

    def rings(self, request: Request, blocks: Sequence[Block]) -> Iterator[NDArray[np.uint32]]:
        """As `Workers`; each block is trained when it is asked for."""
        for block in blocks:
            yield self.trainer.rings(request, block)

    def close(self) -> None:
        """Nothing was started."""


def workers_for(scenario: Scenario, trainer: BlockTrainer, root: Path, reference: str) -> Workers:
    """The workers that a scenario asks for.

    Args:
        trainer: of this process.
        root, reference: as `fedsus_simulations.running.Simulation.of` has them: other processes load task and data anew.
    """
    del scenario, root, reference
    return Inline(trainer)
