"""Counters that wrap around, begin anew, jump, stand still, vanish or may not be read: files, and a fake NVML."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsus.costs import Usage
from fedsus.energy import engine, nvml, rapl
from fedsus.energy.counters import LAG, Lost, between
from fedsus.energy.gpu import GpuPart
from fedsus.energy.machine import Hardware, look
from fedsus.energy.meter import NoMeter, PartsMeter, make_meter
from fedsus.energy.model import IDLE_CORE, Model, Range
from fedsus.energy.package import Packages, busy_seconds
from fedsus.energy.phases import Times, Work
from fedsus.energy.processors import Processor, processor, tdp
from fedsus.errors import EnvironmentFault
from fedsus.settings.energy import EnergySettings

MODEL = Model(core=Range(value=4.0, low=2.0, high=8.0), idle=5.0, method="modelled", source="the model")
RANGE = 262_143_328_850


@dataclass
class Machine:
    """A machine of 4 cores whose time, work and energy pass when the test says so."""

    root: Path
    steady: float = 100.0
    process: float = 0.0
    busy: float = 1000.0
    zones: dict[str, int] = field(default_factory=dict)

    @property
    def times(self) -> Times:
        return Times(lambda: self.steady, lambda: self.process, lambda: 0.0)

    def zone(self, folder: str, name: str, microjoules: int, most: int = RANGE) -> None:
        path = self.root / folder
        path.mkdir(parents=True)
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{most}\n")
        self.set(folder, microjoules)

    def set(self, folder: str, microjoules: int | str) -> None:
        (self.root / folder / "energy_uj").write_text(f"{microjoules}\n")
        if isinstance(microjoules, int):
            self.zones[folder] = microjoules

    def draw(self, folder: str, joules: float) -> None:
        self.set(folder, int(self.zones[folder] + joules * 1e6) % RANGE)

    def work(self, seconds: float, process: float, others: float = 0.0) -> None:
        self.steady += seconds
        self.process += process
        self.busy += process + others

    def packages(self, counters: Sequence[rapl.Rapl]) -> Packages:
        return Packages(list(counters), MODEL, 4, lambda: self.busy)

    def meter(self, refuse: bool = False) -> PartsMeter:
        counters = rapl.find(self.root)
        return PartsMeter([self.packages(counters)], self.times, counters=counters, refuse=refuse)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.zone("intel-rapl:0", "package-0", 1_000_000)
    return made


def taken(meter: PartsMeter) -> Usage:
    usage = meter.take()
    assert usage is not None
    assert 0 <= usage.low <= usage.total <= usage.high
    return usage


def test_packages_and_memory_count_once_each(machine: Machine) -> None:
    machine.zone("intel-rapl:0:0", "core", 7)
    machine.zone("intel-rapl:0:2", "dram", 9)
    machine.zone("intel-rapl:1", "package-1", 500)
    machine.zone("intel-rapl:2", "psys", 500)
    machine.zone("intel-rapl-mmio:0", "package-0", 1_000_000)
    found = [counter.name for counter in rapl.find(machine.root)]
    assert found == ["RAPL package-0", "RAPL dram-0", "RAPL package-1"]


def test_dies_that_show_one_counter_count_once(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    for die, microjoules in enumerate((50_000_000, 50_000_900, 80_000_000)):
        machine.zone(f"intel-rapl:{die}", f"package-0-die-{die}", microjoules)
    assert [counter.name for counter in rapl.find(tmp_path)] == ["RAPL package-0-die-0", "RAPL package-0-die-2"]


def test_above_idle_alone_and_by_phase(machine: Machine) -> None:
    meter = machine.meter()
    with meter.phase("train"):
        machine.work(10.0, 10.0)
        machine.draw("intel-rapl:0", 250.0)
    usage = taken(meter)
    assert usage.joules == {"train": pytest.approx(200.0)}
    assert usage.idle == pytest.approx(50.0)
    assert (usage.method, usage.source) == ("counter", "RAPL package-0")
    # Idle watts that were not seen may be none, or twice what the model says.
    assert usage.low == pytest.approx(150 * 0.95) and usage.high == pytest.approx(250 * 1.05)


def test_idle_watts_are_those_of_a_second_in_which_nothing_ran(machine: Machine) -> None:
    meter = machine.meter()
    with meter.phase("wait"):
        machine.work(20.0, 0.01)
        machine.draw("intel-rapl:0", 160.0)
    with meter.phase("train"):
        machine.work(10.0, 40.0)
        machine.draw("intel-rapl:0", 480.0)
    usage = taken(meter)
    assert usage.joules["train"] == pytest.approx(400.0, rel=0.02)
    assert usage.idle == pytest.approx(240.0, rel=0.02)
    assert usage.high - usage.low < 0.2 * usage.total


def test_other_processes_keep_their_share(machine: Machine) -> None:
    meter = machine.meter()
    with meter.phase("train"):
        machine.work(10.0, 10.0, others=30.0)
        machine.draw("intel-rapl:0", 450.0)
    usage = taken(meter)
    assert usage.total == pytest.approx(100.0)
    assert usage.low < 0.7 * 100 and usage.high > 1.5 * 100
    assert "share of the processor time" in usage.boundary


def test_borders_tell_phases_of_different_watts_apart(machine: Machine) -> None:
    meter = machine.meter()
    for phase, joules in (("train", 450.0), ("crypto", 150.0)):
        with meter.phase(phase):  # type: ignore[arg-type]
            machine.work(10.0, 10.0)
            machine.draw("intel-rapl:0", joules)
    assert taken(meter).joules == {"train": pytest.approx(400.0), "crypto": pytest.approx(100.0)}


def test_a_counter_that_wraps_around(machine: Machine) -> None:
    machine.set("intel-rapl:0", RANGE - 100_000_000)
    meter = machine.meter()
    with meter.phase("train"):
        machine.work(10.0, 10.0)
        machine.draw("intel-rapl:0", 250.0)
    usage = taken(meter)
    assert machine.zones["intel-rapl:0"] == 150_000_000
    assert (usage.method, usage.total) == ("counter", pytest.approx(200.0, abs=1e-3))


def begins_anew(machine: Machine) -> None:
    machine.set("intel-rapl:0", 3)


def jumps(machine: Machine) -> None:
    machine.draw("intel-rapl:0", 20_000.0)


def stands_still(machine: Machine) -> None:
    machine.draw("intel-rapl:0", 0.0)


def vanishes(machine: Machine) -> None:
    (machine.root / "intel-rapl:0" / "energy_uj").unlink()


def says_nonsense(machine: Machine) -> None:
    machine.set("intel-rapl:0", "-17")


FAULTS: list[tuple[Callable[[Machine], None], str]] = [
    (begins_anew, "began anew"),
    (jumps, "jumped"),
    (stands_still, "stands still"),
    (vanishes, "cannot be read"),
    (says_nonsense, "cannot be read"),
]


@pytest.mark.parametrize(("fault", "why"), FAULTS)
def test_an_unknown_interval_is_the_models_and_marked(
    machine: Machine, fault: Callable[[Machine], None], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    machine.set("intel-rapl:0", 50_000_000)
    meter = machine.meter()
    with meter.phase("train"):
        machine.work(10.0, 10.0)
        fault(machine)
    with caplog.at_level(logging.WARNING, "fedsus.energy"):
        usage = taken(meter)
    assert usage.joules == {"train": pytest.approx(40.0)}
    assert usage.method == "modelled" and usage.source.startswith(f"the model, for RAPL package-0 {why}")
    assert [record.getMessage().startswith(f"energy: RAPL package-0 {why}") for record in caplog.records] == [True]


@pytest.mark.parametrize(("fault", "why"), FAULTS)
def test_who_refuses_to_assume_gets_an_error(machine: Machine, fault: Callable[[Machine], None], why: str) -> None:
    machine.set("intel-rapl:0", 50_000_000)
    meter = machine.meter(refuse=True)
    machine.work(10.0, 10.0)
    fault(machine)
    with pytest.raises(EnvironmentFault, match=f'^energy: RAPL package-0 {why}.*missing = "refuse"') as caught:
        meter.take()
    assert "\n" not in str(caught.value)


def test_a_counter_that_comes_back_counts_again(machine: Machine) -> None:
    meter = machine.meter()
    machine.work(10.0, 10.0)
    machine.set("intel-rapl:0", "")
    assert taken(meter).method == "modelled"
    machine.work(10.0, 10.0)
    machine.set("intel-rapl:0", 900_000_000)
    # What it says now has no reading before it.
    assert taken(meter).method == "modelled"
    machine.work(10.0, 10.0)
    machine.draw("intel-rapl:0", 250.0)
    assert (taken(meter).method, machine.zones["intel-rapl:0"]) == ("counter", 1_150_000_000)


def test_one_package_that_fails_leaves_no_half_figure(machine: Machine) -> None:
    machine.zone("intel-rapl:1", "package-1", 70_000_000)
    meter = machine.meter()
    machine.work(10.0, 10.0)
    machine.draw("intel-rapl:0", 3000.0)
    machine.set("intel-rapl:1", 3)
    assert taken(meter).total == pytest.approx(40.0)
    machine.work(10.0, 10.0)
    machine.draw("intel-rapl:0", 100.0)
    machine.draw("intel-rapl:1", 100.0)
    assert taken(meter).total == pytest.approx(150.0)


def test_an_hour_without_reading_may_have_wrapped_around(machine: Machine) -> None:
    meter = machine.meter()
    machine.work(3600.0, 10.0)
    machine.draw("intel-rapl:0", 40_000.0)
    assert "was not read in time" in taken(meter).source


def test_an_interval_of_no_length_is_zero_and_valid(machine: Machine) -> None:
    meter = machine.meter()
    usage = taken(meter)
    assert (usage.seconds, usage.total, usage.idle, usage.high) == (0.0, 0.0, 0.0, 0.0)


def test_a_clock_set_back_and_a_suspended_machine_change_nothing(machine: Machine) -> None:
    """No date is read: the only clock is one that neither goes back nor runs while the machine is off."""
    import time

    times = Times()
    assert (times.steady, times.process, times.thread) == (time.monotonic, time.process_time, time.thread_time)
    assert not time.get_clock_info("monotonic").adjustable
    meter = machine.meter()
    machine.work(10.0, 10.0)
    machine.draw("intel-rapl:0", 250.0)
    assert taken(meter).idle == pytest.approx(50.0)


@given(
    before=st.floats(0, 262_143),
    now=st.floats(0, 262_143),
    seconds=st.floats(0, 1e5),
    wraps=st.sampled_from([None, 262_143.328]),
)
def test_nothing_negative_and_nothing_impossible(
    before: float, now: float, seconds: float, wraps: float | None
) -> None:
    counter = types.SimpleNamespace(name="c", wraps=wraps, most=1000.0, read=lambda: 0.0)
    found = between(before, now, seconds, counter)
    assert isinstance(found, Lost) or 0 <= found <= 1000.0 * (seconds + LAG)
    assert not (found == 0 and seconds >= 1)


def test_a_counter_that_only_root_may_read(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def as_a_user(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", as_a_user)
    hardware = without(rapl=lambda: rapl.find(machine.root))
    with pytest.raises(EnvironmentFault, match="only root may read it; .*docs/energy.md") as caught:
        look(EnergySettings(meter="counter", missing="refuse"), hardware)
    assert "\n" not in str(caught.value)
    assumed = look(EnergySettings(meter="counter"), hardware)
    assert assumed.counters == () and "only root may read it" in assumed.notes[0]
    assert assumed.lines[0].source == "model: P1, 60 W TDP, 4 cores"


def without(**given: Any) -> Hardware:
    """A machine of 4 cores without any counter, but for what is given."""

    def none() -> list[rapl.Rapl]:
        return rapl.find(Path("/nowhere"))

    known = {"rapl": none, "nvidia": list, "amd": list, "processor": lambda: Processor(name="P1", cores=4)}
    return Hardware(**(known | {"tdp": lambda name: 60.0 if name == "P1" else None} | given))


def test_what_is_off_is_absent_and_not_zero() -> None:
    meter = make_meter(EnergySettings(meter="off"))
    assert isinstance(meter, NoMeter)
    with meter.phase("train"):
        assert meter.take() is None


@pytest.mark.parametrize(
    ("settings", "cpu", "joules", "method"),
    [
        (EnergySettings(), Processor(name="P1", cores=4), 10 * 0.8 * 60 / 4, "modelled"),
        (EnergySettings(meter="model"), Processor(name="P1", cores=8, sockets=2), 10 * 0.8 * 120 / 8, "modelled"),
        (EnergySettings(watts=100.0), Processor(name="P1", cores=4), 10 * 25, "assumed"),
        (EnergySettings(), Processor(name="P1", cores=4, virtual=True), 10 * 3.1, "assumed"),
        (EnergySettings(), Processor(name="", cores=4), 10 * 3.1, "assumed"),
    ],
)
def test_which_model(settings: EnergySettings, cpu: Processor, joules: float, method: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    meter = make_meter(settings, machine.times, without(processor=lambda: cpu))
    with meter.phase("train"):
        machine.work(20.0, 10.0)
    usage = meter.take()
    assert usage is not None and usage.joules == {"train": pytest.approx(joules)} and usage.method == method
    assert usage.low < 0.8 * usage.total and usage.high > 1.5 * usage.total


def test_declared_idle_watts_are_the_whole_machines(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    cpu = Processor(name="", cores=4)
    idle = []
    for settings in (EnergySettings(idle_watts=30.0), EnergySettings(idle_watts=0.0), EnergySettings()):
        meter = make_meter(settings, machine.times, without(processor=lambda: cpu))
        machine.work(20.0, 10.0)
        usage = meter.take()
        assert usage is not None
        idle.append(usage.idle)
    assert idle == [600.0, 0.0, pytest.approx(20 * 4 * IDLE_CORE)]


class NVMLError(Exception):
    pass


class LibraryNotFound(NVMLError):
    pass


class DriverNotLoaded(NVMLError):
    pass


@dataclass
class Nvml:
    """What NVML reads: millijoules of each GPU, None of one that fell off the bus; and who computes on it."""

    millijoules: list[int | None]
    processes: list[int] = field(default_factory=lambda: [0, 0, 0])
    NVMLError = NVMLError
    NVMLError_LibraryNotFound = LibraryNotFound
    NVMLError_DriverNotLoaded = DriverNotLoaded
    starts: NVMLError | None = None

    def nvmlInit(self) -> None:  # noqa: N802
        if self.starts:
            raise self.starts

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.millijoules)

    def __getattr__(self, name: str) -> Callable[[int], Any]:
        answers: dict[str, Callable[[int], Any]] = {
            "nvmlDeviceGetHandleByIndex": lambda i: i,
            "nvmlDeviceGetUUID": lambda i: f"GPU-{'abc'[i]}0",
            "nvmlDeviceGetName": lambda i: b"A100",
            "nvmlDeviceGetEnforcedPowerLimit": lambda i: 400_000,
            "nvmlDeviceGetComputeRunningProcesses": lambda i: ["p"] * self.processes[i],
            "nvmlDeviceGetUtilizationRates": lambda i: types.SimpleNamespace(gpu=0),
            "nvmlDeviceGetPowerUsage": lambda i: 40_000,
            "nvmlDeviceGetTotalEnergyConsumption": self.energy,
        }
        return answers[name]

    def energy(self, index: int) -> int:
        value = self.millijoules[index]
        if value is None:
            raise NVMLError("GPU is lost")
        return value


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    fake = Nvml([1_000_000, 5_000_000])
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    return fake


def gpu_meter(machine: Machine, found: Sequence[nvml.Gpu], used: bool = True) -> PartsMeter:
    return PartsMeter([GpuPart(gpu, lambda: used) for gpu in found], machine.times, counters=found)


def test_several_gpus_and_one_that_falls_off_the_bus(machine: Machine, gpus: Nvml) -> None:
    meter = gpu_meter(machine, nvml.find({}))
    with meter.phase("train"):
        machine.work(10.0, 10.0)
        gpus.millijoules = [1_000_000 + 1_400_000, 5_000_000 + 3_400_000]
    usage = taken(meter)
    assert usage.joules == {"train": pytest.approx(1000.0 + 3000.0)}
    assert (usage.method, usage.source, usage.idle) == ("counter", "GPU 0 (A100); GPU 1 (A100)", pytest.approx(800.0))
    with meter.phase("train"):
        machine.work(10.0, 10.0)
        gpus.millijoules = [2_400_000 + 1_400_000, None]
    lost = taken(meter)
    assert lost.total == pytest.approx(1000.0 + 3000.0)
    assert lost.method == "assumed" and "GPU 1 (A100) cannot be read" in lost.source
    assert lost.high >= 1000 + 4000


@pytest.mark.parametrize("millijoules", [7, 10**9])
def test_a_gpu_whose_driver_is_loaded_again_or_jumps(machine: Machine, gpus: Nvml, millijoules: int) -> None:
    meter = gpu_meter(machine, nvml.find({"CUDA_VISIBLE_DEVICES": "0"}))
    machine.work(10.0, 10.0)
    gpus.millijoules[0] = millijoules
    usage = taken(meter)
    assert usage.method == "assumed" and usage.total == pytest.approx((400 - 40) / 2 * 10)
    assert (usage.low, usage.high) == (0.0, 4000.0)


def test_a_gpu_that_others_use_too(machine: Machine, gpus: Nvml) -> None:
    meter = gpu_meter(machine, nvml.find({"CUDA_VISIBLE_DEVICES": "GPU-a"}))
    machine.work(10.0, 10.0)
    gpus.millijoules[0], gpus.processes[0] = 2_400_000, 3
    usage = taken(meter)
    assert usage.total == pytest.approx(1000.0) and usage.low <= 1000 / 3
    assert "other processes on it included" in usage.boundary


def test_a_gpu_that_this_process_does_not_use_is_not_its_cost(machine: Machine, gpus: Nvml) -> None:
    meter = gpu_meter(machine, nvml.find({}), used=False)
    machine.work(10.0, 10.0)
    gpus.millijoules = [2_400_000, 9_000_000]
    assert taken(meter).total == 0


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, [0, 1]),
        ("", []),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("GPU-b", [1]),
        ("0,7,1", [0]),
        ("-1", []),
        ("MIG-x", [0, 1]),
    ],
)
def test_which_gpus_are_visible(wanted: str | None, found: list[int]) -> None:
    assert nvml.visible(["GPU-a0", "GPU-b0"], wanted) == found


def test_no_driver_is_no_gpu_and_a_broken_one_an_error(gpus: Nvml) -> None:
    gpus.starts = LibraryNotFound("no library")
    assert nvml.find({}) == []
    gpus.starts = NVMLError("mismatch of versions")
    with pytest.raises(EnvironmentFault, match="NVML does not start: mismatch of versions"):
        nvml.find({})
    broken = look(EnergySettings(), without(nvidia=lambda: nvml.find({})))
    assert "mismatch of versions" in " ".join(broken.notes)
    spent = broken.parts[-1].spend(Work(1.0, {"train": 1.0}))
    assert "without its GPUs" in spent.boundaries[0]


def test_amds_gpus_by_codecarbon(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    from codecarbon.core import gpu_amd

    counts = {"a": 1_000_000, "b": 0}
    smi = types.SimpleNamespace(
        amdsmi_init=lambda: None,
        amdsmi_get_processor_handles=lambda: list(counts),
        amdsmi_get_energy_count=lambda handle: {"energy_accumulator": counts[handle], "counter_resolution": 15.0},
        amdsmi_get_gpu_metrics_info=lambda handle: {},
        amdsmi_get_gpu_asic_info=lambda handle: {"market_name": "AMD Instinct MI250X"},
        amdsmi_get_gpu_device_uuid=lambda handle: handle,
        amdsmi_get_gpu_vram_usage=lambda handle: {"vram_total": 8, "vram_used": 1},
        amdsmi_get_power_cap_info=lambda handle: {"power_cap": 500_000_000},
        amdsmi_get_power_info=lambda handle: {"average_socket_power": 90},
        amdsmi_exception=types.SimpleNamespace(AmdSmiLibraryException=RuntimeError),
    )
    monkeypatch.setattr(gpu_amd, "amdsmi", smi)
    monkeypatch.setattr(gpu_amd, "AMDSMI_AVAILABLE", True)
    monkeypatch.setattr(engine, "find_spec", lambda name: object())
    (gpu,) = engine.find()
    assert (gpu.name, gpu.limit, gpu.read()) == ("GPU 0 (AMD Instinct MI250X)", 500.0, 15.0)
    meter = PartsMeter([GpuPart(gpu, lambda: True)], machine.times, counters=[gpu])
    machine.work(10.0, 10.0)
    counts["a"] += int(2565e6 / 15)
    assert taken(meter).total == pytest.approx(2565 - 565)


def test_the_processors_of_a_machine(tmp_path: Path) -> None:
    text = "model name\t: Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz\nphysical id\t: {}\nflags\t\t: fpu {}\n\n"
    file = tmp_path / "cpuinfo"
    file.write_text(text.format(0, "sse") + text.format(1, "sse"))
    real = processor(file)
    assert (real.name, real.sockets, real.virtual) == ("Intel(R) Xeon(R) Gold 6248 CPU @ 2.50GHz", 2, False)
    file.write_text(text.format(0, "hypervisor sse"))
    assert processor(file).virtual
    assert processor(tmp_path / "none").name is not None


@pytest.mark.parametrize(
    ("name", "watts"),
    [
        ("AMD EPYC 7763 64-Core Processor", 280.0),
        ("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz", 15.0),
        ("12th Gen Intel(R) Core(TM) i7-12700H", 45.0),
        ("Apple M2 Pro", 35.0),
        ("AMD EPYC", None),
        ("", None),
    ],
)
def test_the_table_knows_a_processor_or_does_not(name: str, watts: float | None) -> None:
    assert tdp(name) == watts


def test_a_table_that_contradicts_itself_or_is_no_number_knows_nothing() -> None:
    assert tdp("P1", [("P1", "65"), ("p1", "105")]) is None
    assert tdp("P1", [("P1", "27.29.5")]) is None
    assert tdp("P1", [("P1", "inf")]) is None
    assert tdp("P1", [("P1", "0")]) is None
    assert tdp("P1", [("P1 (R)", "65")]) == 65.0


def test_busy_seconds_of_the_machine(tmp_path: Path) -> None:
    file = tmp_path / "stat"
    file.write_text("cpu  100 20 30 9999 999 5 5 77 50 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    first = busy_seconds(file)
    file.write_text("cpu  200 20 30 99999 9999 5 5 77 150 0\n")
    second = busy_seconds(file)
    assert first is not None and second is not None
    assert second / first == pytest.approx(260 / 160)
    file.write_text("nothing\n")
    assert busy_seconds(file) is None and busy_seconds(tmp_path / "none") is None
