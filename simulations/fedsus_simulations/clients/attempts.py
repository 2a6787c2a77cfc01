"""What happened in each attempt of a simulation: ``simulation.jsonl``, one line an attempt, beside the journal.

A journal says what a server learns, and nothing about one client. This file says what only a simulation knows: who was
away, who fell out and who was too slow, and whose answers were given, each of which an owner is charged for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from fedsus.errors import CorruptionError
from fedsus.journal.disk import fault

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO

    from numpy.typing import NDArray

NAME: Final = "simulation.jsonl"
_MOST_CLIENTS: Final = 10_000_000
"""As ``population.clients``."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt, as it was for the clients.

    Attributes:
        round, attempt: of the plan.
        virtual: the clock when training was asked for, in virtual seconds since the run's start.
        seconds: until the server had the answers, or gave up waiting; virtual.
        registered: clients of the population.
        unavailable: those of them that were not there then.
        asked: clients that were asked to train.
        away: of these, who left since they were drawn.
        dropped: who fell out while training.
        late: whose answer came after the plan's deadline.
        answered: positions in the population of those whose answer was given in time, in the order of the cohort.
    """

    round: int
    attempt: int
    virtual: float
    seconds: float
    registered: int
    unavailable: int
    asked: int
    away: int
    dropped: int
    late: int
    answered: tuple[int, ...]

    def line(self) -> bytes:
        """Its line, without the line break."""
        return json.dumps({one.name: getattr(self, one.name) for one in fields(self)}, separators=(",", ":")).encode()

    @classmethod
    def of(cls, line: bytes) -> Self:
        """The attempt of a line.

        Raises:
            ValueError: it is none.
        """
        try:
            found = json.loads(line)
            made = cls(**found | {"answered": tuple(found["answered"])})
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(str(error)) from None
        made._check()
        return made

    def _check(self) -> None:
        counts = [getattr(self, one.name) for one in fields(self) if one.type == "int"]
        if not all(type(number) is int and number >= 0 for number in (*counts, *self.answered)):
            raise ValueError("a number is none")
        if not all(isinstance(number, int | float) for number in (self.virtual, self.seconds)):
            raise ValueError("a time is none")
        if not 0 < self.registered <= _MOST_CLIENTS or any(one >= self.registered for one in self.answered):
            raise ValueError("a client that is not registered")


class AttemptFile:
    """The file of a run, appended to.

    Raises:
        CorruptionError: a line that is no attempt.
        EnvironmentFault: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        kept = read(folder)
        self._last = kept[-1].attempt if kept else 0
        try:
            self._file: BinaryIO = self._path.open("ab")
            self._file.truncate(_whole(self._path))  # half a line of a run that was killed
        except OSError as error:
            raise fault(self._path, error) from None

    def append(self, attempt: Attempt) -> None:
        """Add a line; an attempt that is there already, as after a broken disk, is not added again."""
        if attempt.attempt <= self._last:
            return
        try:
            self._file.write(attempt.line() + b"\n")
            self._file.flush()
        except OSError as error:
            raise fault(self._path, error) from None
        self._last = attempt.attempt

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read(folder: Path) -> list[Attempt]:
    """The attempts of a run so far; none where it has no such file. Half a last line is left out.

    Raises:
        CorruptionError: a line that is no attempt.
    """
    path, found = folder / NAME, []
    if not path.exists():
        return []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                found.append(Attempt.of(line))
            except ValueError as error:
                raise CorruptionError(f"{path}: line {number}: no attempt of a simulation: {error}") from None
    return found


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What happened to the clients of a run.

    Attributes:
        asked, away, dropped, late: as `Attempt`, over all attempts.
        unavailable: mean share of the registered clients that were not there.
        answered_least, answered_median, answered_most: attempts that a registered client answered.
    """

    asked: int
    away: int
    dropped: int
    late: int
    unavailable: float
    answered_least: int
    answered_median: float
    answered_most: int

    @classmethod
    def of(cls, attempts: Sequence[Attempt]) -> Self | None:
        """None before the first attempt."""
        if not attempts:
            return None
        counts = participation(attempts)
        return cls(
            asked=sum(one.asked for one in attempts),
            away=sum(one.away for one in attempts),
            dropped=sum(one.dropped for one in attempts),
            late=sum(one.late for one in attempts),
            unavailable=sum(one.unavailable / one.registered for one in attempts) / len(attempts),
            answered_least=int(counts.min()),
            answered_median=float(np.median(counts)),
            answered_most=int(counts.max()),
        )


def participation(attempts: Sequence[Attempt]) -> NDArray[np.int64]:
    """How many attempts each registered client answered, (clients,) int64: what its owner's ledger is charged for."""
    counts = np.zeros(attempts[-1].registered if attempts else 0, dtype=np.int64)
    for one in attempts:
        counts[list(one.answered)] += 1
    return counts


def _whole(path: Path) -> int:
    """Bytes up to the last line break."""
    return path.read_bytes().rfind(b"\n") + 1
