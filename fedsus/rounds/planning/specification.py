"""What is fixed when a run opens: configuration, calibrated privacy numbers, roster. No torch, no user code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from fedsus import __version__
from fedsus import plan as plans
from fedsus.config import RunConfig, validate
from fedsus.encoding.mechanisms import mechanism_of
from fedsus.errors import ConfigError, CorruptionError
from fedsus.journal import Journal, blobs
from fedsus.journal.entries import RunOpened
from fedsus.journal.software import installed
from fedsus.plan import Plan
from fedsus.privacy.adversaries import Adversary, Unit, spent
from fedsus.protection import ClientCentral, NoPrivacy, Privacy, measured
from fedsus.rounds.messages import model_hash
from fedsus.rounds.planning.calibrated import calibrated
from fedsus.rounds.planning.withstood import numbers
from fedsus.secagg.roster import Roster
from fedsus.secagg.session import NO_SERVER
from fedsus.strategies import create
from fedsus.types import Arrays, Clock, Vector

NO_MODEL = NO_SESSION = "0" * 64
_MECHANISM, _REFERENCE = "mechanism.", "downlink.reference"
_PRIVACY: TypeAdapter[Privacy] = TypeAdapter(Privacy)


@dataclass(frozen=True, slots=True)
class Specification:
    """What is fixed when a run opens.

    Attributes:
        config: the operator's.
        privacy: with the calibrated numbers.
        roster: whose members are asked; None for `clear_sum`.
        server: what sessions name as their server.
        dimension: parameters of the model; 0 in journals from before it was noted.
    """

    run: str
    config: RunConfig
    privacy: Privacy
    roster: Roster | None = None
    server: str = NO_SERVER
    dimension: int = 0

    @property
    def attempts(self) -> int:
        """Attempts that the run may spend: rounds and spares."""
        return self.config.plan.rounds + self.config.plan.spares

    @property
    def first_plan(self) -> Plan:
        """As the first attempt's plan will be, for a model and a session that are not known yet."""
        session = NO_SESSION if self.config.plan.exchange == "secure_sum" else None
        return self._plan(1, 1, NO_MODEL, max(self.dimension, 1), session, self._first_clip)

    @property
    def goal(self) -> tuple[Unit, Adversary]:
        """The unit that is protected, and the adversary that the run's epsilon is for."""
        unit: Unit = "client" if self.privacy.unit == "client" else "example"
        return unit, "recipients" if isinstance(self.privacy, ClientCentral) else "server"

    def epsilon(self, attempts: int) -> float:
        """What so many attempts spend at the run's delta, of the protected unit, against the strongest adversary that
        the placement protects from; infinity without privacy.

        Raises:
            Refusal: it cannot be computed.
        """
        if isinstance(self.privacy, NoPrivacy):
            return math.inf
        from fedsus.privacy.accounting import epsilon

        return epsilon(spent(self.first_plan, attempts)[self.goal], self.privacy.delta)

    def plan(
        self, round: int, attempt: int, model: Vector, session: str | None = None, clip: float | None = None
    ) -> Plan:
        """The plan of one attempt at one round.

        Args:
            session: the sid (hex) of a secure sum.
            clip: the round's bound where clipping is adaptive.
        """
        return self._plan(round, attempt, model_hash(model), len(model), session, clip)

    @property
    def _first_clip(self) -> float | None:
        adaptive = isinstance(self.privacy, ClientCentral) and self.privacy.adaptive is not None
        return self.privacy.clip if adaptive and isinstance(self.privacy, ClientCentral) else None

    def hash(self, dimension: int) -> str:
        """What devices find as the specification of each plan of this run (hex), for a model of ``dimension``."""
        session = NO_SESSION if self.config.plan.exchange == "secure_sum" else None
        return plans.specification(self._plan(1, 1, NO_MODEL, dimension, session, self._first_clip))

    def _plan(
        self, round: int, attempt: int, model: str, dimension: int, session: str | None, clip: float | None
    ) -> Plan:
        asked = self.config.plan
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
            downlink=asked.downlink,
            metrics=asked.metrics if measured(self.privacy) else (),
            costs=asked.costs if measured(self.privacy) else None,
            cohort=asked.cohort,
            exchange=asked.exchange,
            session=session,
            clip=clip,
            deadline=asked.deadline,
        )


def specified(
    run: str, config: RunConfig, dimension: int, roster: Roster | None = None, server: str = NO_SERVER
) -> Specification:
    """What a run fixes when it opens: its noise is calibrated for rounds + spare attempts, once.

    Raises:
        ConfigError: no noise reaches the asked epsilon, or no cohort of the roster is safe with the asked numbers.
    """

    def spends(privacy: Privacy, attempts: int) -> float:
        return Specification(run, config, privacy, roster, server, dimension).epsilon(attempts)

    privacy = calibrated(config, dimension, roster, spends)
    return Specification(run, config, privacy, roster, server, dimension)


def open_run(
    folder: Path,
    run: str,
    config: RunConfig,
    model: Vector,
    clock: Clock,
    roster: Roster | None = None,
    server: str = NO_SERVER,
    software: Mapping[str, str] | None = None,
) -> Specification:
    """Make a run folder with the opened journal and the initial checkpoint.

    Args:
        roster: for `secure_sum`: whose members are asked during the whole run. Devices check its signatures.
        server: SHA-256 (hex) of the certificate authority that devices pin; zeros where there is none.
        software: what runs here; None for what is installed.

    Raises:
        ConfigError: the encoding cannot carry the cohort, no noise reaches the asked epsilon, or no cohort of the
            roster is safe with the asked numbers.
    """
    specification = specified(run, config, len(model), roster, server)
    secure = config.plan.exchange == "secure_sum"
    mechanism = mechanism_of(specification.first_plan)  # refuses what cannot work
    if secure:
        numbers(config.plan, roster)
    with Journal.create(folder, clock) as journal:
        parts: dict[str, Any] = {"run": config.model_dump(mode="json", exclude_none=True)}
        parts["privacy"] = specification.privacy.model_dump(mode="json")
        if secure and roster is not None:
            parts |= {"roster": roster.model_dump(mode="json"), "server": server}
        parts["dimension"] = len(model)
        checkpoint = blobs.put(folder, joined(create(config.plan.strategy).init(model), mechanism.init()))
        journal.append(
            RunOpened(
                run=run,
                config=parts,
                model_hash=model_hash(model),
                checkpoint=checkpoint,
                fedsus_version=__version__,
                software=dict(installed() if software is None else software),
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
        privacy = _PRIVACY.validate_python(part)
        dimension = int(opened.config.get("dimension", 0))
        members = opened.config.get("roster")
        roster = None if members is None else Roster.model_validate_json(json.dumps(members), strict=True)
    except (KeyError, ConfigError, ValueError, TypeError) as error:
        raise CorruptionError(f"journal: the run's configuration cannot be read: {error}") from None
    return Specification(opened.run, config, privacy, roster, opened.config.get("server", NO_SERVER), dimension)


def joined(strategy: Arrays, mechanism: Arrays, reference: Vector | None = None) -> Arrays:
    """One checkpoint of what strategy and mechanism keep, and of the model that clients trained on last."""
    last = {} if reference is None else {_REFERENCE: reference}
    return {**strategy, **{_MECHANISM + name: array for name, array in mechanism.items()}, **last}


def parted(checkpoint: Arrays) -> tuple[Arrays, Arrays]:
    """Strategy's and mechanism's part of a checkpoint."""
    mechanism = {name[len(_MECHANISM) :]: a for name, a in checkpoint.items() if name.startswith(_MECHANISM)}
    others = {name: a for name, a in checkpoint.items() if not name.startswith(_MECHANISM) and name != _REFERENCE}
    return others, mechanism


def reference_of(checkpoint: Arrays) -> Vector | None:
    """The model (d,) that clients trained on last, where models travel as differences; None before the first round.

    Raises:
        CorruptionError: it is no float32 vector.
    """
    found = checkpoint.get(_REFERENCE)
    if found is not None and (found.dtype != np.float32 or found.ndim != 1):
        raise CorruptionError("checkpoint: the last model of the clients is no float32 vector")
    return found
