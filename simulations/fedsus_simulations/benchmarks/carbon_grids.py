"""Clients chosen by their grid: what it would save, and what it costs in privacy, in rounds for each zone, in accuracy.

No server of fedsus does this. `fedsus.privacy.choice` has the rule and its floor; the account of such a run may not
claim amplification by sampling, and the function that amplifies takes no such choice.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.privacy.choice import ByGrid, Drawn, composed
from fedsus_simulations.benchmarks import utility_heart as heart
from fedsus_simulations.benchmarks.carbon_traces import mean_of
from fedsus_simulations.benchmarks.utility_kept import mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from fedsus.types import Member
    from fedsus_simulations.benchmarks.carbon_traces import Trace
    from fedsus_simulations.clients.population import Population

FLOORS: Final = (0.0, 0.3, 0.5)
ROUNDS: Final = 100
SECONDS: Final = 1800.0
EPSILONS: Final = (1.0, 2.0, 4.0, 8.0)
DELTA: Final = 1e-5
RATE: Final = 0.1
"""q: the chance of each client to be drawn for a round."""
SAVED: Final = "clients of one zone a round, chosen by its grid; against clients of both zones in each round"
PRICE: Final = "epsilon where clients are drawn, and where they are chosen by their grid"
LEARNED: Final = "what is learned where the zones' data differ, mean ± standard deviation"
_CLIENTS, _COHORT, _ALPHA = 20, 6, 0.3


def chosen(choice: ByGrid, traces: Sequence[Trace], start: float, rounds: int = ROUNDS) -> list[str]:
    """The zone of each round: by what the intensities are as it begins; rounds follow each other at once."""
    had = dict.fromkeys(choice.regions, 0)
    found = []
    for number in range(rounds):
        now = start + number * SECONDS
        region = choice.choose(had, {trace.name: float(trace.values[trace.row(now)]) for trace in traces})
        had[region] += 1
        found.append(region)
    return found


def saved(traces: Sequence[Trace], starts: NDArray[np.float64], rounds: int = ROUNDS) -> dict[str, Any]:
    """Grams of all starts together, and how the rounds are divided; the same work in each round."""
    both, names = mean_of("both", traces), [trace.name for trace in traces]
    times = np.arange(rounds) * SECONDS
    means = {trace.name: np.array([trace.means(start + times, SECONDS) for start in starts]) for trace in traces}
    untouched = np.array([both.means(start + times, SECONDS).sum() for start in starts])
    rows = []
    for floor in FLOORS:
        choice = ByGrid(tuple(names), floor)
        zones = np.array([[names.index(zone) for zone in chosen(choice, traces, start, rounds)] for start in starts])
        rates = np.choose(zones, [means[name] for name in names]).sum(axis=1)
        share = np.array([(zones == place).mean(axis=1) for place in range(len(names))])
        each = 100 * (1 - rates / untouched)
        low, high = np.percentile(each, [5, 95])
        rows.append(
            (
                f"{floor:g}",
                f"{100 * (1 - rates.sum() / untouched.sum()):.1f}",
                f"{low:.1f} to {high:.1f}",
                f"{100 * np.mean(rates > untouched):.1f}",
                *(f"{part.mean():.2f}" for part in share),
                f"{share.min(axis=0).min():.2f}",
            )
        )
    columns = ("floor", "all, %", "5 to 95%", "worse, %", *(f"rounds of {name}" for name in names), "least of any run")
    return {"title": SAVED, "columns": columns, "rows": tuple(rows)}


def price() -> dict[str, Any]:
    """Both accounts of the same central Gaussian noise, and the noise that the second would need."""
    import dp_accounting as dpa

    from fedsus.privacy.accounting import epsilon
    from fedsus.privacy.calibration import calibrate

    grids = ByGrid(("a", "b"), 0.3)
    rows = []
    for wanted in EPSILONS:
        noise = calibrate(wanted, DELTA, RATE, ROUNDS)
        event = dpa.GaussianDpEvent(noise)
        drawn, by_grid = (epsilon(composed(event, ROUNDS, choice), DELTA) for choice in (Drawn(RATE), grids))
        needed = calibrate(wanted, DELTA, 1.0, ROUNDS)
        figures = (f"{noise:.3f}", f"{drawn:.3f}", f"{by_grid:.1f}", f"{needed:.2f}", f"{needed / noise:.1f}")
        rows.append((f"{wanted:g}", *figures))
    columns = ("asked", "noise / clip", "drawn", "by grid", "noise for the same", "times the noise")
    return {"title": PRICE, "columns": columns, "rows": tuple(rows)}


@dataclass(slots=True)
class GridDraw:
    """Chooses cohorts from the zone of each round; implements `fedsus.rounds.server_half.secure.Draw`.

    Attributes:
        zones: of each round.
        homes: zone by client.
    """

    zones: Sequence[str]
    homes: Mapping[str, str]
    seed: int
    asked: list[str] = field(default_factory=list)

    def __call__(self, members: Sequence[Member], size: int, attempt: int) -> Sequence[Member]:
        from fedsus_simulations.scenario import seeding

        zone = self.zones[(attempt - 1) % len(self.zones)]
        self.asked.append(zone)
        there = [member for member in members if self.homes[member.name] == zone]
        return seeding.Drawn(self.seed)(there, size, attempt)


def homes(population: Population, zones: Sequence[str]) -> dict[str, str]:
    """Clients with the fewest cases live in the first zone, those with the most in the last: data differ by zone."""
    cases = [float(population.shard(at).train[1].float().mean()) for at in range(len(population.names))]
    order = np.argsort(cases, kind="stable")
    names = list(population.names)
    return {names[place]: zones[at * len(zones) // len(names)] for at, place in enumerate(order)}


def learned(traces: Sequence[Trace], starts: Sequence[float], rounds: int = ROUNDS) -> dict[str, Any]:
    """Of a federation whose clients are drawn from all, and from the zone of each round; a seed for each start."""
    names = tuple(trace.name for trace in traces)
    seeds = range(1, len(starts) + 1)
    found = {"drawn from all": [_reached(seed, rounds) for seed in seeds]}
    for floor in FLOORS:
        zones = [chosen(ByGrid(names, floor), traces, start, rounds) for start in starts]
        reached = [_reached(seed, rounds, one, names) for seed, one in zip(seeds, zones, strict=True)]
        found[f"by grid, floor {floor:g}"] = reached
    rows = tuple(
        (how, *(mean(list(values)) for values in zip(*reached, strict=True))) for how, reached in found.items()
    )
    return {"title": LEARNED, "columns": ("clients", "AUC, %", "accuracy, %"), "rows": rows}


def _reached(
    seed: int, rounds: int, zones: Sequence[str] | None = None, names: Sequence[str] = ()
) -> tuple[float, float]:
    """AUC and accuracy, percent, of the rows that the hospitals hold out; without zones, clients are drawn from all."""
    from fedsus.rounds.planning.specification import open_run
    from fedsus.rounds.server_half.server import RunLoop
    from fedsus_simulations.running.simulation import Simulation
    from fedsus_simulations.scenario import seeding
    from fedsus_simulations.scenario.config import Scenario

    asked, measured = Scenario.model_validate(_scenario(seed, rounds)), heart.Heart(rounds)
    with tempfile.TemporaryDirectory(prefix="fs-") as name:
        simulation, folder = Simulation.of(asked, Path(name)), Path(name) / "run"
        try:
            fleet = simulation.fleet
            open_run(folder, "r", simulation.config, simulation.start_model(), fleet.clock, fleet.roster)
            by_zone = None if zones is None else GridDraw(zones, homes(simulation.population, names), seed)
            model = RunLoop(
                folder,
                fleet,
                clock=fleet.clock,
                sleep=fleet.clock.advance,
                draw=by_zone or seeding.Drawn(seed),
                virtual=fleet.clock,
                noise=seeding.server_noise(seed),
            ).run()
        finally:
            simulation.close()
    return 100 * measured.auc(model), measured.accuracy(model)


def _scenario(seed: int, rounds: int) -> dict[str, Any]:
    return {
        "name": "grids",
        "seed": seed,
        "task": {"name": "heart"},
        "plan": {
            "rounds": rounds,
            "cohort": {"size": _COHORT, "minimum": _COHORT},
            "exchange": "clear_sum",
            "training": {
                "local_epochs": 1,
                "batch_size": 8,
                "optimizer": {"name": "sgd", "learning_rate": 0.1},
            },
        },
        "population": {"data": "heart", "partition": "dirichlet", "alpha": _ALPHA, "clients": _CLIENTS},
        "simulation": {"masks": "none", "evaluate_every": 0},
    }
