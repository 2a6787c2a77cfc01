"""What a worker process does: loads task and data, then trains the blocks that it is handed."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from fedsus.rounds.messages import Request
    from fedsus.types import Ring
    from fedsus_simulations.clients.blocks import Block
    from fedsus_simulations.workers.inline import Inline, Recipe
    from fedsus_simulations.workers.training import Outcome

_here: list[Inline] = []
_asked: list[Request] = []


@dataclass(frozen=True, slots=True)
class Started:
    """What a process says when it can train: the seconds and bytes of memory that it took."""

    seconds: float
    memory: int


def follow_parent() -> None:
    """End when the parent does, even if it is killed: nobody would hand over anything any more."""
    parent = parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="fedsus-parent", daemon=True).start()


def start(recipe: Recipe, asked: float) -> Started:
    """Load; ``asked``: when the process was asked for, in seconds since the epoch."""
    _here[:] = [recipe.worker()]
    return Started(time.time() - asked, peak_memory())


def tell(request: Request) -> None:
    """Plan and model of the blocks that follow."""
    _asked[:] = [request]


def totals(blocks: Sequence[Block]) -> tuple[Ring, list[Outcome]]:
    """As `added`, by the worker of this process."""
    return added(_here[0], _asked[0], blocks)


def rings(blocks: Sequence[Block]) -> list[tuple[NDArray[np.uint32], Outcome]]:
    """As `Inline.encoded`, by the worker of this process."""
    return list(_here[0].encoded(_asked[0], blocks))


def added(worker: Inline, request: Request, blocks: Sequence[Block]) -> tuple[Ring, list[Outcome]]:
    """The sum of some blocks, (size,) uint32, and what became of each."""
    sums = worker.trained(request, blocks)
    total, outcome = next(sums)
    outcomes = [outcome]
    for part, outcome in sums:
        np.add(total, part, out=total)
        outcomes.append(outcome)
    return total, outcomes


def peak_memory() -> int:
    """The most memory that this process had, in bytes."""
    try:
        # Not getrusage: a process that another one starts is told its starter's peak there.
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
