"""Rounds of a simulation by ours and by its peers, in turns, so that a busy machine slows all alike."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsus.errors import EnvironmentFault, RunFailed
from fedsus_simulations.benchmarks import simulate_peers
from fedsus_simulations.benchmarks.result import comparison, figure, versions
from fedsus_simulations.benchmarks.simulate_peers import PFL, Places, Spent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fedsus_simulations.benchmarks.peer_work import Work

FEDSUS, LOOP = "fedsus", "bare loop"
FLOWER, REREAD = "Flower's simulation", "Flower's simulation, data read for each message"
LONGEST: Final = 40
"""Of a path below which Ray makes sockets: it adds some 66 characters, and 107 are allowed."""
LEAST_PROGRESS: Final = 0.8
"""How much of the bare loop's fall of the loss ours must make: whoever trains less is quicker."""


@dataclass(slots=True)
class Sides:
    """Who is measured, and what they needed.

    Attributes:
        folder: data and initial model, as `peer_work` reads them; short, since Ray keeps sockets below it.
        work: of the peers; ours may make more rounds.
        parameters: of the model.
        found: side -> its runs, one a turn.
    """

    folder: Path
    work: Work
    parameters: int
    pfl: Path
    flower: Path | None
    found: dict[str, list[Spent]] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, work: Work, parameters: int, places: Places) -> Sides:
        """With the peers where they are; pfl-research is built if it is nowhere.

        Raises:
            EnvironmentFault: it cannot be; or the folder's path is too long for Ray, which would wait for ever.
        """
        flower = simulate_peers.flower(places)
        if flower is not None and len(str(folder)) > LONGEST:
            raise EnvironmentFault(
                f"{folder}: {len(str(folder))} characters; Ray's sockets need at most {LONGEST}: set TMPDIR=/tmp"
            )
        return cls(folder, work, parameters, simulate_peers.pfl(places), flower)

    def turns(self, number: int, ours: Callable[[], Spent]) -> None:
        """Ours, the bare loop and pfl-research one after the other, ``number`` times."""
        for _ in range(number):
            self._add(FEDSUS, ours())
            self._add(LOOP, self._peer(LOOP, Path(sys.executable), "peer_loop", self.work))
            self._add(PFL, self._peer(PFL, self.pfl, "peer_pfl", self.work))

    def flower_once(self, rounds: int, label: str = FLOWER, files: str = "") -> None:
        """Flower's engine, where it is."""
        if self.flower is None:
            return
        temporary = str(self.folder / f"r{len(self.found)}")
        work = dataclasses.replace(self.work, rounds=rounds, files=files)
        self._add(label, self._peer(label, self.flower, "peer_flower", work, temporary))

    def _add(self, label: str, spent: Spent) -> None:
        self.found.setdefault(label, []).append(spent)

    def _peer(self, what: str, python: Path, module: str, work: Work, *arguments: str) -> Spent:
        return simulate_peers.rounds(what, python, module, self.folder, work, self.parameters, *arguments)

    def figure(self, label: str) -> dict[str, Any]:
        """Seconds a round of all its runs; each one's first is the warm-up."""
        return figure([s for run in self.found[label] for s in run.seconds[1:]], "s", label, warm_up=1)

    def compared(self, most: float, times: float | None = None, flower: float | None = None) -> dict[str, Any]:
        """Fields of a result: ours against pfl-research, the bare loop, and Flower's engine where it is."""
        ours = self.figure(FEDSUS)
        figures = {LOOP: comparison(ours, self.figure(LOOP))}
        for label in (FLOWER, REREAD):
            if label in self.found:
                figures[label] = comparison(ours, self.figure(label), times=flower)
        main = comparison(ours, self.figure(PFL), most=most, times=times)
        return {**main, "figures": figures, "versions": self._versions()}

    def by_turn(self) -> dict[str, Any]:
        """A table: medians of each turn, and their ratio."""
        sides = (FEDSUS, LOOP, PFL)
        rows = []
        for number, runs in enumerate(zip(*(self.found[side] for side in sides), strict=True), start=1):
            medians = [statistics.median(run.seconds[1:]) for run in runs]
            rows.append((number, *medians, medians[2] / medians[0]))
        columns = ("turn", *(f"{side}, s" for side in sides), "ratio to pfl-research")
        return {"title": "medians of each turn", "columns": columns, "rows": rows}

    def progress(self, initial: float) -> dict[str, Any]:
        """A table: what the model of each side's last run had learned on the test part.

        Args:
            initial: loss before the first round.

        Raises:
            RunFailed: ours has learned much less than the bare loop in as many rounds.
        """
        rows = []
        for side, runs in self.found.items():
            if runs[-1].score is not None:
                rows.append((side, len(runs[-1].seconds), *runs[-1].score))
        falls = {row[0]: initial - row[2] for row in rows}
        if len(self.found[FEDSUS][-1].seconds) == len(self.found[LOOP][-1].seconds):
            checked(falls)
        return {
            "title": f"learned, on the test part, from a loss of {initial:.3f}",
            "columns": ("side", "rounds", "loss", "accuracy"),
            "rows": rows,
        }

    def notes(self, busy: tuple[float, float]) -> list[str]:
        """What holds for all of these benchmarks."""
        turns = len(self.found[FEDSUS])
        notes = [
            f"ours, the bare loop and pfl-research took {turns} turn{'s' * (turns > 1)}, each in a fresh process with "
            f"{self.work.threads} threads; a round is from one model to the next",
            "ours: fixed-point encoding, the sum mod 2**32, journal and checkpoint of each round, on disk, included",
            f"load average: {busy[0]:.1f} before, {busy[1]:.1f} after",
        ]
        if self.flower is None:
            return [*notes, simulate_peers.NO_FLOWER]
        told = (
            "Flower: FedAvg of its simulation engine, a SuperNode a client, one CPU each; its first round is left out"
        )
        return [*notes, told]

    def _versions(self) -> dict[str, str]:
        found = versions()
        for runs in self.found.values():
            for name, number in runs[-1].versions.items():
                found.setdefault(name, number)
        return found


def checked(falls: Mapping[str, float]) -> None:
    """Refuse a comparison in which ours trained less: side -> fall of the loss.

    Raises:
        RunFailed: ours made less than `LEAST_PROGRESS` of the bare loop's.
    """
    if falls[FEDSUS] < LEAST_PROGRESS * falls[LOOP]:
        raise RunFailed(
            f"benchmark: the loss of fedsus fell by {falls[FEDSUS]:.4f}, that of the bare loop by {falls[LOOP]:.4f}: "
            "they did not do the same work"
        )


def parts_table(parts: Mapping[str, float], rounds: int) -> dict[str, Any]:
    """A table: seconds a round of ours by what it did, and their shares."""
    total = sum(parts.values())
    rows: Sequence[tuple[str, float, float]] = [
        (name, spent / rounds, 100 * spent / total) for name, spent in parts.items()
    ]
    return {"title": "where a round of ours goes, on one thread", "columns": ("part", "s a round", "%"), "rows": rows}
