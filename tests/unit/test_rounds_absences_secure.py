"""A secure sum whose devices' days are spent: no attempt is opened in vain, and the run goes on after midnight."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from fake_meter import FakeMeter
from hours import BEGAN, Time

from fedsus.config import RunConfig
from fedsus.journal import AttemptAbandoned, RoundReleased
from fedsus.owner import days
from fedsus.owner.consumption import Consumption
from fedsus.owner.policy import DayBudget
from fedsus.reporting import read
from fedsus.rounds.device_half.device import Device
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.absences import HOUR, SKEW_SECONDS
from fedsus.rounds.server_half.server import RunLoop
from fedsus.tasks.heart import HOSPITALS, shipped
from fedsus.tasks.task import DataSource
from fedsus_simulations.whole.memory import DeviceFleet, Members, devices

NAMES = ("ada", "ben", "cleo")
CONFIG = RunConfig.model_validate(
    {
        "task": {"name": "heart"},
        "plan": {"rounds": 4, "spare_attempts": 2, "cohort": {"size": 3, "minimum": 3}, "deadline": 9.0},
    }
)


def budgeted(device: Device, time: Time, joules: float, **budget: object) -> None:
    """A device with a meter, whose rounds take 8 J or so."""
    found = Consumption(FakeMeter(), None, time)
    assert device._sessions is not None
    device.consumption = device._sessions.consumption = found
    limits = DayBudget.model_validate({"joules": joules, **budget})
    device.policy = device.policy.model_copy(update={"budget": limits})


def run(folder: Path, time: Time, told: bool) -> list[tuple[float | None, str]]:
    waits: list[tuple[float | None, str]] = []
    sources = {name: DataSource(shipped(hospital)) for name, hospital in zip(NAMES, itertools.cycle(HOSPITALS))}
    members = Members.of(sources)
    made = devices(CONFIG, sources, "heart", 5, time, members)
    budgeted(made["ben"], time, 20.0, zone="Asia/Kolkata", tell_until=told)
    open_run(folder, "r", CONFIG, np.zeros(34, np.float32), time, members.roster)
    fleet = DeviceFleet(made)
    RunLoop(folder, fleet, clock=time, sleep=time.sleep, waits=lambda *said: waits.append(said)).run()
    return waits


def test_who_sits_out_says_so_with_the_round_before_and_no_spare_attempt_is_spent(tmp_path: Path) -> None:
    time = Time()
    waits = run(tmp_path, time, told=True)
    entries = read(tmp_path)
    released = [entry for entry in entries if isinstance(entry, RoundReleased)]
    assert [entry.round for entry in released] == [1, 2, 3, 4]
    assert [entry.attempt for entry in released] == [1, 2, 3, 4]
    assert not any(isinstance(entry, AttemptAbandoned) for entry in entries)
    midnight = days.ends(BEGAN, "Asia/Kolkata")
    assert midnight % HOUR == 1800
    (until, why), *rest = [wait for wait in waits if wait[0] is not None]
    assert rest == []
    assert until == midnight + 1800 + SKEW_SECONDS
    assert why == "for 1 of 3 devices, whose day's budget is spent,"


def test_an_owner_who_keeps_the_hour_back_costs_spare_attempts(tmp_path: Path) -> None:
    """The other way round, to show what the hour is for."""
    time = Time()
    with pytest.raises(Exception, match=r"attempts of the run are spent"):
        run(tmp_path, time, told=False)
    assert time.slept < 3600
