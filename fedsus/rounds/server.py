"""The server half of a run: plans, exchanges, strategy steps, journal. No torch, no user code, no sockets.

    journal RunOpened -> [AttemptOpened -> exchange -> RoundReleased | AttemptAbandoned]* -> RunClosed

An attempt is written before anyone is asked: a crash counts as spent. A round is released by the entry that
names its checkpoint, so a run that was killed anywhere goes on from the last released round.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from fedsus import __version__
from fedsus import plan as plans
from fedsus.config import RunConfig, validate
from fedsus.encoding.mechanism import FixedPoint
from fedsus.errors import CohortTooSmall, ConfigError, CorruptionError, ProtocolViolation, RunFailed
from fedsus.journal import Journal, RunState, blobs
from fedsus.journal.entries import AttemptAbandoned, AttemptOpened, RoundReleased, RunClosed, RunOpened
from fedsus.plan import ExamplePrivacy, NoPrivacy, Plan, Privacy
from fedsus.rounds.exchange import Fleet, Summed, clear_sum, conduct
from fedsus.rounds.messages import encode_request, model_hash
from fedsus.strategies import Strategy, create
from fedsus.types import Arrays, Clock, Mean, Member, Vector

_WAIT_SECONDS: Final = 0.25
_LONGEST_PAUSE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Specification:
    """What is fixed when a run opens: the operator's configuration and the calibrated privacy numbers."""

    run: str
    config: RunConfig
    privacy: Privacy

    @property
    def attempts(self) -> int:
        """Attempts that the run may spend: rounds and spares."""
        return self.config.plan.rounds + self.config.plan.spares

    def plan(self, round: int, attempt: int, model: Vector) -> Plan:
        """The plan of one attempt at one round."""
        asked = self.config.plan
        private = self.privacy.unit != "none"
        return Plan(
            run=self.run,
            purpose="evaluate" if round > asked.rounds else "train",
            round=round,
            attempt=attempt,
            rounds=asked.rounds,
            spare_attempts=asked.spares,
            model=model_hash(model),
            dimension=len(model),
            task=self.config.task,
            training=asked.training,
            privacy=self.privacy,
            encoding=asked.encoding,
            metrics=() if private else asked.metrics,
            cohort=asked.cohort,
            exchange=asked.exchange,
            deadline=asked.deadline,
        )


def calibrated(config: RunConfig) -> Privacy:
    """The plan's privacy part: the noise multiplier for rounds + spare attempts, computed once.

    Raises:
        ConfigError: no noise reaches the asked epsilon.
    """
    asked = config.plan.privacy
    if asked.unit == "none" or asked.epsilon is None or asked.delta is None or asked.denominator is None:
        return NoPrivacy()
    from fedsus.privacy.calibration import calibrate

    steps = round(config.plan.training.local_epochs / asked.sampling_rate)
    total = steps * (config.plan.rounds + config.plan.spares)
    return ExamplePrivacy(
        epsilon=asked.epsilon,
        delta=asked.delta,
        clip=asked.clip,
        sampling_rate=asked.sampling_rate,
        steps=steps,
        denominator=asked.denominator,
        noise_multiplier=calibrate(asked.epsilon, asked.delta, asked.sampling_rate, total),
    )


def open_run(folder: Path, run: str, config: RunConfig, model: Vector, clock: Clock) -> Specification:
    """Make a run folder with the opened journal and the initial checkpoint.

    Raises:
        ConfigError: the encoding cannot carry the cohort, or no noise reaches the asked epsilon.
    """
    specification = Specification(run, config, calibrated(config))
    FixedPoint(specification.plan(1, 1, model))  # refuses what cannot work before anyone is asked
    with Journal.create(folder, clock) as journal:
        parts = {"run": config.model_dump(mode="json", exclude_none=True)}
        parts["privacy"] = specification.privacy.model_dump(mode="json")
        checkpoint = blobs.put(folder, create(config.plan.strategy).init(model))
        journal.append(
            RunOpened(
                run=run, config=parts, model_hash=model_hash(model), checkpoint=checkpoint, fedsus_version=__version__
            )
        )
    return specification


def specification_of(opened: RunOpened) -> Specification:
    """The specification that a journal's first entry holds.

    Raises:
        CorruptionError: it is not one of this version.
    """
    try:
        config = validate(opened.config["run"], RunConfig, "journal")
        part = opened.config["privacy"]
        privacy = (ExamplePrivacy if part["unit"] == "example" else NoPrivacy).model_validate(part)
    except (KeyError, ConfigError, ValueError) as error:
        raise CorruptionError(f"journal: the run's configuration cannot be read: {error}") from None
    return Specification(opened.run, config, privacy)


class RunLoop:
    """Runs a journal's run to its end, from wherever it stands.

    Args:
        folder: the run folder, opened before by `open_run`.
        fleet: who can be asked.
        clock, sleep: time, passed in.
        choose: draws a cohort when more clients are connected than the plan asks.
    """

    def __init__(
        self,
        folder: Path,
        fleet: Fleet,
        *,
        clock: Clock,
        sleep: Callable[[float], None],
        choose: random.Random | None = None,
    ) -> None:
        self._folder, self._fleet, self._clock, self._sleep = folder, fleet, clock, sleep
        self._choose = choose or random.SystemRandom()
        self._abandoned = 0
        self._journal = Journal.open(folder, clock)
        opened = self._journal.state.opened
        if opened is None:
            raise CorruptionError(f"{folder}: the journal is empty: the run was never opened")
        self._specification = specification_of(opened)
        self._strategy: Strategy = create(self._specification.config.plan.strategy)

    @property
    def progress(self) -> RunState:
        """Where the run stands."""
        return self._journal.state

    def run(self) -> Vector:
        """Go on until the last round is released; the final model (d,) float32.

        Raises:
            RunFailed: no attempts are left, or too few devices came.
            CorruptionError: the journal or its checkpoint was changed.
        """
        with self._journal:
            state = blobs.get(self._folder, self._checkpoint)
            if self.progress.closed is not None:
                return self._strategy.model(state)
            try:
                while self.progress.next_round <= self._specification.config.plan.rounds:
                    state = self._attempt(state)
            except RunFailed:
                model = self._checkpoint if self.progress.released else None
                self._journal.append(RunClosed(reason="failed", model=model))
                raise
            self._evaluate(self._strategy.model(state))
            self._journal.append(RunClosed(reason="completed", model=self._checkpoint))
            return self._strategy.model(state)

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
        cohort = self._cohort()
        model = self._strategy.model(state)
        plan = self._specification.plan(round, attempt, model)
        started = self._clock()
        try:
            summed, mean, sent = self._exchange(plan, model, cohort)
        except (CohortTooSmall, ProtocolViolation) as error:
            self._journal.append(AttemptAbandoned(round=round, attempt=attempt, reason=str(error)))
            self._pause()
            return state
        self._abandoned = 0
        state = self._strategy.step(state, mean.delta)
        self._release(plan, summed, mean, blobs.put(self._folder, state), sent, started)
        blobs.prune(self._folder, self._journal.entries)
        return state

    def _pause(self) -> None:
        """Wait longer after each attempt that was abandoned in a row: each costs the devices' budget."""
        self._sleep(min(2.0**self._abandoned, _LONGEST_PAUSE_SECONDS))
        self._abandoned += 1

    def _exchange(self, plan: Plan, model: Vector, cohort: Sequence[str]) -> tuple[Summed, Mean, int]:
        """Ask a cohort; what the server learns, and how many bytes it sent."""
        mechanism = FixedPoint(plan)
        request = encode_request(plan, model)
        self._journal.append(
            AttemptOpened(
                round=plan.round,
                attempt=plan.attempt,
                plan_digest=plans.digest(plans.encode(plan)).hex(),
                cohort=len(cohort),
            )
        )
        summed = conduct(clear_sum(plan, request, cohort, mechanism), self._fleet)
        return summed, mechanism.decode(summed.total, summed.survivors), len(request) * len(cohort)

    def _evaluate(self, model: Vector) -> None:
        """Ask once for the final model's metrics, in runs without differential privacy. It releases no model."""
        round, attempt = self.progress.next_round, self.progress.attempts + 1
        asked = self._specification.config.plan
        # A crash while evaluating is not repeated: the metrics are a courtesy, the model is already released.
        due = (round, attempt) <= (asked.rounds + 1, self._specification.attempts + 1) and not self.progress.attempt
        if self._specification.privacy.unit != "none" or not asked.metrics or not due:
            return
        plan = self._specification.plan(round, attempt, model)
        started = self._clock()
        try:
            cohort = self._cohort()
        except RunFailed:  # nobody is there any more: the run is complete without the last metrics
            return
        try:
            summed, mean, sent = self._exchange(plan, model, cohort)
        except (CohortTooSmall, ProtocolViolation) as error:
            self._journal.append(AttemptAbandoned(round=plan.round, attempt=plan.attempt, reason=str(error)))
            return
        self._release(plan, summed, mean, self._checkpoint, sent, started)

    def _release(self, plan: Plan, summed: Summed, mean: Mean, checkpoint: str, sent: int, started: float) -> None:
        """Write what was learned: aggregates over the survivors, and what they cost."""
        self._journal.append(
            RoundReleased(
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
                bytes_sent=sent,
                bytes_received=summed.received,
                seconds=self._clock() - started,
            )
        )

    def _cohort(self) -> list[str]:
        """Who is asked: all that the plan's size allows, once enough are connected."""
        asked = self._specification.config.plan.cohort
        # The first attempt waits for everyone; later ones take the minimum: one lost device costs no wait.
        wanted = asked.size if self.progress.attempts == 0 else asked.minimum
        patience = self._clock() + self._specification.config.server.wait_for_devices
        while True:
            members: Sequence[Member] = self._fleet.members()
            if len(members) >= wanted:
                break
            if self._clock() >= patience:
                raise RunFailed(
                    f"{len(members)} devices are connected, {wanted} are needed; "
                    f"waited {self._specification.config.server.wait_for_devices:g} s ([server] wait_for_devices)"
                )
            self._sleep(_WAIT_SECONDS)
        if len(members) > asked.size:
            members = sorted(self._choose.sample(list(members), asked.size))
        return [member.id for member in members]


def _metrics(plan: Plan, mean: Mean) -> dict[str, float] | None:
    """Mean of each metric over all held-out examples; None where none leave the devices."""
    if not plan.metrics or mean.held_out == 0:
        return None
    values = np.asarray(mean.totals, dtype=np.float64) / mean.held_out
    return {metric.name: float(value) for metric, value in zip(plan.metrics, values, strict=True)}
