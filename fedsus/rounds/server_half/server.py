"""The server half of a run: plans, exchanges, strategy steps, journal. No torch, no user code, no sockets.

    journal RunOpened -> [AttemptOpened -> exchange -> RoundReleased | AttemptAbandoned]* -> RunClosed

An attempt is written before anyone is asked: a crash counts as spent. A round is released by the entry that
names its checkpoint, so a run that was killed anywhere goes on from the last released round.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedsus import plan as plans
from fedsus.costs import Meter
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.errors import CohortTooSmall, CorruptionError, ProtocolViolation, RunFailed
from fedsus.journal import Journal, RunState, blobs
from fedsus.journal.entries import AttemptAbandoned, AttemptOpened, RoundReleased, RunClosed
from fedsus.plan import Plan
from fedsus.privacy.noise import SystemNoise
from fedsus.rounds.messages import model_hash, request_bytes
from fedsus.rounds.models import Readers, Reference, reference
from fedsus.rounds.planning.specification import joined, parted, reference_of, specification_of
from fedsus.rounds.server_half.absences import Absences, Heard
from fedsus.rounds.server_half.budgets import Budgets, check_counted
from fedsus.rounds.server_half.exchange import Fleet, Metered, clear_sum, conduct, during
from fedsus.rounds.server_half.gathering import Gathering
from fedsus.rounds.server_half.gathering import pause_after as pause_after
from fedsus.rounds.server_half.noting import Reason, UsageOf, in_a_row, released
from fedsus.rounds.server_half.postponing import Postponing, Waits
from fedsus.rounds.server_half.secure import Draw, SecureRounds, draw_anew
from fedsus.strategies import Strategy, create
from fedsus.types import Arrays, Clock, Mean, Member, Noise, Summed, Vector

if TYPE_CHECKING:
    from fedsus.energy.grid.intensity import Intensity

log = logging.getLogger("fedsus.server")

Watch = Callable[[RoundReleased, Vector], None]
"""Told of each released round and the model after it; what it raises ends the run, which can be resumed."""

NoiseSource = Callable[[Plan], Noise]
"""Whose noise a round gets, where the server adds it."""


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
        intensity: whose forecast `[schedule]` goes by, in the time of ``virtual`` or else of ``clock``.
        waits: told until when the run waits, for cleaner hours or for devices that sit out or decline.
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
        intensity: Intensity | None = None,
        waits: Waits | None = None,
    ) -> None:
        self._folder, self._clock = folder, clock
        system = SystemNoise()
        self._noise: NoiseSource = noise or (lambda _: system)
        self._draw, self._virtual, self._watch, self._meter = draw, virtual, watch, meter
        self._journal = Journal.open(folder, clock)
        self._abandoned = in_a_row(self._journal.entries)
        self._usage, self._waited = UsageOf(meter), 0.0
        opened = self._journal.state.opened
        if opened is None:
            raise CorruptionError(f"{folder}: the journal is empty: the run was never opened")
        self._specification = specification_of(opened)
        self._strategy: Strategy = create(self._specification.config.plan.strategy)
        self._readers, self._secure = Readers(), SecureRounds.of(self._specification, clock, draw)
        now, simulated, rest = virtual or clock, virtual is not None, self._usage.sleeping(sleep)
        absences, entries = None if simulated else Absences(now), self._journal.entries
        self._fleet: Fleet = fleet if absences is None else Heard(fleet, absences)
        self._gathering = Gathering(self._specification, self._fleet, self._secure, draw, now, rest, absences, waits)
        schedule = self._specification.config.schedule
        self._postponing = Postponing(schedule, intensity, now, sleep, waits, entries, simulated)
        self._budgets = Budgets(self._specification, entries, simulated)

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
            check_counted(self._specification.config, self._meter is not None)
            try:
                while self.progress.next_round <= self._specification.config.plan.rounds:
                    short = self._budgets.shortage()
                    if short is not None:
                        log.warning("stopped after round %d: %s", self.progress.next_round - 1, short)
                        self._close("stopped", self._model(state), short)
                        return self._model(state)
                    state = self._attempt(state)
            except RunFailed as error:
                self._close("failed", self._model(state), str(error))
                raise
            self._evaluate(state)
            self._close("completed", self._model(state))
            return self._model(state)

    def _close(self, reason: Reason, model: Vector, because: str | None = None) -> None:
        """Name the newest model, if any was released, and what ended a run early."""
        released = (self._checkpoint, model_hash(model)) if self.progress.released else (None, None)
        self._journal.append(RunClosed(reason=reason, model=released[0], model_hash=released[1], because=because))

    def _model(self, state: Arrays) -> Vector:
        """The model in a checkpoint."""
        return self._strategy.model(parted(state)[0])

    def _reference(self, state: Arrays) -> Reference:
        """What clients train on after a checkpoint: its model, or what differences have told of it."""
        with during(self._meter, "encode"):
            return reference(self._model(state), reference_of(state), self._specification.config.plan.downlink)

    @property
    def _checkpoint(self) -> str:
        if self.progress.checkpoint is None:
            raise CorruptionError(f"{self._folder}: the journal names no checkpoint")
        return self.progress.checkpoint

    def _attempt(self, state: Arrays) -> Arrays:
        """One attempt at the next round; the state after it, unchanged if it was abandoned."""
        round, attempt = self.progress.next_round, self.progress.attempts + 1
        if attempt > self._specification.attempts:
            spent = f"round {round}: all {self._specification.attempts} attempts of the run are spent"
            raise RunFailed(spent + self._budgets.beside())
        self._usage.check()
        with during(self._meter, "wait"):
            self._put_off(self._specification.config.plan.rounds - round + 1)
            cohort = self._gathering.cohort(self.progress)
        made, (mine, kept) = self._reference(state), parted(state)
        fleet, started = Metered(self._fleet, self._meter), self._clock()
        try:
            plan, summed, kept, mean = self._exchange(round, attempt, made, kept, cohort, fleet)
        except (CohortTooSmall, ProtocolViolation) as error:
            self._abandon(round, attempt, error, fleet)
            self._pause(round, attempt)
            return state
        self._abandoned = 0
        with during(self._meter, "encode"):
            state = joined(self._strategy.step(mine, mean.delta), kept, made.kept)
            checkpoint = blobs.put(self._folder, state)
        entry = self._release(plan, summed, mean, checkpoint, fleet, started)
        self._waited = 0.0
        blobs.prune(self._folder, self._journal.entries)
        if self._watch is not None:
            self._watch(entry, self._model(state))
        return state

    def _put_off(self, left: int) -> None:
        """Wait for devices that sit out, then for the start of the next of so many rounds."""
        returned, waited = self._gathering.returned(self.progress), self._postponing.wait(left)
        self._waited += waited
        if returned or waited:
            self._usage.mark()

    def _abandon(self, round: int, attempt: int, error: Exception, fleet: Metered) -> None:
        self._journal.append(
            AttemptAbandoned(
                round=round,
                attempt=attempt,
                reason=str(error),
                virtual=None if self._virtual is None else self._virtual(),
                traffic=fleet.traffic,
                server=self._usage.take(),
            )
        )

    def _pause(self, round: int, attempt: int) -> None:
        self._abandoned += 1
        with during(self._meter, "wait"):
            self._gathering.pause(self._abandoned, self._specification.config.plan.spares - attempt + round - 1)

    def _exchange(
        self, round: int, attempt: int, made: Reference, kept: Arrays, cohort: Sequence[Member], fleet: Metered
    ) -> tuple[Plan, Summed, Arrays, Mean]:
        """Ask a cohort; what is released, and the mechanism's next state."""
        clip = float(kept["clip"][0]) if "clip" in kept else None
        secure, clients = self._secure, [member.id for member in cohort]
        if secure is None:
            plan = self._specification.plan(round, attempt, made.model, clip=clip)
            mechanism = mechanism_of(plan)
            self._opened(plan)
            with during(self._meter, "encode"):
                request = self._readers.forms(plan, made, clients).framed(partial(request_bytes, plans.encode(plan)))
                summed = conduct(clear_sum(plan, request, clients, mechanism), fleet)
        else:
            session = secure.session(round, attempt, cohort, len(made.model))
            plan = self._specification.plan(round, attempt, made.model, session.hex(), clip)
            mechanism = mechanism_of(plan)
            self._opened(plan)
            with during(self._meter, "crypto"):
                model = self._readers.forms(plan, made, clients)
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

    def _evaluate(self, state: Arrays) -> None:
        """Ask once for the final model's metrics, in runs without differential privacy. It releases no model."""
        round, attempt = self.progress.next_round, self.progress.attempts + 1
        asked = self._specification.config.plan
        # A crash while evaluating is not repeated: the metrics are a courtesy, the model is already released.
        due = (round, attempt) <= (asked.rounds + 1, self._specification.attempts + 1) and not self.progress.attempt
        if not self._evaluates or not due:
            return
        short = self._budgets.shortage()
        if short is not None:
            log.warning("the last evaluation is left out: %s", short)
            return
        fleet, started = Metered(self._fleet, self._meter), self._clock()
        try:
            with during(self._meter, "wait"):
                cohort = self._gathering.cohort(self.progress, patient=False)
            made = self._reference(state)
        except RunFailed:  # nobody is there any more: the run is complete without the last metrics
            return
        try:
            plan, summed, _, mean = self._exchange(round, attempt, made, {}, cohort, fleet)
        except (CohortTooSmall, ProtocolViolation) as error:
            self._abandon(round, attempt, error, fleet)
            return
        self._release(plan, summed, mean, self._checkpoint, fleet, started)

    def _release(
        self, plan: Plan, summed: Summed, mean: Mean, checkpoint: str, fleet: Metered, started: float
    ) -> RoundReleased:
        """Write what was learned, and what it cost."""
        entry = released(
            plan,
            summed,
            mean,
            checkpoint,
            fleet,
            seconds=max(self._clock() - started, 0.0),
            virtual=None if self._virtual is None else self._virtual(),
            server=self._usage.take(),
            waited=self._waited,
        )
        self._journal.append(entry)
        return entry
