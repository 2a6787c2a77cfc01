"""Blocks trained in processes of this machine: each loads task and data, then is handed blocks until none are left.

One executor a process, so that one that dies is known by name and takes no other with it.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final

from fedsus.errors import EnvironmentFault
from fedsus_simulations.clients.blocks import Added, Encoded
from fedsus_simulations.workers import process_worker
from fedsus_simulations.workers.inline import Heard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fedsus.rounds.messages import Request
    from fedsus_simulations.clients.blocks import Block
    from fedsus_simulations.workers.inline import Recipe
    from fedsus_simulations.workers.process_worker import Started

log = logging.getLogger("fedsus.simulation")

_AHEAD: Final = 2
"""Groups of blocks that a process has: it trains one while the other waits in its queue."""
_TRIES: Final = 2
"""A group of blocks is lost with its process once; the second time the run ends."""


@dataclass(slots=True)
class _Process:
    """One process, and its executor.

    Attributes:
        told: what was asked last; its plan and model are there.
        groups: that it was handed and has not given back.
    """

    number: int
    executor: ProcessPoolExecutor
    pid: Future[int]
    starting: Future[Started]
    told: Request | None = None
    groups: int = 0

    @classmethod
    def start(cls, number: int, recipe: Recipe) -> _Process:
        """Starts at once; `ready` waits for it."""
        executor = ProcessPoolExecutor(1, get_context("spawn"), process_worker.follow_parent)
        # Ctrl-C reaches every process of a terminal; the parent ends its own ones. A mask is inherited, and no moment
        # is left in which one would print a traceback.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            pid = executor.submit(os.getpid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return cls(number, executor, pid, executor.submit(process_worker.start, recipe, time.time()))

    def ready(self) -> Started:
        """Wait until it can train.

        Raises:
            EnvironmentFault: it ended before.
            ConfigError, DataError: what it found instead of its data.
        """
        try:
            return self.starting.result()
        except BrokenExecutor:
            raise EnvironmentFault(
                f"worker process {self.number + 1} ended while it started; is there enough memory for "
                "simulation.workers?"
            ) from None

    def hand(self, work: Callable[..., Any], request: Request, blocks: Sequence[Block]) -> Future[Any]:
        """Hand over a group of blocks; plan and model go before the first one of a request."""
        self.groups += 1
        try:
            if self.told is not request:
                self.told = request
                self.executor.submit(process_worker.tell, request)
            return self.executor.submit(work, blocks)
        except BrokenExecutor as error:
            broken: Future[Any] = Future()
            broken.set_exception(error)
            return broken

    def end(self, dead: bool = False) -> None:
        """End it, whatever it does, and wait until it is gone; a ``dead`` one's number may be another's already."""
        if not dead:
            with suppress(BrokenExecutor, CancelledError, ProcessLookupError):
                os.kill(self.pid.result(), signal.SIGKILL)
        self.executor.shutdown(cancel_futures=True)


@dataclass(slots=True)
class Processes:
    """Implements `fedsus_simulations.clients.blocks.Workers` over processes.

    Args:
        processes: started, in order.
        threads: blocks that each trains at the same time.
    """

    recipe: Recipe
    processes: list[_Process]
    threads: int
    _heard: Heard = field(default_factory=Heard, init=False)

    @classmethod
    def start(cls, recipe: Recipe) -> Processes:
        """Start as many as the scenario says, all at once.

        Raises:
            EnvironmentFault: one ended while it started.
            ConfigError, DataError: what one found instead of its data.
        """
        asked = recipe.scenario.simulation
        made = cls(recipe, [_Process.start(number, recipe) for number in range(asked.workers)], asked.threads)
        try:
            started = [process.ready() for process in made.processes]
        except BaseException:
            made.close()
            raise
        log.info(
            "%d worker processes are ready after %.1f s, with %d MB each",
            len(started),
            max(one.seconds for one in started),
            max(one.memory for one in started) // 10**6,
        )
        return made

    def totals(self, request: Request, blocks: Sequence[Block]) -> Iterator[Added]:
        """As `Workers`."""
        groups = self._groups(blocks)
        for number, (total, outcomes) in self._given_back(process_worker.totals, request, blocks, groups, len(groups)):
            yield Added(groups[number], total, frozenset().union(*(self._heard(request, each) for each in outcomes)))

    def rings(self, request: Request, blocks: Sequence[Block]) -> Iterator[Encoded]:
        """As `Workers`; not many more groups are trained than were asked for."""
        groups, early, due = self._groups(blocks), dict[int, Any](), 0
        ahead = _AHEAD * len(self.processes)
        for number, given in self._given_back(process_worker.rings, request, blocks, groups, ahead):
            early[number] = given
            while due in early:
                for rings, outcome in early.pop(due):
                    yield Encoded(rings, self._heard(request, outcome))
                due += 1

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.end()

    def _groups(self, blocks: Sequence[Block]) -> list[list[int]]:
        """Numbers of the blocks that are handed over together: enough for all threads of a process."""
        size = 1 if self.threads == 1 else min(4 * self.threads, -(-len(blocks) // len(self.processes)))
        return [list(range(start, min(start + size, len(blocks)))) for start in range(0, len(blocks), size)]

    def _given_back(
        self, work: Callable[..., Any], request: Request, blocks: Sequence[Block], groups: list[list[int]], ahead: int
    ) -> Iterator[tuple[int, Any]]:
        """Number and result of each group as they come, at most ``ahead`` of the first that is missing."""
        waiting, missing, tries = deque(range(len(groups))), set(range(len(groups))), Counter[int]()
        running: dict[Future[Any], tuple[_Process, int]] = {}
        first = 0
        try:
            while missing:
                while first not in missing:
                    first += 1
                while waiting and waiting[0] < first + ahead and (process := self._idlest()) is not None:
                    number = waiting.popleft()
                    future = process.hand(work, request, [blocks[block] for block in groups[number]])
                    running[future] = process, number
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    process, number = running.pop(future)
                    process.groups -= 1
                    try:
                        result = future.result()
                    except BrokenExecutor:
                        tries[number] += 1
                        self._replace(process, request, tries[number])
                        waiting.appendleft(number)
                    else:
                        missing.remove(number)
                        yield number, result
        finally:
            for future, (process, _) in running.items():
                future.cancel()
                process.groups -= 1

    def _idlest(self) -> _Process | None:
        """The process with the fewest groups; None where all have as many as they may."""
        process = min(self.processes, key=lambda each: each.groups)
        return process if process.groups < _AHEAD else None

    def _replace(self, process: _Process, request: Request, tries: int) -> None:
        """Start another in the place of a process that died."""
        where = f"round {request.plan.round}: worker process {process.number + 1} ended (killed, or out of memory?)"
        if tries >= _TRIES:
            raise EnvironmentFault(
                f"{where} on blocks that were lost before; resume the run with fewer simulation.workers"
            )
        at = process.number
        if self.processes[at] is not process:
            return
        log.warning("%s; another is started, and trains its blocks again", where)
        process.end(dead=True)
        self.processes[at] = _Process.start(at, self.recipe)
        self.processes[at].ready()
