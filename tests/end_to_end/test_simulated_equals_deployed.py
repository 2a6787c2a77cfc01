"""A simulated run gives the same model, bit for bit, as whole devices in memory and as a federation of processes.

With the loop trainer, one thread and the same seeds; with masks and without, with privacy and without.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from same_run import facts, simulated, sources, whole_devices
from seeded_agent import SEED
from sites import PATIENCE, Sites

from fedsus.config import RunConfig, load, validate
from fedsus.reporting import released_model
from fedsus_simulations.whole.memory import simulate

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
SHARES = """
placement = "distributed"
"""
DIFFERENCES = """
[plan.downlink]
bits = 4
block = 32
"""
ONE_STEP = PLAN.replace("local_epochs = 2", "").replace("momentum = 0.5", "")
PLANS = {
    "open": PLAN.replace("{metrics}", METRICS),
    "differences": PLAN.replace("{metrics}", METRICS) + DIFFERENCES,
    "private": PLAN.replace("{metrics}", "") + PRIVACY,
    "shares": ONE_STEP.replace("{metrics}", "") + PRIVACY.replace("0.5\n", "3.0\n").replace("1e-7", "1e-5") + SHARES,
}
IN_MEMORY = {
    "rounds": 2,
    "cohort": {"size": 3, "minimum": 2},
    "metrics": [{"name": "loss", "low": 0.0, "high": 10.0}, {"name": "accuracy", "low": 0.0, "high": 1.0}],
}
CASES = [("open", "clear_sum"), ("differences", "secure_sum"), ("private", "secure_sum"), ("shares", "secure_sum")]


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
    assert [fact[:2] for fact in devices] == [(round, 3) for round in range(1, 5 if METRICS in PLANS[kind] else 4)]
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


PLACEMENTS = {
    "example distributed": {
        "privacy": {
            "unit": "example",
            "placement": "distributed",
            "denominator": 60.0,
            "sampling_rate": 0.2,
            "metrics_share": 0.1,
        },
        "metrics": IN_MEMORY["metrics"],
        "costs": {"joules": 50.0, "grams": 0.01},
    },
    "client distributed": {"privacy": {"unit": "client", "metrics_share": 0.1}, "metrics": IN_MEMORY["metrics"]},
    "client central, adaptive": {"privacy": {"unit": "client", "placement": "central", "adaptive": {}}},
    "client central, banded": {"privacy": {"unit": "client", "placement": "central", "bands": 1}},
    "client distributed, projection": {
        "privacy": {"unit": "client"},
        "encoding": {"uplink": {"name": "projection", "share": 0.5}},
    },
}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_noise_of_every_placement_is_the_same_in_devices_and_simulated(placement: str, tmp_path: Path) -> None:
    asked = PLACEMENTS[placement]
    plan = {
        "rounds": 2,
        "cohort": {"size": 3, "minimum": 3},
        **asked,
        "privacy": {"epsilon": 50.0, "delta": 1e-5, "clip": 0.5, **asked["privacy"]},  # type: ignore[dict-item]
    }
    config = validate({"name": "r", "task": {"name": "heart"}, "plan": plan}, RunConfig, "run")
    start = np.zeros(34, dtype=np.float32)
    devices = whole_devices(config, tmp_path / "devices", start)
    found = {masks: simulated(config, masks, tmp_path / masks, start) for masks in ("none", "real")}
    assert found == {"none": devices, "real": devices}
    assert [fact[1] for fact in devices] == [3, 3]
    assert (devices[0][3] is not None) == ("metrics" in asked), "noised metrics where they have a share"
    assert not np.array_equal(released_model(tmp_path / "none"), start)
