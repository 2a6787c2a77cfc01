"""A sweep: one scenario with several seeds and settings, each run in a folder of its own below the sweep's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Final

from fedsus.config import validate
from fedsus.errors import EnvironmentFault, FedsusError
from fedsus.journal import NAME
from fedsus.reporting import summary
from fedsus_simulations.running.outcome import Outcome, last_abandoned, outcome
from fedsus_simulations.running.saved import ORIGIN
from fedsus_simulations.scenario.config import Scenario
from fedsus_simulations.scenario.overriding import with_changes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_NO_NAME: Final = re.compile(r"[^A-Za-z0-9_.]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: of its folder.
        settings: dotted name -> value, besides the seed.
        scenario: with them, and without the sweep.
    """

    name: str
    settings: Mapping[str, Any]
    scenario: Scenario

    @property
    def run(self) -> str:
        """Identifier of the run."""
        return f"{self.scenario.name[: 63 - len(self.name)]}-{self.name}".lstrip("-")

    @property
    def words(self) -> str:
        """For people."""
        return ", ".join([*(f"{name}={value}" for name, value in self.settings.items()), f"seed {self.scenario.seed}"])


@dataclass(frozen=True, slots=True)
class Ran:
    """A cell and what came out: an outcome, or why there is none."""

    cell: Cell
    outcome: Outcome | None
    fault: str = ""


def cells(scenario: Scenario) -> list[Cell]:
    """Every combination, seed by seed, so that runs with the same clients follow each other.

    Raises:
        ConfigError: one of them is no scenario; says which.
    """
    if scenario.sweep is None:
        return []
    asked, found = scenario.sweep, list[Cell]()
    plain = scenario.model_dump(mode="json", exclude_none=True)
    plain.pop("sweep")
    for seed in asked.seeds or [scenario.seed]:
        for values in product(*asked.settings.values()):
            settings = dict(zip(asked.settings, values, strict=True))
            parts = [f"{len(found) + 1:03d}", *(_NO_NAME.sub("_", str(value)) for value in values), f"seed-{seed}"]
            data = with_changes(plain, [*settings.items(), ("seed", seed)])
            made = validate(data, Scenario, f"sweep {', '.join(f'{name}={value}' for name, value in settings.items())}")
            found.append(Cell("-".join(parts)[:50], settings, made))
    return found


def run_all(
    folder: Path, todo: list[Cell], run: Callable[[Path, Cell, bool], Outcome], say: Callable[[str], None]
) -> Iterator[Ran]:
    """Run each cell that is not finished; one that fails does not stop the others.

    Args:
        run: runs a cell in its folder, anew or from where it stands.

    Raises:
        EnvironmentFault: the disk is full or the like: it would stop the others too.
    """
    for number, cell in enumerate(todo, 1):
        where, place = folder / cell.name, f"[{number}/{len(todo)}] {cell.words}"
        try:
            status = summary(where).status if (where / NAME).exists() else "new"
            if status == "completed":
                say(f"{place}: finished before")
                yield Ran(cell, outcome(where, cell.scenario.seed))
            elif status == "failed":
                yield Ran(cell, None, f"no attempts are left; the last was abandoned: {last_abandoned(where)}")
            else:
                say(place)
                yield Ran(cell, run(where, cell, not (where / ORIGIN).exists()))
        except EnvironmentFault:
            raise
        except FedsusError as error:
            say(f"{place}: failed: {error}")
            yield Ran(cell, None, str(error))
