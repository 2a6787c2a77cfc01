"""GPUs by a fake NVML, and AMD's by a fake amdsmi: several, lost ones, shared and unused ones."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from counted_machine import Machine, taken, without

from fedsus.energy.meters import amd, nvml
from fedsus.energy.meters.gpu import GpuPart
from fedsus.energy.meters.machine import look
from fedsus.energy.meters.meter import PartsMeter
from fedsus.energy.meters.phases import Work
from fedsus.errors import EnvironmentFault
from fedsus.settings.energy import EnergySettings


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


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


def an_amdsmi(counts: dict[str, int]) -> Any:
    return types.SimpleNamespace(
        amdsmi_init=lambda: None,
        amdsmi_get_processor_handles=lambda: list(counts),
        amdsmi_get_energy_count=lambda handle: {"energy_accumulator": counts[handle], "counter_resolution": 15.0},
        amdsmi_get_gpu_asic_info=lambda handle: {"market_name": "AMD Instinct MI250X"},
        amdsmi_get_power_cap_info=lambda handle: {"power_cap": 500_000_000},
    )


def test_amds_gpus_and_the_half_that_is_counted_in_the_other(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"a": 1_000_000, "b": 0}
    monkeypatch.setitem(sys.modules, "amdsmi", an_amdsmi(counts))
    (gpu,) = amd.find()
    assert (gpu.name, gpu.limit, gpu.read()) == ("GPU 0 (AMD Instinct MI250X)", 500.0, 15.0)
    meter = PartsMeter([GpuPart(gpu, lambda: True)], machine.times, counters=[gpu])
    machine.work(10.0, 10.0)
    counts["a"] += int(2565e6 / 15)
    assert taken(meter).total == pytest.approx(2565 - 565)
    counts.clear()
    machine.work(10.0, 10.0)
    assert taken(meter).method == "assumed"


def test_amds_gpus_that_cannot_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "amdsmi", None)
    assert amd.find() == []
    monkeypatch.setitem(sys.modules, "amdsmi", an_amdsmi({"a": 0}))
    with pytest.raises(EnvironmentFault, match="reads 0"):
        amd.find()
    monkeypatch.setitem(sys.modules, "amdsmi", types.SimpleNamespace(amdsmi_init=lambda: 1 // 0))
    with pytest.raises(EnvironmentFault, match="amdsmi: integer division"):
        amd.find()
