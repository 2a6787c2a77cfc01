"""Central evaluation, where an operator has a file to evaluate on and asked for it (``[server] evaluate``).

The only server module that loads torch and a task's code. It reads the journal and its checkpoints from beside the
round loop, and can neither slow nor fail a run.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.errors import CorruptionError
from fedsus.journal import RoundReleased, get
from fedsus.reporting import follow

if TYPE_CHECKING:
    from fedsus.config import RunConfig
    from fedsus.types import Stop

NAME: Final = "central.jsonl"
log = logging.getLogger("fedsus.server")


class CentralEvaluation:
    """A thread that appends one line a released round to ``central.jsonl``: round and metrics.

    Args:
        folder: the run's folder.
        config: the run's; ``server.evaluate`` is an absolute path.
    """

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self._folder, self._config = folder, config
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="central", daemon=True)
        self._thread.start()

    def close(self, patience: float = 60.0) -> None:
        """Wait until what is released is evaluated."""
        self._ended.set()
        self._thread.join(patience)

    def _work(self) -> None:
        try:
            evaluate(self._folder, self._config, self._ended)
        except Exception as error:  # a task's own code may raise anything, and the run must not care
            log.error("central evaluation ended: %s", error)


def evaluate(folder: Path, config: RunConfig, ended: threading.Event) -> None:
    """Evaluate each released round that is not in ``central.jsonl`` yet, until the run is closed or ``ended``.

    Raises:
        ConfigError: the task is not installed here.
        DataError: the file does not fit the task.
    """
    import torch

    from fedsus.learning.evaluation import owner_report
    from fedsus.tasks.registry import build, resolve
    from fedsus.tasks.task import DataSource

    torch.set_num_threads(1)
    task = build(resolve(config.task.name), config.task.settings)
    shard = task.load(DataSource(Path(config.server.evaluate or "")))
    # The operator's file is for evaluation alone: all of it counts.
    batch = tuple(torch.cat(parts) for parts in zip(shard.train, shard.held_out, strict=True))
    done = _done(folder / NAME)
    with (folder / NAME).open("a", encoding="utf-8") as file:
        for entry in follow(folder, _caught_up(ended), wait=ended.wait):
            if not isinstance(entry, RoundReleased) or entry.round in done:
                continue
            try:
                model = get(folder, entry.checkpoint)["model"]
            except CorruptionError:
                continue  # an old checkpoint, removed since
            line = {"round": entry.round, "examples": len(batch[0]), **owner_report(task, model, batch)}
            file.write(json.dumps(line) + "\n")
            file.flush()


def _caught_up(ended: threading.Event) -> Stop:
    """Stops a follower after one more look at the file once the round loop is over."""
    last_look = False

    def stop() -> bool:
        nonlocal last_look
        if last_look:
            return True
        last_look = ended.is_set()
        return False

    return stop


def _done(path: Path) -> set[int]:
    """Rounds that an earlier round loop evaluated; a half-written line does not count."""
    rounds = set()
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rounds.add(int(json.loads(line)["round"]))
            except (ValueError, KeyError, TypeError):
                continue
    return rounds
