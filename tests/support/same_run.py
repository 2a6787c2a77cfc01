"""One run in several ways: as whole devices in memory, and simulated with masks or without."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from seeded_agent import SEED
from sites import DATA, HOSPITALS

from fedsus.config import RunConfig, validate
from fedsus.journal import RoundReleased
from fedsus.owner.ledger import Ledger
from fedsus.reporting import read, released_model
from fedsus.rounds.device_half.device import Device
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.server import RunLoop
from fedsus.tasks.task import DataSource
from fedsus.types import Vector
from fedsus_simulations.running.simulation import Simulation
from fedsus_simulations.scenario.config import Scenario
from fedsus_simulations.scenario.seeding import SeededClient, server_noise
from fedsus_simulations.whole.devices import DeviceFleet
from fedsus_simulations.whole.memory import DATA_ID, Members, granting

Facts = list[tuple[Any, ...]]


def sources() -> dict[str, DataSource]:
    return {name: DataSource(DATA / f"{name}.csv") for name in HOSPITALS}


def facts(folder: Path) -> Facts:
    """What each round released; the checkpoint is the hash of the strategy's state with the model."""
    rounds = [entry for entry in read(folder) if isinstance(entry, RoundReleased)]
    return [(one.round, one.survivors, one.checkpoint, one.metrics, one.weight, one.saturated) for one in rounds]


def simulated(config: RunConfig, masks: str, folder: Path, start: Vector) -> Facts:
    """The same run, simulated."""
    fields = config.model_dump(exclude_unset=True)
    population = {"partition": "files", "files": {name: str(source.path) for name, source in sources().items()}}
    loop = {"masks": masks, "trainer": "loop"}
    asked = validate(fields | {"population": population, "simulation": loop, "seed": SEED}, Scenario, "scenario")
    simulation = Simulation.of(asked, folder)
    try:
        model = simulation.run(folder, "simulated", start=start)
    finally:
        simulation.close()
    assert model.tobytes() == released_model(folder).tobytes()
    return facts(folder)


def whole_devices(config: RunConfig, folder: Path, start: Vector) -> Facts:
    """The same run of devices with ledgers, policies and data of their own, one after the other."""
    from fedsus.learning.settings import Compute

    members = Members.of(HOSPITALS) if config.plan.exchange == "secure_sum" else None

    def device(name: str, source: DataSource) -> Device:
        client = SeededClient(SEED, name)
        return Device(
            policy=granting(config),
            ledger=Ledger(None, time.time),
            tasks={"heart": "heart"},
            sources={DATA_ID: source},
            compute=Compute("cpu", 1),
            noise=client,
            seeds=client,
            sessions=None if members is None else members.sessions(name, time.time),
        )

    fleet = DeviceFleet({name: device(name, source) for name, source in sources().items()})
    open_run(folder, "devices", config, start, time.time, None if members is None else members.roster)
    RunLoop(folder, fleet, clock=time.time, sleep=time.sleep, noise=server_noise(SEED)).run()
    return facts(folder)
