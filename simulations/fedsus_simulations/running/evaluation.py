"""Central evaluation: the model after a round, on the data's own test part, which no client has.

One line of ``central.jsonl`` a round: ``{"metrics": {...}, "round": 5}``; round 0 is the initial model. A journal has
no place for it: in a deployment nobody holds such data.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from fedsus.errors import CorruptionError
from fedsus.journal.disk import Disk, fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn

    from fedsus.tasks.task import Batch, Task
    from fedsus.types import Vector

NAME: Final = "central.jsonl"
Metrics = dict[str, float]


@dataclass(slots=True)
class Central:
    """Evaluates models, and keeps what it found in the run's folder.

    Args:
        task: says the metrics.
        batch: the test part; None where the data have none, and nothing is evaluated.
        folder: the run's.
        every: rounds between two evaluations; 0 for none.
        rounds: of the run: the last is evaluated whatever ``every`` is, unless it is 0.
        threads: of torch's.
    """

    task: Task
    batch: Batch | None
    folder: Path
    every: int
    rounds: int
    threads: int = 1
    found: dict[int, Metrics] = field(default_factory=dict)
    _module: nn.Module | None = field(default=None, init=False)

    def recover(self) -> None:
        """Take over what an earlier process wrote; an unfinished last line is removed.

        Raises:
            CorruptionError: a line that is none of ours.
        """
        path = self.folder / NAME
        if not path.exists():
            return
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        self.found.update(read(self.folder))

    def due(self, round: int) -> bool:
        """Whether the model after a round is to be evaluated, and was not yet."""
        if self.batch is None or self.every == 0 or round in self.found:
            return False
        return round % self.every == 0 or round == self.rounds

    def check(self, last: int) -> None:
        """Compare what was taken over with the last round that was released: a crash leaves that one out, no other.

        Raises:
            CorruptionError: lines are missing, or are of rounds that were not released.
        """
        missing = [round for round in range(last) if self.due(round)]
        early = [round for round in self.found if round > last]
        if missing:
            raise CorruptionError(f"{self.folder / NAME}: the line of round {missing[0]} is missing")
        if early:
            raise CorruptionError(f"{self.folder / NAME}: has round {early[0]}, and the journal ends with round {last}")

    def __call__(self, round: int, model: Vector) -> None:
        """Evaluate the model after a round, if it is due.

        Raises:
            EnvironmentFault: the disk is full; evaluate again when the run is resumed.
        """
        if not self.due(round):
            return
        with _threads(self.threads):
            found = self._measured(model)
        _append(self.folder / NAME, json.dumps({"round": round, "metrics": found}, sort_keys=True).encode() + b"\n")
        self.found[round] = found

    def _measured(self, model: Vector) -> Metrics:
        from fedsus.learning import evaluation
        from fedsus.learning.parameters import load_into

        if self.batch is None:
            return {}
        if self._module is None:
            self._module = self.task.model(0)
        load_into(self._module, model)
        sums = evaluation.totals(self.task, self._module, self.batch) / max(len(self.batch[0]), 1)
        found = {name: float(value) for name, value in zip(self.task.bounds, sums, strict=True)}
        return found if np.isfinite(sums).all() else {}


def read(folder: Path) -> dict[int, Metrics]:
    """Round -> metrics of a run's folder; empty where nothing was evaluated. An unfinished last line is left out.

    Raises:
        CorruptionError: a line that is none of ours, by number.
    """
    path = folder / NAME
    found: dict[int, Metrics] = {}
    if not path.exists():
        return found
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise CorruptionError(f"{path}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            found[int(entry["round"])] = {str(name): float(value) for name, value in entry["metrics"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise CorruptionError(f"{path}: line {number}: not a round and its metrics") from None
    return found


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)


def _append(path: Path, line: bytes) -> None:
    disk = Disk()
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            disk.write(file, line)
            disk.sync(file)
        finally:
            os.close(file)
    except OSError as error:
        raise fault(path, error) from error
