"""RAPL that wraps around, begins anew, jumps, stands still, vanishes or may not be read: read from files."""

from __future__ import annotations

import gc
import logging
import os
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from counted_machine import RANGE, Machine, taken, without
from hypothesis import given
from hypothesis import strategies as st

from fedsus.energy.meters import rapl
from fedsus.energy.meters.counters import LAG, Lost, between
from fedsus.energy.meters.machine import look
from fedsus.energy.meters.meter import make_meter, watched
from fedsus.energy.meters.phases import Times
from fedsus.errors import EnvironmentFault
from fedsus.settings.energy import EnergySettings


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.zone("intel-rapl:0", "package-0", 1_000_000)
    return made


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
    opened = os.open

    def as_a_user(file: Path | str, *args: Any, **kwargs: Any) -> int:
        if Path(file).name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *args, **kwargs)

    monkeypatch.setattr(os, "open", as_a_user)
    hardware = without(rapl=lambda: rapl.find(machine.root))
    with pytest.raises(EnvironmentFault, match="only root may read it; .*docs/energy.md") as caught:
        look(EnergySettings(meter="counter", missing="refuse"), hardware)
    assert "\n" not in str(caught.value)
    assumed = look(EnergySettings(meter="counter"), hardware)
    assert assumed.counters == () and "only root may read it" in assumed.notes[0]
    assert assumed.lines[0].source == "model: P1, 60 W TDP, 4 cores"


class Woken:
    """An event whose waits end at once, the last one because the meter is gone."""

    def __init__(self, times: int) -> None:
        self.left, self.waits = times, list[float]()

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.left -= 1
        return self.left < 0


def test_a_thread_reads_what_would_wrap_unseen(machine: Machine) -> None:
    meter = machine.meter()
    threads = [thread for thread in threading.enumerate() if thread.name == "fedsus-energy"]
    assert threads and all(thread.daemon for thread in threads)
    machine.work(100.0, 100.0)
    machine.draw("intel-rapl:0", 90_000.0)
    woken = Woken(1)
    watched(weakref.ref(meter), woken, 131.0)  # type: ignore[arg-type]
    machine.work(200.0, 200.0)
    machine.draw("intel-rapl:0", 190_000.0)
    assert woken.waits == [131.0, 131.0]
    usage = taken(meter)
    assert (usage.method, usage.total) == ("counter", pytest.approx(280_000.0 - 300 * 5, rel=1e-6))


def test_the_thread_ends_with_its_meter(machine: Machine) -> None:
    before = set(threading.enumerate())
    meter = machine.meter()
    (thread,) = set(threading.enumerate()) - before
    del meter
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_what_this_machine_has_is_found_and_used(machine: Machine) -> None:
    hardware = without(rapl=lambda: rapl.find(machine.root))
    for settings in (EnergySettings(), EnergySettings(meter="counter", missing="refuse", idle_watts=30.0)):
        meter = make_meter(settings, machine.times, hardware)
        with meter.phase("train"):
            machine.work(10.0, 1e6)
            machine.draw("intel-rapl:0", 320.0)
        usage = meter.take()
        # 60 W TDP: an idle fifth of it until the counter has shown another.
        assert usage is not None and usage.joules == {"train": pytest.approx(200.0)}
        assert (usage.method, usage.idle) == ("counter", pytest.approx((settings.idle_watts or 12.0) * 10))
    modelled = look(EnergySettings(meter="model"), hardware)
    assert (modelled.counters, [line.method for line in modelled.lines]) == ((), ["modelled"])
