"""The owner's policy as it stands now: ``policy.toml`` is read again when it was changed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from fedsus.config import load
from fedsus.errors import ConfigError
from fedsus.owner.policy import DayBudget, Policy

if TYPE_CHECKING:
    from fedsus.rounds.device_half.answers import Answer

log = logging.getLogger("fedsus.client")
AWAY_SECONDS: Final = 20.0
"""A server that waits looks every 10 s who is connected."""

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


class Raised:
    """Whether the owner changed the day's budget after a refusal.

    The server, which may have been told an hour, waits for that; who leaves and comes back is asked again.
    """

    def __init__(self, policy: StandingPolicy) -> None:
        self._policy = policy
        self._declined: DayBudget | None = None

    def answered(self, answer: Answer) -> None:
        """Note whether anything was declined under the budget as it stands."""
        self._declined = None if answer.declined is None else self._current()

    def due(self) -> bool:
        """Whether it is time to leave; a second time not, before another refusal."""
        if self._declined is None or self._current() in (None, self._declined):
            return False
        self._declined = None
        log.info("[budget] was changed: away for %.0f s, so that the server asks again", AWAY_SECONDS)
        return True

    def _current(self) -> DayBudget | None:
        try:
            return self._policy.current().budget
        except ConfigError:
            return None  # half-edited: the next request says so


def _mark(path: Path) -> _Mark | None:
    """What changes when a file is edited or replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
