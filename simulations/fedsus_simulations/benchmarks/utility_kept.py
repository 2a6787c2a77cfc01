"""What each run of a utility benchmark reached: kept line by line, so that it can be stopped and gone on with."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from fedsus.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

Row = dict[str, Any]
"""Of one run: what was asked, and what it reached."""

_ASKED: Final = "asked"


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may say of a utility benchmark.

    Attributes:
        data: the files of Fashion-MNIST; None for data/fashion-mnist, or generated images.
        features: what ``scripts/scattering.py`` wrote; None leaves out what needs it.
        resume: a folder that keeps what was reached, run by run; None keeps nothing.
        seeds: how many; None for the benchmark's own number.
    """

    data: Path | None = None
    features: Path | None = None
    resume: Path | None = None
    seeds: int | None = None


@dataclass(slots=True)
class Kept:
    """Runs by what was asked of them: in memory, and in ``file`` where there is one, a line of JSON each.

    Another process may add to the file at the same time; what it adds is seen by who opens the file later.

    Raises:
        ConfigError: the file holds a line that is none of ours.
    """

    file: Path | None = None
    _found: dict[str, Row] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.file is None or not self.file.exists():
            return
        for number, line in enumerate(self.file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                self._found[_key(row[_ASKED])] = row
            except (ValueError, KeyError, TypeError):
                raise ConfigError(f"{self.file}:{number}: not a run of a benchmark; remove the line") from None

    @classmethod
    def of(cls, options: Options, name: str) -> Kept:
        """The runs of one benchmark."""
        return cls(None if options.resume is None else options.resume / f"{name}.runs.jsonl")

    def run(self, asked: Mapping[str, Any], measure: Callable[[], Row]) -> Row:
        """What was reached by a run with exactly these words, or is now; told on stderr."""
        if _key(asked) in self._found:
            return self._found[_key(asked)]
        start = time.perf_counter()
        reached = measure()
        row = {_ASKED: dict(asked), **reached, "seconds": round(time.perf_counter() - start, 1)}
        self._found[_key(asked)] = row
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, sort_keys=True) + "\n")
        told = ", ".join(f"{name} {value}" for name, value in asked.items() if isinstance(value, (str, int, float)))
        numbers = {name: value for name, value in reached.items() if isinstance(value, (int, float))}
        click.echo(f"{told}: {', '.join(f'{name} {value:.4g}' for name, value in numbers.items())}", err=True)
        return row


def mean(values: Sequence[float]) -> str:
    """Mean and standard deviation, in words; the one value where there is one."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def _key(asked: Mapping[str, Any]) -> str:
    return json.dumps(asked, sort_keys=True)
