"""Fashion-MNIST on whole devices in this process: policy, ledger, record, trainer, mechanism and masks as deployed.

Nothing is sent, so there is no transport in the joules; bytes are those that would be. One meter of the process is
handed around: what is used while a device answers is that device's, all else the server's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fedsus.config import RunConfig, validate
from fedsus.energy.meter import make_meter
from fedsus.energy.priced import together
from fedsus.errors import DataError
from fedsus.owner.consumption import Consumption
from fedsus.owner.energy_record import history
from fedsus.owner.ledger import Ledger
from fedsus.owner.marks import SessionMarks
from fedsus.plan import Scalar
from fedsus.reporting import read
from fedsus.rounds.device import Device
from fedsus.rounds.seeds import seeded
from fedsus.rounds.server import RunLoop
from fedsus.rounds.sessions import Sessions
from fedsus.rounds.specification import open_run
from fedsus.settings.energy import EnergySettings
from fedsus.tasks import registry
from fedsus.tasks.fashion import FILES
from fedsus.tasks.task import DataSource
from fedsus.types import Answered, Ask, Member, Reply
from fedsus_simulations.benchmarks import joules_spent, simulate_data
from fedsus_simulations.benchmarks import utility_runs as runs
from fedsus_simulations.benchmarks.joules_variants import DELTA, EPSILON, VARIANTS, Variant, turns
from fedsus_simulations.benchmarks.processes import timed
from fedsus_simulations.whole.memory import DATA_ID, Members, granting

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

    from fedsus.costs import Meter, Phase, Usage
    from fedsus.tasks.task import Batch, Task
    from fedsus_simulations.benchmarks.joules_spent import Spent

TASK: Final = "fashion-mnist"
SETTINGS: Final[dict[str, Scalar]] = {"network": "mlp", "width": 64}
SERVER: Final = "server"
_BATCH: Final = 50
_HELD: Final = 100


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


@dataclass(slots=True)
class Images:
    """Runs of all variants in turns.

    Args:
        folder: for journals, ledgers and records, and each device's own images.
        data: the four IDX files.
        each: training images of a device.
        rounds: of each run.
        clients: devices.

    Attributes:
        held_out: images that accuracy is of.

    Raises:
        DataError: no such files, or too few images.
    """

    folder: Path
    data: Path
    each: int
    rounds: int
    clients: int = 10
    task: Task = field(init=False)
    held_out: Batch = field(init=False)
    shared: Shared = field(init=False)

    def __post_init__(self) -> None:
        self.task = registry.build(registry.resolve(TASK), SETTINGS)
        whole = self.task.load(DataSource(self.data))
        self.held_out = whole.held_out
        if whole.size < self.clients * self.each:
            raise DataError(f"{self.data}: {whole.size} images; {self.clients} devices have {self.each} each")
        order = np.random.default_rng(1).permutation(whole.size)[: self.clients * self.each].reshape(self.clients, -1)
        for name, chosen in zip(self.names, order, strict=True):
            _hand_over(self.folder / "data" / name, [*(part[chosen] for part in whole.train), *whole.held_out])
        self.shared = Shared(make_meter(EnergySettings()))

    def measure(self, repetitions: int) -> dict[str, list[Spent]]:
        """Variant -> what each of its runs used.

        Raises:
            RunFailed: a round lost a device, or a figure is missing.
        """
        found: dict[str, list[Spent]] = {variant.name: [] for variant in VARIANTS}
        for repetition in range(repetitions):
            with timed(f"images {repetition + 1}/{repetitions}"):
                for variant in turns(repetition):
                    found[variant.name].append(self.run(variant, repetition))
        return found

    def run(self, variant: Variant, repetition: int) -> Spent:
        """One run with fresh devices; the initial model and the order of training are the repetition's."""
        from fedsus.learning.parameters import flatten

        name = f"{variant.name.replace(', ', '-').replace(' ', '-')}-{repetition}"
        folder, config = self.folder / name, self.config(variant)
        members = Members.of(self.names) if variant.exchange == "secure_sum" else None
        roster = None if members is None else members.roster
        open_run(folder / "run", name, config, flatten(self.task.model(repetition)), time.time, roster)
        with contextlib.ExitStack() as owners:
            devices = {one: self._device(config, folder / one, members, repetition, owners) for one in self.names}
            fleet, seat = Fleet(devices, self.shared), Seat(self.shared, SERVER)
            seat.take()  # what was used before is of no run
            began = time.process_time()
            final = RunLoop(folder / "run", fleet, clock=time.time, sleep=time.sleep, meter=seat).run()
            server = time.process_time() - began - fleet.processor
            spent = [run.epsilon_so_far for device in devices.values() for run in device.ledger.runs(DATA_ID)]
        records = {one: history(folder / one / "energy.jsonl") for one in self.names}
        return replace(
            joules_spent.of_run(read(folder / "run"), records, self.rounds),
            processor={"devices": fleet.processor, "server": server},
            accuracy=runs.accuracy(self.task, final, self.held_out),
            epsilon=max(spent) if variant.private else 0.0,
        )

    @property
    def names(self) -> list[str]:
        """The devices."""
        return [f"device-{number:02}" for number in range(1, self.clients + 1)]

    def config(self, variant: Variant) -> RunConfig:
        """As many steps with DP as without, of as many images on average: Poisson batches."""
        plain: dict[str, Any] = {
            "rounds": self.rounds,
            "deadline": 600.0,
            "cohort": {"size": self.clients, "minimum": self.clients // 2 + 1},
            "training": {
                "local_epochs": 1,
                "batch_size": _BATCH,
                "optimizer": {"name": "sgd", "learning_rate": 0.1},
            },
        }
        privacy = {"unit": "example", "placement": "local", "epsilon": EPSILON, "delta": DELTA, "clip": 1.0}
        # A larger step, as the demo's: each gradient is clipped.
        steps = plain["training"] | {"optimizer": {"name": "sgd", "learning_rate": 0.5}}
        private = plain | {
            "training": steps,
            "privacy": privacy | {"sampling_rate": _BATCH / self.each, "denominator": float(_BATCH)},
        }
        fields = {"task": {"name": TASK, "settings": SETTINGS}, "plan": variant.plan(plain, private)}
        return validate(fields, RunConfig, "benchmark")

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
            tasks={TASK: TASK},
            sources={DATA_ID: DataSource(self.folder / "data" / folder.name)},
            compute=Compute("cpu", 1),
            noise=SystemNoise(),
            seeds=seeded(seed, folder.name),
            sessions=sessions,
            consumption=consumption,
        )


def _hand_over(folder: Path, tensors: Sequence[Tensor]) -> None:
    """The files of one device; of the held-out images a few, for it reports no metrics of them."""
    folder.mkdir(parents=True)
    for file, tensor in zip(FILES, tensors, strict=True):
        kept = tensor if file in FILES[:2] else tensor[:_HELD]
        simulate_data.write_idx(folder / file, kept.numpy().astype(np.uint8))


def _never() -> bool:
    return False
