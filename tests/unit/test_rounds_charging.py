"""A secure sum with noise in shares: reserved at the fewest survivors, charged for those that are certified."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsus.config import RunConfig, validate
from fedsus.errors import EnvironmentFault
from fedsus.owner import filters
from fedsus.owner.caps import Account
from fedsus.owner.ledger import Ledger
from fedsus.rounds.device_half.device import Device
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.server import RunLoop
from fedsus.tasks import heart
from fedsus.tasks.task import DataSource
from fedsus_simulations.whole.devices import DeviceFleet
from fedsus_simulations.whole.memory import DATA_ID, Members, devices

HEART = Path(heart.__file__).parent / "data" / "heart"
HOSPITALS = ("cleveland", "hungary", "switzerland", "va")
PLAN = {
    "rounds": 1,
    "cohort": {"size": 4, "minimum": 3},
    "secure_sum": {"colluders": 1, "dropouts": 1},
    "privacy": {"unit": "client", "epsilon": 8.0, "delta": 1e-5, "clip": 1.0},
}


def after_a_round(folder: Path, **caps: float) -> dict[str, Device]:
    """Four hospitals' devices after a run of one round; ``caps``: of those that grant less than it takes."""
    config = validate({"name": "r", "task": {"name": "heart"}, "plan": PLAN}, RunConfig, "run")
    sources = {name: DataSource(HEART / f"{name}.csv") for name in HOSPITALS}
    members = Members.of(sources)
    found = devices(config, sources, "heart", 7, time.time, members)
    for name, device in found.items():
        changes = {"composition": "renyi", "epsilon": caps.get(name, 12.0)}
        privacy = device.policy.privacy.model_copy(update=changes)
        device.policy = device.policy.model_copy(update={"privacy": privacy})
    open_run(folder, "r", config, np.zeros(34, dtype=np.float32), time.time, members.roster)
    RunLoop(folder, DeviceFleet(found), clock=time.time, sleep=time.sleep).run()
    return found


def kinds(device: Device) -> list[str]:
    return [entry["type"] for entry in device.ledger.export()]


def charged(device: Device, unit: Any = "client", order: int = 8) -> float:
    return filters.divergence(device.ledger.standing(Account(DATA_ID, unit, "server")).tally, order)


def test_more_survivors_than_the_fewest_cost_less(tmp_path: Path) -> None:
    for device in after_a_round(tmp_path / "r").values():
        assert kinds(device) == ["granted", "opened", "reserved", "released", "committed"]
        _, opened, reserved, _, committed = device.ledger.export()
        assert (committed["survivors"], reserved["events"]) == (4, None)
        # the server knows one share: of four survivors three are left, of the fewest, three, two
        worst = filters.divergence({opened["events"]["client/server"]: 1}, 8)
        assert charged(device) == pytest.approx(worst * 2 / 3, rel=0.01)


def test_who_could_break_a_cap_refuses_the_first_round_and_a_full_disk_keeps_the_reservation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise EnvironmentFault("ledger: No space left on device")

    monkeypatch.setattr(Ledger, "commit", full)
    found = after_a_round(tmp_path / "r", va=4.0)
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    (refusal,) = [line for line in lines if line.startswith("refused: ")]
    assert refusal.startswith("refused: data 'simulated', client against server: run 'r' asks epsilon ")
    assert "of what the cap 4 (delta 1e-05) lets pass" in refusal
    assert "0% is spent" in refusal
    assert kinds(found["va"]) == []
    for name in HOSPITALS[:3]:
        assert kinds(found[name]) == ["granted", "opened", "reserved", "released"]
        opened = found[name].ledger.export()[1]
        assert charged(found[name]) == filters.divergence({opened["events"]["client/server"]: 1}, 8)
    assert lines.count("charged for the fewest survivors: ledger: No space left on device") == 3
