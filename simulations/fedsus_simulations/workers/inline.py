"""Blocks of a cohort trained in this process; and the recipe by which another process trains the same."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from fedsus_simulations.clients.blocks import Added, Encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from fedsus.rounds.messages import Request
    from fedsus.types import Ring
    from fedsus_simulations.clients.blocks import Block
    from fedsus_simulations.scenario.config import Scenario
    from fedsus_simulations.workers.training import BlockTrainer, Outcome

log = logging.getLogger("fedsus.simulation")

T = TypeVar("T")


@dataclass(slots=True)
class Heard:
    """Tells the user what became of blocks: each note once, and of each round why clients refused."""

    _notes: set[str] = field(default_factory=set, init=False)

    def __call__(self, request: Request, outcome: Outcome) -> frozenset[int]:
        """The positions of those who refused."""
        if outcome.note and outcome.note not in self._notes:
            self._notes.add(outcome.note)
            log.warning("%s", outcome.note)
        for reason, count in Counter(outcome.refused.values()).items():
            log.warning("round %d: %d client(s) refused: %s", request.plan.round, count, reason)
        return frozenset(outcome.refused)


@dataclass(slots=True)
class Inline:
    """One worker: this process, with threads that train a block each.

    Each uses one thread of torch's, so their number changes no integer. Measured, that is also quicker than torch's
    own threads, which meet at each of many small operations.

    Args:
        trainer: each thread makes a twin of it.
        threads: blocks that are trained at the same time.
    """

    trainer: BlockTrainer
    threads: int = 1
    _heard: Heard = field(default_factory=Heard, init=False)
    _local: threading.local = field(default_factory=threading.local, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _pool: ThreadPoolExecutor | None = field(default=None, init=False)

    def totals(self, request: Request, blocks: Sequence[Block]) -> Iterator[Added]:
        """As `Workers`, in the order of the blocks."""
        for number, (total, outcome) in enumerate(self.trained(request, blocks)):
            yield Added([number], total, self._heard(request, outcome))

    def rings(self, request: Request, blocks: Sequence[Block]) -> Iterator[Encoded]:
        """As `Workers`; blocks are trained not long before they are asked for."""
        for rings, outcome in self.encoded(request, blocks):
            yield Encoded(rings, self._heard(request, outcome))

    def trained(self, request: Request, blocks: Sequence[Block]) -> Iterator[tuple[Ring, Outcome]]:
        """As `BlockTrainer.total`, block by block."""
        return self._each(lambda trainer, block: trainer.total(request, block), blocks)

    def encoded(self, request: Request, blocks: Sequence[Block]) -> Iterator[tuple[NDArray[np.uint32], Outcome]]:
        """As `BlockTrainer.rings`, block by block."""
        return self._each(lambda trainer, block: trainer.rings(request, block), blocks)

    def _each(self, work: Callable[[BlockTrainer, Block], T], blocks: Sequence[Block]) -> Iterator[T]:
        if self.threads == 1 or len(blocks) == 1:
            for block in blocks:
                yield work(self.trainer, block)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, "fedsus-block")
        waiting: deque[Future[T]] = deque()
        try:
            for block in blocks:
                waiting.append(self._pool.submit(self._one, work, block))
                if len(waiting) > 2 * self.threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            self._drop(waiting)

    def _one(self, work: Callable[[BlockTrainer, Block], T], block: Block) -> T:
        if not hasattr(self._local, "trainer"):
            self._local.trainer = self.trainer.twin(self._stop.is_set)
        return work(self._local.trainer, block)

    def _drop(self, waiting: Iterable[Future[T]]) -> None:
        """End what nobody waits for any more, within a batch."""
        self._stop.set()
        wait([future for future in waiting if not future.cancel()])
        self._stop.clear()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._stop.set()
            self._pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What another process needs to train the same clients: it loads task and data anew.

    Args:
        root: folder in which data sets lie by name.
        reference: the task's class, a built-in name or ``module:Class``.
    """

    scenario: Scenario
    root: Path
    reference: str

    def worker(self) -> Inline:
        """A worker of this process.

        Raises:
            ConfigError, DataError: as in the process that runs the rounds, unless this machine has other files.
        """
        import torch

        from fedsus.learning import optimizers
        from fedsus.learning.settings import Compute
        from fedsus.tasks import registry
        from fedsus_simulations.clients.partitions import population_of
        from fedsus_simulations.workers.training import BlockTrainer

        scenario, asked = self.scenario, self.scenario.simulation
        task = registry.build(registry.resolve(self.reference), scenario.task.settings)
        population = population_of(scenario, task, self.root)
        optimizers.preload(torch.zeros(1, requires_grad=True))
        return Inline(BlockTrainer(task, population, Compute("cpu"), scenario.seed, asked.trainer), asked.threads)
