"""What is fixed when a run opens: configuration, calibrated privacy numbers, roster. No torch, no user code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsus import __version__
from fedsus import plan as plans
from fedsus.config import RunConfig, validate
from fedsus.encoding.mechanism import FixedPoint
from fedsus.errors import ConfigError, CorruptionError
from fedsus.journal import Journal, blobs
from fedsus.journal.entries import RunOpened
from fedsus.plan import ExamplePrivacy, NoPrivacy, Plan, Privacy
from fedsus.rounds.messages import model_hash
from fedsus.rounds.secure import numbers
from fedsus.secagg.roster import Roster
from fedsus.secagg.session import NO_SERVER
from fedsus.strategies import create
from fedsus.types import Clock, Vector

NO_MODEL = NO_SESSION = "0" * 64


@dataclass(frozen=True, slots=True)
class Specification:
    """What is fixed when a run opens.

    Attributes:
        config: the operator's.
        privacy: with the calibrated numbers.
        roster: whose members are asked; None for `clear_sum`.
        server: what sessions name as their server.
    """

    run: str
    config: RunConfig
    privacy: Privacy
    roster: Roster | None = None
    server: str = NO_SERVER

    @property
    def attempts(self) -> int:
        """Attempts that the run may spend: rounds and spares."""
        return self.config.plan.rounds + self.config.plan.spares

    def plan(self, round: int, attempt: int, model: Vector, session: str | None = None) -> Plan:
        """The plan of one attempt at one round; ``session``: the sid (hex) of a secure sum."""
        return self._plan(round, attempt, model_hash(model), len(model), session)

    def hash(self, dimension: int) -> str:
        """What devices find as the specification of each plan of this run (hex), for a model of ``dimension``."""
        session = NO_SESSION if self.config.plan.exchange == "secure_sum" else None
        return plans.specification(self._plan(1, 1, NO_MODEL, dimension, session))

    def _plan(self, round: int, attempt: int, model: str, dimension: int, session: str | None) -> Plan:
        asked = self.config.plan
        private = self.privacy.unit != "none"
        return Plan(
            run=self.run,
            purpose="evaluate" if round > asked.rounds else "train",
            round=round,
            attempt=attempt,
            rounds=asked.rounds,
            spare_attempts=asked.spares,
            model=model,
            dimension=dimension,
            task=self.config.task,
            training=asked.training,
            privacy=self.privacy,
            encoding=asked.encoding,
            metrics=() if private else asked.metrics,
            cohort=asked.cohort,
            exchange=asked.exchange,
            session=session,
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


def open_run(
    folder: Path,
    run: str,
    config: RunConfig,
    model: Vector,
    clock: Clock,
    roster: Roster | None = None,
    server: str = NO_SERVER,
) -> Specification:
    """Make a run folder with the opened journal and the initial checkpoint.

    Args:
        roster: for `secure_sum`: whose members are asked during the whole run. Devices check its signatures.
        server: SHA-256 (hex) of the certificate authority that devices pin; zeros where there is none.

    Raises:
        ConfigError: the encoding cannot carry the cohort, no noise reaches the asked epsilon, or no cohort of the
            roster is safe with the asked numbers.
    """
    specification = Specification(run, config, calibrated(config), roster, server)
    secure = config.plan.exchange == "secure_sum"
    FixedPoint(specification.plan(1, 1, model, NO_SESSION if secure else None))  # refuses what cannot work
    if secure:
        numbers(config.plan, roster)
    with Journal.create(folder, clock) as journal:
        parts: dict[str, Any] = {"run": config.model_dump(mode="json", exclude_none=True)}
        parts["privacy"] = specification.privacy.model_dump(mode="json")
        if secure and roster is not None:
            parts |= {"roster": roster.model_dump(mode="json"), "server": server}
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
        members = opened.config.get("roster")
        roster = None if members is None else Roster.model_validate_json(json.dumps(members), strict=True)
    except (KeyError, ConfigError, ValueError) as error:
        raise CorruptionError(f"journal: the run's configuration cannot be read: {error}") from None
    return Specification(opened.run, config, privacy, roster, opened.config.get("server", NO_SERVER))
