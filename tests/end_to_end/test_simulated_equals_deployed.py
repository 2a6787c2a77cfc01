"""A simulated run gives the same model, bit for bit, as whole devices in memory and as a federation of processes.

With the loop trainer, one thread and the same seeds; with masks and without, with privacy and without.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seeded_agent import SEED
from sites import DATA, HOSPITALS, PATIENCE, Sites

from fedsus.config import RunConfig, load, validate
from fedsus.journal import RoundReleased
from fedsus.owner.ledger import Ledger
from fedsus.reporting import read, released_model
from fedsus.rounds.device import Device
from fedsus.rounds.server import RunLoop
from fedsus.rounds.specification import open_run
from fedsus.tasks.task import DataSource
from fedsus.types import Vector
from fedsus_simulations.running.simulation import Simulation
from fedsus_simulations.scenario.config import Scenario
from fedsus_simulations.scenario.seeding import SeededClient
from fedsus_simulations.whole.devices import DeviceFleet
from fedsus_simulations.whole.memory import DATA_ID, Members, granting, simulate

METRICS = """
metrics = [{ name = "loss", low = 0.0, high = 10.0 }, { name = "accuracy", low = 0.0, high = 1.0 }]
"""
PLAN = """
rounds = 3
deadline = 30.0
{metrics}
exchange = "{exchange}"
cohort = { size = 3, minimum = 3 }
secure_sum = { light_deadline = 30.0, grace = 30.0 }
[plan.training]
local_epochs = 2
[plan.training.optimizer]
name = "sgd"
learning_rate = 0.1
momentum = 0.5
[plan.strategy]
name = "fedadam"
learning_rate = 0.05
"""
PRIVACY = """
[plan.privacy]
unit = "example"
epsilon = 0.5
delta = 1e-7
clip = 1.0
sampling_rate = 0.2
denominator = 40.0
"""
PLANS = {
    "open": PLAN.replace("{metrics}", METRICS),
    "private": PLAN.replace("{metrics}", "") + PRIVACY,
}
IN_MEMORY = {
    "rounds": 2,
    "cohort": {"size": 3, "minimum": 2},
    "metrics": [{"name": "loss", "low": 0.0, "high": 10.0}, {"name": "accuracy", "low": 0.0, "high": 1.0}],
}
CASES = [("open", "clear_sum"), ("open", "secure_sum"), ("private", "secure_sum")]
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
    RunLoop(folder, fleet, clock=time.time, sleep=time.sleep).run()
    return facts(folder)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(("kind", "exchange"), CASES)
def test_deployed_and_simulated_are_the_same_run(sites: Sites, tmp_path: Path, kind: str, exchange: str) -> None:
    name = f"equal-{kind}-{exchange}"
    deployed = sites.open("heart", PLANS[kind].replace("{exchange}", exchange), name=name)
    config, start = load(sites.folder / f"{name}.toml", RunConfig), sites.model(name)
    devices = whole_devices(config, tmp_path / "devices", start)
    found = {masks: simulated(config, masks, tmp_path / masks, start) for masks in ("none", "real")}
    sites.wait_for_run(deployed, PATIENCE)
    assert not np.array_equal(released_model(deployed), start)
    assert [fact[:2] for fact in devices] == [(round, 3) for round in range(1, 4 if kind == "private" else 5)]
    assert devices == facts(deployed)
    assert found == {"none": devices, "real": devices}


def test_whole_devices_in_memory_are_the_same_run_too(tmp_path: Path) -> None:
    """What `fedsus_simulations.whole.memory` runs; its noise has seeds of its own."""
    config = validate({"name": "r", "task": {"name": "heart"}, "plan": IN_MEMORY}, RunConfig, "run")
    start = np.zeros(34, dtype=np.float32)
    simulate(config, tmp_path / "memory", "memory", start, sources(), seed=SEED)
    found = [simulated(config, masks, tmp_path / masks, start) for masks in ("none", "real")]
    assert found == [facts(tmp_path / "memory")] * 2
    assert len(found[0]) == 3
