"""Whole devices in this process: policy, ledger, record, trainer, mechanism and masks as deployed; nothing is sent.

There is no transport in the joules; bytes are those that would be sent. One meter of the process is handed around: what
is used while a device answers is that device's, all else the server's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsus.energy.meters.meter import make_meter
from fedsus.energy.priced import together
from fedsus.owner.consumption import Consumption
from fedsus.owner.energy_record import history
from fedsus.owner.ledger import Ledger
from fedsus.owner.marks import SessionMarks
from fedsus.reporting import read
from fedsus.rounds.device_half.device import Device
from fedsus.rounds.device_half.seeds import seeded
from fedsus.rounds.device_half.sessions import Sessions
from fedsus.rounds.planning.specification import open_run
from fedsus.rounds.server_half.server import RunLoop
from fedsus.settings.energy import EnergySettings
from fedsus.tasks import registry
from fedsus.types import Answered, Ask, Member, Reply
from fedsus_simulations.benchmarks import joules_spent
from fedsus_simulations.whole.memory import DATA_ID, Members, granting

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from fedsus.config import RunConfig
    from fedsus.costs import Meter, Phase, Usage
    from fedsus.tasks.task import DataSource, Task
    from fedsus.types import Vector
    from fedsus_simulations.benchmarks.joules_spent import Spent

SERVER: Final = "server"


class Shared:
    """One meter of this process, whose usage is of whoever has the turn; the server where nobody has."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._turn, self._kept = SERVER, dict[str, "Usage | None"]()

    @contextlib.contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """What is used inside is of ``name``; outside of its own phases it waits, whatever the server does."""
        self._close()
        self._turn = name
        try:
            with self.meter.phase("wait"):
                yield
        finally:
            self._close()
            self._turn = SERVER

    def take(self, name: str) -> Usage | None:
        """What ``name`` used since it was asked last."""
        self._close()
        return self._kept.pop(name, None)

    def _close(self) -> None:
        self._kept[self._turn] = together(self._kept.get(self._turn), self.meter.take())


@dataclass(frozen=True, slots=True)
class Seat:
    """The meter of one of them; see `fedsus.costs.Meter`."""

    shared: Shared
    name: str

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        """As `Meter.phase`."""
        return self.shared.meter.phase(name)

    def take(self) -> Usage | None:
        """As `Meter.take`."""
        return self.shared.take(self.name)


@dataclass(slots=True)
class Fleet:
    """Devices that are asked one after the other, each in its own turn of the meter.

    Attributes:
        processor: seconds that the devices took, by the operating system.
    """

    devices: Mapping[str, Device]
    shared: Shared
    processor: float = 0.0

    def members(self) -> list[Member]:
        """All of them."""
        return [Member(name, name) for name in self.devices]

    def ask(self, ask: Ask) -> Iterator[Reply]:
        """Each reply is handed over before the next device starts."""
        for name in ask.requests:
            device, request, began = self.devices[name], ask.request(name), time.process_time()
            with self.shared.turn(name):
                device.consumption.rest()
                answer = device.answer(request, _never)
                answer.sent()
                device.consumption.rest()
            self.processor += time.process_time() - began
            yield Answered(name, answer.body)


@dataclass(slots=True, kw_only=True)
class Whole:
    """A federation of whole devices, run after run.

    Args:
        folder: for journals, ledgers and records.
        reference: the task, a built-in name or ``module:Class``.
        sources: device -> its data.

    Attributes:
        shared: the one meter.
    """

    folder: Path
    reference: str
    sources: Mapping[str, DataSource]
    shared: Shared = field(default_factory=lambda: Shared(make_meter(EnergySettings())))

    def run(self, config: RunConfig, name: str, seed: int) -> tuple[Spent, Vector]:
        """One run with fresh devices, and its model (d,) float32.

        Args:
            name: of the run, and its folder's, which does not exist yet.
            seed: the initial model's and the order of training's.

        Raises:
            RunFailed: a round lost a device, or a figure is missing.
        """
        from fedsus.learning.parameters import flatten

        folder, task = self.folder / name, self.task(config)
        members = Members.of(self.sources) if config.plan.exchange == "secure_sum" else None
        roster = None if members is None else members.roster
        open_run(folder / "run", name, config, flatten(task.model(seed)), time.time, roster)
        with contextlib.ExitStack() as owners:
            devices = {one: self._device(config, folder / one, members, seed, owners) for one in self.sources}
            fleet, seat = Fleet(devices, self.shared), Seat(self.shared, SERVER)
            seat.take()  # what was used before is of no run
            began = time.process_time()
            final = RunLoop(folder / "run", fleet, clock=time.time, sleep=time.sleep, meter=seat).run()
            server = time.process_time() - began - fleet.processor
            spent = [run.epsilon_so_far for device in devices.values() for run in device.ledger.runs(DATA_ID)]
        records = {one: history(folder / one / "energy.jsonl") for one in self.sources}
        used = joules_spent.of_run(read(folder / "run"), records, config.plan.rounds)
        private = config.plan.privacy.unit != "none"
        processor = {"devices": fleet.processor, "server": server}
        return replace(used, processor=processor, epsilon=max(spent) if private else 0.0), final

    def task(self, config: RunConfig) -> Task:
        """With the run's settings."""
        return registry.build(registry.resolve(self.reference), config.task.settings)

    def _device(
        self, config: RunConfig, folder: Path, members: Members | None, seed: int, owners: contextlib.ExitStack
    ) -> Device:
        """A device whose files are in ``folder``; ``owners`` closes them."""
        from fedsus.learning.settings import Compute
        from fedsus.privacy.noise import SystemNoise

        folder.mkdir(parents=True)
        consumption = Consumption(Seat(self.shared, folder.name), folder / "energy.jsonl", time.time)
        ledger = Ledger(folder / "ledger.sqlite", time.time)
        sessions = None
        if members is not None:
            # With signatures of its own: what another device has checked saves this one nothing.
            key, marks = members.identities[folder.name], SessionMarks(folder / "sessions.jsonl", time.time)
            sessions = Sessions(key, lambda _: members.roster, marks, time.time, consumption=consumption)
            owners.callback(sessions.close)
        owners.callback(ledger.close)
        owners.callback(consumption.close)
        return Device(
            policy=granting(config),
            ledger=ledger,
            tasks={config.task.name: self.reference},
            sources={DATA_ID: self.sources[folder.name]},
            compute=Compute("cpu", 1),
            noise=SystemNoise(),
            seeds=seeded(seed, folder.name),
            sessions=sessions,
            consumption=consumption,
        )


def _never() -> bool:
    return False
