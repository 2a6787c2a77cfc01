"""The server half of a run: plans, exchanges, strategy steps, journal. No torch, no user code, no sockets.

    journal RunOpened -> [AttemptOpened -> exchange -> RoundReleased | AttemptAbandoned]* -> RunClosed

An attempt is written before anyone is asked: a crash counts as spent. A round is released by the entry that
names its checkpoint, so a run that was killed anywhere goes on from the last released round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final, Literal

import numpy as np

from fedsus import plan as plans
from fedsus.costs import Meter, Usage
from fedsus.encoding.costs import told_sums
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.errors import CohortTooSmall, CorruptionError, ProtocolViolation, RunFailed
from fedsus.journal import Journal, RunState, blobs
from fedsus.journal.entries import AttemptAbandoned, AttemptOpened, Entry, RoundReleased, RunClosed
from fedsus.plan import Plan
from fedsus.privacy.noise import SystemNoise
from fedsus.rounds.exchange import Fleet, Metered, clear_sum, conduct, during
from fedsus.rounds.gathering import Gathering
from fedsus.rounds.messages import encode_request, model_hash
from fedsus.rounds.secure import Draw, SecureRounds, draw_anew
from fedsus.rounds.specification import joined, parted, specification_of
from fedsus.strategies import Strategy, create
from fedsus.types import Arrays, Clock, Mean, Member, Noise, Summed, Vector

_LONGEST_PAUSE_SECONDS: Final = 30.0

Watch = Callable[[RoundReleased, Vector], None]
"""Told of each released round and the model after it; what it raises ends the run, which can be resumed."""


NoiseSource = Callable[[Plan], Noise]
"""Whose noise a round gets, where the server adds it."""


def _system_noise() -> NoiseSource:
    noise = SystemNoise()
    return lambda _: noise


def pause_after(abandoned: int) -> float:
    """Seconds that a run waits after so many attempts that were abandoned in a row."""
    return min(2.0 ** min(abandoned - 1, 10), _LONGEST_PAUSE_SECONDS) if abandoned else 0.0


class RunLoop:
    """Runs a journal's run to its end, from wherever it stands.

    Args:
        folder: the run folder, opened before by `open_run`.
        fleet: who can be asked.
        clock, sleep: time, passed in.
        draw: chooses the cohort of an attempt when more clients are connected than the plan asks.
        virtual: the clock of a simulation, in its seconds since the run's start; None in a deployment. The run then
            waits by it, and the journal names it beside real seconds.
        watch: told of each released round.
        noise: the server's own generator, for noise that is added here; a simulation gives one seeded by round.
        meter: of this machine; None, and the journal says nothing of what it used.
    """

    def __init__(
        self,
        folder: Path,
        fleet: Fleet,
        *,
        clock: Clock,
        sleep: Callable[[float], None],
        draw: Draw = draw_anew,
        virtual: Clock | None = None,
        watch: Watch | None = None,
        noise: NoiseSource | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._folder, self._fleet, self._clock, self._sleep = folder, fleet, clock, sleep
        self._noise = _system_noise() if noise is None else noise
        self._draw, self._virtual, self._watch, self._meter = draw, virtual, watch, meter
        self._journal = Journal.open(folder, clock)
        self._abandoned = _in_a_row(self._journal.entries)
        opened = self._journal.state.opened
        if opened is None:
            raise CorruptionError(f"{folder}: the journal is empty: the run was never opened")
        self._specification = specification_of(opened)
        self._strategy: Strategy = create(self._specification.config.plan.strategy)
        self._secure = SecureRounds.of(self._specification, clock, draw)
        self._gathering = Gathering(self._specification, fleet, self._secure, draw, virtual or clock, sleep)

    @property
    def progress(self) -> RunState:
        """Where the run stands."""
        return self._journal.state

    @property
    def abandoned(self) -> int:
        """Attempts that were abandoned since the last round was released."""
        return self._abandoned

    def run(self) -> Vector:
        """Go on until the last round is released; the final model (d,) float32.

        Raises:
            RunFailed: no attempts are left, or too few devices came.
            CorruptionError: the journal or its checkpoint was changed.
        """
        with self._journal:
            state = blobs.get(self._folder, self._checkpoint)
            if self.progress.closed is not None:
                return self._model(state)
            try:
                while self.progress.next_round <= self._specification.config.plan.rounds:
                    state = self._attempt(state)
            except RunFailed as error:
                self._close("failed", self._model(state), str(error))
                raise
            self._evaluate(self._model(state))
            self._close("completed", self._model(state))
            return self._model(state)

    def _close(self, reason: Literal["completed", "failed"], model: Vector, because: str | None = None) -> None:
        """Name the newest model, if any was released, and what ended a run early."""
        some = self.progress.released is not None
        self._journal.append(
            RunClosed(
                reason=reason,
                model=self._checkpoint if some else None,
                model_hash=model_hash(model) if some else None,
                because=because,
            )
        )

    def _model(self, state: Arrays) -> Vector:
        """The model in a checkpoint."""
        return self._strategy.model(parted(state)[0])

    @property
    def _checkpoint(self) -> str:
        if self.progress.checkpoint is None:
            raise CorruptionError(f"{self._folder}: the journal names no checkpoint")
        return self.progress.checkpoint

    def _attempt(self, state: Arrays) -> Arrays:
        """One attempt at the next round; the state after it, unchanged if it was abandoned."""
        round, attempt = self.progress.next_round, self.progress.attempts + 1
        if attempt > self._specification.attempts:
            raise RunFailed(f"round {round}: all {self._specification.attempts} attempts of the run are spent")
        with during(self._meter, "wait"):
            cohort = self._gathering.cohort(self.progress)
        mine, kept = parted(state)
        fleet, started = Metered(self._fleet, self._meter), self._clock()
        try:
            plan, summed, kept, mean = self._exchange(round, attempt, self._model(state), kept, cohort, fleet)
        except (CohortTooSmall, ProtocolViolation) as error:
            self._abandon(round, attempt, error, fleet)
            self._pause()
            return state
        self._abandoned = 0
        with during(self._meter, "encode"):
            state = joined(self._strategy.step(mine, mean.delta), kept)
            checkpoint = blobs.put(self._folder, state)
        released = self._release(plan, summed, mean, checkpoint, fleet, started)
        blobs.prune(self._folder, self._journal.entries)
        if self._watch is not None:
            self._watch(released, self._model(state))
        return state

    def _abandon(self, round: int, attempt: int, error: Exception, fleet: Metered) -> None:
        self._journal.append(
            AttemptAbandoned(
                round=round,
                attempt=attempt,
                reason=str(error),
                virtual=None if self._virtual is None else self._virtual(),
                traffic=fleet.traffic,
                server=self._used(),
            )
        )

    def _used(self) -> Usage | None:
        """What this machine used since the entry before that says so; None without a meter."""
        return None if self._meter is None else self._meter.take()

    def _pause(self) -> None:
        """Wait longer after each attempt that was abandoned in a row: each costs the devices' budget."""
        self._abandoned += 1
        with during(self._meter, "wait"):
            self._sleep(pause_after(self._abandoned))

    def _exchange(
        self, round: int, attempt: int, model: Vector, kept: Arrays, cohort: Sequence[Member], fleet: Metered
    ) -> tuple[Plan, Summed, Arrays, Mean]:
        """Ask a cohort; what is released, and the mechanism's next state."""
        clip = float(kept["clip"][0]) if "clip" in kept else None
        secure = self._secure
        if secure is None:
            plan = self._specification.plan(round, attempt, model, clip=clip)
            mechanism = mechanism_of(plan)
            self._opened(plan)
            clients = [member.id for member in cohort]
            with during(self._meter, "encode"):
                summed = conduct(clear_sum(plan, encode_request(plan, model), clients, mechanism), fleet)
        else:
            session = secure.session(round, attempt, cohort, len(model))
            plan = self._specification.plan(round, attempt, model, session.hex(), clip)
            mechanism = mechanism_of(plan)
            self._opened(plan)
            with during(self._meter, "crypto"):
                summed = secure.conduct(plan, model, mechanism, cohort, self._has_next(round, attempt), fleet)
        with during(self._meter, "encode"):
            kept, mean = mechanism.release(kept, summed.total, summed.survivors, self._noise(plan))
        return plan, summed, kept, mean

    def _opened(self, plan: Plan) -> None:
        """Written before anyone is asked: a crash counts as spent."""
        digest = plans.digest(plans.encode(plan)).hex()
        self._journal.append(
            AttemptOpened(round=plan.round, attempt=plan.attempt, plan_digest=digest, cohort=plan.cohort.size)
        )

    def _has_next(self, round: int, attempt: int) -> bool:
        """Whether another attempt follows one that succeeds: the next round, or the last evaluation."""
        asked = self._specification.config.plan
        if round < asked.rounds:
            return attempt < self._specification.attempts
        return round == asked.rounds and self._evaluates

    @property
    def _evaluates(self) -> bool:
        return self._specification.privacy.unit == "none" and bool(self._specification.config.plan.metrics)

    def _evaluate(self, model: Vector) -> None:
        """Ask once for the final model's metrics, in runs without differential privacy. It releases no model."""
        round, attempt = self.progress.next_round, self.progress.attempts + 1
        asked = self._specification.config.plan
        # A crash while evaluating is not repeated: the metrics are a courtesy, the model is already released.
        due = (round, attempt) <= (asked.rounds + 1, self._specification.attempts + 1) and not self.progress.attempt
        if not self._evaluates or not due:
            return
        fleet, started = Metered(self._fleet, self._meter), self._clock()
        try:
            with during(self._meter, "wait"):
                cohort = self._gathering.cohort(self.progress)
        except RunFailed:  # nobody is there any more: the run is complete without the last metrics
            return
        try:
            plan, summed, _, mean = self._exchange(round, attempt, model, {}, cohort, fleet)
        except (CohortTooSmall, ProtocolViolation) as error:
            self._abandon(round, attempt, error, fleet)
            return
        self._release(plan, summed, mean, self._checkpoint, fleet, started)

    def _release(
        self, plan: Plan, summed: Summed, mean: Mean, checkpoint: str, fleet: Metered, started: float
    ) -> RoundReleased:
        """Write what was learned: aggregates over the survivors, and what they cost."""
        released = RoundReleased(
            round=plan.round,
            attempt=plan.attempt,
            survivors=summed.survivors,
            refused=summed.refused,
            lost=summed.lost,
            weight=mean.weight,
            metrics=_metrics(plan, mean),
            held_out=mean.held_out,
            saturated=mean.saturated,
            checkpoint=checkpoint,
            bytes_sent=fleet.sent,
            bytes_received=fleet.received,
            seconds=self._clock() - started,
            virtual=None if self._virtual is None else self._virtual(),
            traffic=fleet.traffic,
            server=self._used(),
            costs=told_sums(plan, mean),
        )
        self._journal.append(released)
        return released


def _metrics(plan: Plan, mean: Mean) -> dict[str, float] | None:
    """Mean of each metric over all held-out examples; None where none leave the devices."""
    if not plan.metrics or mean.held_out == 0:
        return None
    values = np.asarray(mean.totals, dtype=np.float64) / mean.held_out
    return {metric.name: float(value) for metric, value in zip(plan.metrics, values, strict=True)}


def _in_a_row(entries: Sequence[Entry]) -> int:
    """Attempts that were abandoned since the last round was released; one that a crash cut off is none of them."""
    since = takewhile(lambda entry: isinstance(entry, AttemptAbandoned | AttemptOpened), reversed(entries))
    return sum(isinstance(entry, AttemptAbandoned) for entry in since)
