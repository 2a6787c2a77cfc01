"""What came out of a simulated run: read from its folder, told in words or as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from fedsus.journal import AttemptAbandoned
from fedsus.reporting import read, summary
from fedsus.rounds.planning.specification import specification_of
from fedsus_simulations.clients import attempts
from fedsus_simulations.clients.attempts import Behaviour
from fedsus_simulations.running import evaluation

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run in a few numbers.

    Attributes:
        rounds: released training rounds.
        exchange: that ran: "clear_sum" also where masks are left out.
        asked: how often it released a sum: the rounds, and an evaluation after the last.
        metrics: the last that the clients reported, of the model that the round began with; empty under DP.
        central: of the newest model, on the data's own test part; empty without any.
        best: the highest central accuracy of all rounds, and its round; None without.
        epsilon: planned: what the attempts so far may have spent, at ``delta``; None without DP.
        bytes_sent, bytes_received: from and to the server, released rounds.
        seconds: of released rounds together, without evaluation.
        virtual: seconds of simulated time; 0 without traces.
        clients: who was away, fell out or was too slow, and how many attempts a client answered; None before the first.
        against: whom ``epsilon`` is against, in words; None without DP.
    """

    run: str
    folder: str
    status: str
    seed: int
    rounds: int
    exchange: str
    asked: int
    attempts: int
    metrics: dict[str, float]
    central: dict[str, float]
    best: dict[str, float] | None
    epsilon: float | None
    delta: float | None
    bytes_sent: int
    bytes_received: int
    seconds: float
    virtual: float
    clients: Behaviour | None
    against: str | None = None

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def outcome(folder: Path, seed: int) -> Outcome:
    """Read a run's folder.

    Raises:
        ConfigError: no run is there.
        CorruptionError: a file of it is broken.
    """
    told, central = summary(folder), evaluation.read(folder)
    epsilon = delta = whom = None
    rounds, exchange = len(told.rounds), ""
    if told.opened is not None:
        specification = specification_of(told.opened)
        exchange = specification.config.plan.exchange
        rounds = sum(entry.round <= specification.config.plan.rounds for entry in told.rounds)
        if specification.privacy.unit != "none" and told.attempts:
            from fedsus_server.progress import against, planned_epsilon

            delta, epsilon = specification.privacy.delta, planned_epsilon(specification, told.attempts)
            whom = against(specification).removeprefix("against ")
    accuracies = {round: values["accuracy"] for round, values in central.items() if "accuracy" in values}
    best = max(accuracies, key=lambda round: (accuracies[round], -round)) if accuracies else None
    return Outcome(
        run=told.run,
        folder=str(folder),
        status=told.status,
        seed=seed,
        rounds=rounds,
        exchange=exchange,
        asked=len(told.rounds),
        attempts=told.attempts,
        metrics=told.metrics[max(told.metrics)] if told.metrics else {},
        central=central[max(central)] if central else {},
        best=None if best is None else {"round": best, "accuracy": accuracies[best]},
        epsilon=epsilon,
        delta=delta,
        against=whom,
        bytes_sent=told.bytes_sent,
        bytes_received=told.bytes_received,
        seconds=told.seconds,
        virtual=max((entry.virtual or 0.0 for entry in told.rounds), default=0.0),
        clients=Behaviour.of(attempts.read(folder)),
    )


def last_abandoned(folder: Path) -> str | None:
    """Why the last attempt that was abandoned was; None where none was."""
    reasons = [entry.reason for entry in read(folder) if isinstance(entry, AttemptAbandoned)]
    return reasons[-1] if reasons else None
