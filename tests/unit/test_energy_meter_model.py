"""Which model a machine has, from which settings, processor and table."""

from __future__ import annotations

from pathlib import Path

import pytest
from counted_machine import Machine, without

from fedsus.energy.meters.meter import NoMeter, make_meter
from fedsus.energy.meters.model import IDLE_CORE
from fedsus.energy.meters.package import busy_seconds
from fedsus.energy.meters.processors import Processor, processor, tdp
from fedsus.settings.energy import EnergySettings


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
