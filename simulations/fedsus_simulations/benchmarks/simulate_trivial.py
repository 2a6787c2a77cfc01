"""Seconds a round of 1,000 clients that train almost nothing; and what 100,000 registered clients cost.

The model has 1,000 parameters, each client one number to train on: what is left is the simulator itself.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsus_simulations.benchmarks import models, peer_work, processes, simulate_data, simulate_ours
from fedsus_simulations.benchmarks.peer_work import Work
from fedsus_simulations.benchmarks.result import comparison, figure, load, machine
from fedsus_simulations.benchmarks.simulate_ours import Asked, Run
from fedsus_simulations.benchmarks.simulate_peers import Places
from fedsus_simulations.benchmarks.simulate_rounds import FEDSUS, Sides

if TYPE_CHECKING:
    from collections.abc import Callable

COHORT, ROUNDS, MANY = 1000, 6, 100_000
THREADS: Final = 2
_MOST, _START, _MEMORY = 0.3, 5.0, 1500.0
ALIKE: Final = 0.75
"""Rounds of the same cohort with few and with many registered count as equally dear within a third, for the noise."""


def run(quick: bool, places: Places | None = None) -> dict[str, Any]:
    """Ours and its peers in turns, Flower's engine once, then ours with many registered clients."""
    processes.need_proc()
    before = load()
    with tempfile.TemporaryDirectory(prefix="fs-") as name:
        folder = Path(name)
        simulate_data.hand_over_trivial(folder, COHORT)
        work = Work(
            folder=name,
            model="trivial",
            cohort=COHORT,
            samples=1,
            batch=1,
            rounds=1 + ROUNDS,
            threads=min(THREADS, machine().cores),
        )
        parameters = sum(p.numel() for p in peer_work.network("trivial").parameters())
        sides = Sides.of(folder, work, parameters, places or Places())
        sides.turns(1 if quick else 2, lambda: ours(FEDSUS, sides, COHORT))
        sides.flower_once(2)
        body = sides.compared(_MOST)
        body["figures"] |= registered(sides, 1 if quick else 2)
        body["tables"] = [sides.by_turn()]
    notes = [
        *sides.notes((before, load())),
        "one example and one step of SGD a client; Flower's clients add one to each parameter, which is less",
        f"registered: the same cohort of {COHORT:,}; start is from starting the process to opening the first round, "
        "imports included; memory is the process's largest resident set",
    ]
    return body | {"notes": notes}


def ours(what: str, sides: Sides, clients: int) -> Run:
    """A run of ours."""
    task = {"name": "trivial", "settings": {"rows": clients}}
    scenario = simulate_ours.scenario(sides.work, clients, task, sides.folder)
    asked = Asked(scenario=scenario, reference=models.TRIVIAL, root=sides.folder)
    return simulate_ours.once(what, asked, sides.work, sides.parameters)


def registered(sides: Sides, turns: int) -> dict[str, Any]:
    """Many registered clients against as many as are asked: seconds a round, start, memory."""
    few: list[Run] = []
    many: list[Run] = []
    for _ in range(turns):
        few.append(ours(f"fedsus, {COHORT:,} registered", sides, COHORT))
        many.append(ours(f"fedsus, {MANY:,} registered", sides, MANY))

    def pair(unit: str, of: Callable[[Run], list[float]], said: str = "", **target: float) -> dict[str, Any]:
        most, least = (
            figure([value for run in runs for value in of(run)], unit, f"{clients:,} registered")
            for clients, runs in ((MANY, many), (COHORT, few))
        )
        return comparison(most, least, said, **target)

    return {
        f"{MANY:,} registered: a round": pair("s", lambda one: one.seconds[1:], "as dear as with few", times=ALIKE),
        f"{MANY:,} registered: start": pair("s", lambda one: [one.start], most=_START),
        f"{MANY:,} registered: memory": pair("MB", lambda one: [one.memory / 1e6], most=_MEMORY),
    }
