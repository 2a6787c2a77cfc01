"""The owner's policy as it stands now: ``policy.toml`` is read again when it was changed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeAlias

from fedsus.config import load
from fedsus.owner.policy import Policy

log = logging.getLogger("fedsus.client")
_Mark: TypeAlias = tuple[int, int, int]


class StandingPolicy:
    """An owner who takes a grant back must not have to think of a restart.

    Args:
        path: policy.toml.

    Raises:
        ConfigError: the file is missing or wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark = _mark(path)
        self._policy = load(path, Policy)

    def current(self) -> Policy:
        """The policy that the file holds now.

        Raises:
            ConfigError: it was changed, and is missing or wrong: nothing is granted until it is mended.
        """
        mark = _mark(self._path)
        if mark is None or mark != self._mark:
            self._policy = load(self._path, Policy)
            self._mark = mark
            log.info("%s was changed and is read again", self._path)
        return self._policy


def _mark(path: Path) -> _Mark | None:
    """What changes when a file is edited or replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
