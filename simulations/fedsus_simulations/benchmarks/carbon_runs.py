"""One federation, run at once and at cleaner hours: model, clients and epsilon are the same, bit for bit.

Heart disease, its rows divided evenly over eight clients of which five are drawn for each round; noise in shares, real
masks, a clock that starts where the trace does. The session that a round prepares for the next lives a few hours: after
a longer wait it has expired, on both sides, and another one is opened. That costs messages, and nothing else.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.errors import RunFailed
from fedsus_simulations.benchmarks import carbon_policies
from fedsus_simulations.benchmarks import utility_heart as heart
from fedsus_simulations.benchmarks.carbon_traces import Known

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedsus_simulations.benchmarks.carbon_traces import Trace
    from fedsus_simulations.clients.attempts import Attempt
    from fedsus_simulations.running.simulation import Simulation

TABLE: Final = "one federation, at once / put off: model, clients and survivors are equal, or the benchmark fails"
SLACK: Final = 48.0
ROUNDS: Final = 6
_SEED: Final = 6
_CLIENTS, _COHORT = 8, 5
_EXAMPLES_PER_SECOND: Final = 0.05
"""Slow devices, so that a round of some 86 rows takes half an hour."""
_STEP_MINUTES: Final = carbon_policies.STEP_MINUTES
_LIGHT: Final = 60.0
"""Seconds that sessions of their own may take, of all rounds together."""
OWN: Final = "advertise"
"""The phase of a round that opens a session of its own."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run did.

    Attributes:
        model: hash of the last one.
        clients: who answered in each attempt.
        survivors: of each round.
        epsilon: planned, of the attempts that were made.
        auc: of the rows that the hospitals hold out.
        sessions: how many were opened on their own; others rode on the round before.
        waited: seconds, of all rounds together.
        lasted: seconds from the start to the last release.
        mean: g CO2e/kWh while rounds ran.
    """

    model: str
    clients: tuple[tuple[int, ...], ...]
    survivors: tuple[int, ...]
    epsilon: float
    auc: float
    sessions: int
    waited: float
    lasted: float
    mean: float

    def same(self, other: Ran) -> bool:
        """Whether all that a schedule must not change is equal."""
        kept = ("model", "clients", "survivors", "epsilon", "auc")
        return all(getattr(self, name) == getattr(other, name) for name in kept)


def scenario(policy: str, rounds: int = ROUNDS, slack: float = SLACK) -> dict[str, Any]:
    """The same but for the schedule."""
    return {
        "name": "cleaner-hours",
        "seed": _SEED,
        "task": {"name": "heart"},
        "plan": {
            "rounds": rounds,
            "deadline": 3000.0,
            "cohort": {"size": _COHORT, "minimum": _COHORT},
            "exchange": "secure_sum",
            "secure_sum": {"colluders": 1, "dropouts": 0},
            "training": {"local_epochs": 1, "optimizer": {"name": "sgd", "learning_rate": 2.0}},
            "privacy": {
                "unit": "example",
                "placement": "distributed",
                "epsilon": 8.0,
                "delta": 1e-5,
                "clip": 1.0,
                "sampling_rate": 1.0,
                "denominator": 430.0,
            },
        },
        "population": {"data": "heart", "partition": "iid", "clients": _CLIENTS},
        "traces": {
            "classes": [
                {
                    "name": "slow",
                    "examples_per_second": _EXAMPLES_PER_SECOND,
                    "down_mbps": 80.0,
                    "up_mbps": 35.0,
                    "latency": 0.01,
                }
            ]
        },
        "schedule": {"policy": policy, "slack_hours": slack, "duration": 1800.0, "step_minutes": _STEP_MINUTES},
        "simulation": {"masks": "real", "evaluate_every": 0},
    }


def ran(trace: Trace, start: float, policy: str, rounds: int = ROUNDS, slack: float = SLACK) -> Ran:
    """A run that arrives at a moment of a trace.

    Raises:
        RunFailed: no attempts are left.
    """
    from fedsus_simulations.running.simulation import Simulation
    from fedsus_simulations.scenario.config import Scenario

    asked = Scenario.model_validate(scenario(policy, rounds, slack))
    with tempfile.TemporaryDirectory(prefix="fs-") as name:
        simulation = Simulation.of(asked, Path(name))
        try:
            return _ran(simulation, Path(name) / "run", trace, start)
        finally:
            simulation.close()


def _ran(simulation: Simulation, folder: Path, trace: Trace, start: float) -> Ran:
    from fedsus.energy.grid.shifted import Shifted
    from fedsus.journal.entries import RoundReleased
    from fedsus.reporting import read
    from fedsus.rounds.messages import model_hash
    from fedsus.rounds.planning.specification import open_run
    from fedsus.rounds.server_half.server import RunLoop
    from fedsus_simulations.running.outcome import outcome
    from fedsus_simulations.running.simulation import quiet
    from fedsus_simulations.scenario.seeding import Drawn, server_noise

    seed, fleet = simulation.scenario.seed, simulation.fleet

    def clock() -> float:
        return start + fleet.clock.now

    if fleet.masked is not None:
        fleet.masked.clock = clock  # sessions of clients expire as the server's do
    noted: list[Attempt] = []
    fleet.note = noted.append
    open_run(folder, "r", simulation.config, simulation.start_model(), clock, fleet.roster)
    loop = RunLoop(
        folder,
        fleet,
        clock=clock,
        sleep=fleet.clock.advance,
        draw=Drawn(seed),
        virtual=fleet.clock,
        noise=server_noise(seed),
        intensity=Shifted(Known(trace), start),
    )
    with quiet():
        model = loop.run()
    released = [entry for entry in read(folder) if isinstance(entry, RoundReleased)]
    epsilon = outcome(folder, seed).epsilon
    return Ran(
        model=model_hash(model),
        clients=tuple(one.answered for one in noted),
        survivors=tuple(entry.survivors for entry in released),
        epsilon=np.inf if epsilon is None else epsilon,
        auc=heart.Heart(len(released)).auc(model),
        sessions=sum(OWN in (entry.traffic or {}) for entry in released),
        waited=sum(entry.waited for entry in released),
        lasted=max(entry.virtual or 0.0 for entry in released),
        mean=float(np.mean([trace.means(np.array([start + one.virtual]), one.seconds)[0] for one in noted])),
    )


def table(trace: Trace, starts: Sequence[float], rounds: int = ROUNDS) -> dict[str, Any]:
    """Runs at once and put off, from each start.

    Raises:
        RunFailed: a run that was put off is another than the one at once, or ends after its deadline.
    """
    rows = []
    for start in starts:
        at_once, put_off = (ran(trace, start, policy, rounds) for policy in ("immediate", "cleanest"))
        when = datetime.fromtimestamp(start, UTC).strftime("%Y-%m-%d %H:%M")
        if not put_off.same(at_once):
            raise RunFailed(f"carbon-hours: put off from {when}, a run became another one: {at_once} and {put_off}")
        if put_off.lasted > at_once.lasted + SLACK * 3600 + _LIGHT:
            raise RunFailed(f"carbon-hours: put off from {when}, a run missed its deadline: {put_off}")
        rows.append(
            (
                when,
                f"{put_off.waited / 3600:.1f}",
                f"{at_once.mean:.0f}",
                f"{put_off.mean:.0f}",
                f"{at_once.sessions} / {put_off.sessions}",
                f"{at_once.epsilon:.4f} / {put_off.epsilon:.4f}",
                f"{100 * at_once.auc:.2f} / {100 * put_off.auc:.2f}",
                put_off.model[:8],
            )
        )
    return {"title": TABLE, "columns": _COLUMNS, "rows": tuple(rows)}


_COLUMNS: Final = (
    "start, UTC",
    "waited, h",
    "g/kWh at once",
    "put off",
    "sessions opened",
    "epsilon",
    "AUC, %",
    "model of both",
)
