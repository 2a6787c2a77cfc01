"""A run in memory: the round loop, the device halves and the mechanisms of a deployment, in one process."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedsus.config import RunConfig
from fedsus.errors import ConfigError
from fedsus.owner.consumption import NO_CONSUMPTION, Consumption
from fedsus.owner.ledger import Ledger
from fedsus.owner.marks import SessionMarks
from fedsus.owner.policy import Policy
from fedsus.rounds.device_half.device import Device
from fedsus.rounds.device_half.seeds import seeded, system_seed
from fedsus.rounds.device_half.sessions import Sessions
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.server import RunLoop
from fedsus.secagg.keys import Identity, Signatures
from fedsus.secagg.roster import Roster, RosterMember
from fedsus.types import Clock, Vector
from fedsus_simulations.scenario.seeding import server_noise
from fedsus_simulations.whole.devices import DeviceFleet

if TYPE_CHECKING:
    from fedsus.tasks.task import DataSource

DATA_ID = "simulated"


def granting(config: RunConfig) -> Policy:
    """A policy that grants what a run asks: a simulation has no owner to ask."""
    asked = config.plan
    private = asked.privacy.unit != "none"
    return Policy.model_validate(
        {
            "privacy": {
                "epsilon": asked.privacy.epsilon if private else 0.0,
                "delta": asked.privacy.delta if private else 0.0,
                "units": [asked.privacy.unit] if private else [],
                "placements": [asked.privacy.where] if private else [],
                "trusted": ["server"] if private and asked.privacy.where == "central" else [],
                "composition": "runs",  # each data set serves one run, granted at the very epsilon that it asks
                "without_dp": not private,
            },
            "cohort": {"minimum": asked.cohort.minimum},
            "exchange": {"clear_sum": asked.exchange == "clear_sum"},
            "secure_sum": {"dropout": 0.5, "colluders": asked.secure_sum.colluders},
            "limits": {
                "local_epochs": asked.training.local_epochs,
                "rounds": asked.rounds,
                "spare_attempts": asked.spares,
            },
            "tasks": {
                config.task.name: {
                    "data": DATA_ID,
                    "settings": {name: [value] for name, value in config.task.settings.items()},
                }
            },
        }
    )


@dataclass(frozen=True, slots=True)
class Members:
    """Fresh identities of simulated clients, and the roster that lists them; nobody signs it, for nobody else reads it.

    Attributes:
        roster: of all of them.
        identities: name -> signing key.
        signatures: shared by all devices: a check that one of them made is not repeated by the others.
    """

    roster: Roster
    identities: Mapping[str, Identity]
    signatures: Signatures

    @classmethod
    def of(cls, names: Iterable[str]) -> Members:
        """Fresh identities."""
        identities = {name: Identity.generate() for name in sorted(names)}
        members = tuple(RosterMember(name=name, key=key.public.hex()) for name, key in identities.items())
        signer = Identity.generate().public.hex()
        roster = Roster(
            federation="simulated",
            number=1,
            previous=None,
            signers=(signer,),
            needed=1,
            seed=secrets.token_hex(32),
            members=members,
        )
        return cls(roster, identities, Signatures(cache=16 * len(members)))

    def sessions(self, name: str, clock: Clock) -> Sessions:
        """One client's part in secure aggregation."""
        marks = SessionMarks(None, clock)
        return Sessions(self.identities[name], lambda _: self.roster, marks, clock, signatures=self.signatures)


def devices(
    config: RunConfig,
    sources: Mapping[str, DataSource],
    reference: str,
    seed: int | None,
    clock: Clock = time.time,
    members: Members | None = None,
    consumption: Consumption = NO_CONSUMPTION,
) -> dict[str, Device]:
    """A device for each client, in this process.

    Args:
        members: identities for a secure sum; None where the plan's exchange is clear.
        sources: client name -> its data.
        reference: the task, a built-in name or ``module:Class``.
        seed: makes training order, sampling and noise repeatable; None draws from the operating system.
        consumption: counts what all of them use together, for one process has one meter; not for plans with costs.
    """
    from fedsus.learning.settings import Compute
    from fedsus.privacy.noise import SeededNoise, SystemNoise

    policy = granting(config)
    return {
        name: Device(
            policy=policy,
            ledger=Ledger(None, clock),
            tasks={config.task.name: reference},
            sources={DATA_ID: source},
            compute=Compute("cpu", 1),
            noise=SystemNoise() if seed is None else SeededNoise(1_000_003 * seed + number),
            seeds=system_seed if seed is None else seeded(seed, name),
            sessions=None if members is None else replace(members.sessions(name, clock), consumption=consumption),
            consumption=consumption,
        )
        for number, (name, source) in enumerate(sorted(sources.items()))
    }


def simulate(
    config: RunConfig,
    folder: Path,
    run: str,
    model: Vector,
    sources: Mapping[str, DataSource],
    *,
    reference: str | None = None,
    seed: int | None = None,
    clock: Clock = time.time,
) -> Vector:
    """Run a whole federation in memory; the final model, (d,) float32. The journal is in ``folder``.

    Raises:
        ConfigError: fewer clients than the plan's cohort.
        RunFailed: no attempts are left.
    """
    if len(sources) < config.plan.cohort.size:
        raise ConfigError(
            f"{len(sources)} clients are given, plan.cohort.size = {config.plan.cohort.size}: "
            "give more with --client NAME=PATH, or lower it"
        )
    members = Members.of(sources) if config.plan.exchange == "secure_sum" else None
    fleet = DeviceFleet(devices(config, sources, reference or config.task.name, seed, clock, members))
    open_run(folder, run, config, model, clock, None if members is None else members.roster)
    noise = None if seed is None else server_noise(seed)
    return RunLoop(folder, fleet, clock=clock, sleep=time.sleep, noise=noise).run()
