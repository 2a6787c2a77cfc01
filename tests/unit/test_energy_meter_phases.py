"""Whose processor time it was: the rule, under clocks that the test moves."""

from __future__ import annotations

import resource
import threading
from collections import defaultdict
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsus.costs import PHASES
from fedsus.energy.meters.meter import PartsMeter
from fedsus.energy.meters.model import Model, Range
from fedsus.energy.meters.phases import Phases, Times


@dataclass
class Clocks:
    """A machine whose time passes when the test says so."""

    steady: float = 1000.0
    process: float = 50.0
    threads: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def times(self) -> Times:
        return Times(lambda: self.steady, lambda: self.process, lambda: self.threads[threading.get_ident()])

    def work(self, seconds: float, process: float, own: float = 0.0) -> None:
        """``own`` seconds of the calling thread are among those of the process."""
        self.steady += seconds
        self.process += process
        self.threads[threading.get_ident()] += own


def in_thread(work: object) -> None:
    assert callable(work)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_workers_without_a_phase_count_for_the_phase_of_who_waits_for_them() -> None:
    clocks = Clocks()
    phases = Phases(clocks.times)
    with phases.inside("train"):
        clocks.work(1.0, 8.0, own=1.0)
    with phases.inside("load"):
        clocks.work(1.0, 1.0, own=1.0)
    taken = phases.take()
    assert taken.cpu == {"load": 1.0, "train": 8.0}
    assert taken.seconds == 2.0


def test_an_inner_phase_is_not_its_outer_one() -> None:
    clocks = Clocks()
    phases = Phases(clocks.times)
    with phases.inside("train"):
        clocks.work(1.0, 1.0)
        with phases.inside("encode"):
            clocks.work(1.0, 2.0)
        clocks.work(1.0, 4.0)
    assert phases.take().cpu == {"train": 5.0, "encode": 2.0}


def test_a_phase_inside_itself_reads_no_clock() -> None:
    clocks, read = Clocks(), list[str]()
    given = clocks.times
    times = Times(given.steady, lambda: (read.append("process"), given.process())[1], given.thread)
    phases = Phases(times)
    with phases.inside("load"):
        clocks.work(1.0, 1.0)
        before = len(read)
        with phases.inside("load"):
            clocks.work(1.0, 2.0)
        assert len(read) == before
        clocks.work(1.0, 4.0)
    clocks.work(1.0, 8.0)
    assert phases.take().cpu == {"load": 7.0, "wait": 8.0}


def test_many_borders_between_two_takes_are_all_counted_and_few_are_kept() -> None:
    clocks = Clocks()
    phases = Phases(clocks.times)
    for _ in range(5000):
        with phases.inside("communicate"):
            clocks.work(1.0, 0.25)
        clocks.work(1.0, 0.5)
    assert len(phases._marks) < 1000
    taken = phases.take()
    assert taken.cpu == {"communicate": 1250.0, "wait": 2500.0}
    assert taken.seconds == 10_000.0


def test_an_outer_phase_goes_on_where_its_inner_one_ended_in_another_thread() -> None:
    clocks = Clocks()
    phases = Phases(clocks.times)
    with phases.inside("train"):
        clocks.work(1.0, 1.0, own=1.0)
        context = phases.inside("crypto")
        context.__enter__()
        clocks.work(1.0, 2.0, own=1.0)
        in_thread(lambda: context.__exit__(None, None, None))
        clocks.work(1.0, 4.0, own=1.0)
    assert phases.take().cpu == {"train": 5.0, "crypto": 2.0}


def test_an_error_leaves_its_phase() -> None:
    clocks = Clocks()
    phases = Phases(clocks.times)
    with pytest.raises(KeyError), phases.inside("train"):
        clocks.work(1.0, 1.0)
        raise KeyError
    clocks.work(1.0, 3.0)
    assert phases.take().cpu == {"train": 1.0, "wait": 3.0}


def test_who_waits_beside_training_takes_next_to_nothing() -> None:
    clocks = Clocks()
    phases = Phases(clocks.times)
    with phases.inside("train"):
        clocks.work(1.0, 1.0, own=1.0)

    def trains() -> None:
        with phases.inside("train"):
            clocks.work(10.0, 80.0, own=10.0)

    with phases.inside("wait"):
        in_thread(trains)
    with phases.inside("communicate"):
        in_thread(trains)
        in_thread(trains)
    cpu = phases.take().cpu
    assert cpu["wait"] < 0.01 * 80
    assert cpu["communicate"] < 0.01 * 160
    assert sum(cpu.values()) == pytest.approx(241.0)


def test_two_busy_phases_share_by_their_loads() -> None:
    clocks = Clocks()
    phases = Phases(clocks.times)
    with phases.inside("train"):
        clocks.work(1.0, 1.0, own=0.9)
    with phases.inside("crypto"):
        clocks.work(1.0, 1.0, own=0.3)

    def encrypts() -> None:
        with phases.inside("crypto"):
            clocks.work(0.0, 4.0)

    with phases.inside("train"):
        in_thread(encrypts)
    assert phases.take().cpu == {"train": pytest.approx(1.0 + 3.0), "crypto": pytest.approx(1.0 + 1.0)}


def test_a_take_inside_a_phase_goes_on_counting() -> None:
    clocks = Clocks()
    phases = Phases(clocks.times)
    with phases.inside("train"):
        clocks.work(1.0, 1.0)
        assert phases.take().cpu == {"train": 1.0}
        clocks.work(2.0, 2.0)
    assert phases.take().cpu == {"train": 2.0}
    nothing = phases.take()
    assert (nothing.seconds, dict(nothing.cpu), nothing.total) == (0.0, {}, 0.0)


def test_a_context_that_ends_in_another_thread_counts_all_the_same() -> None:
    clocks = Clocks()
    phases = Phases(clocks.times)
    context = phases.inside("crypto")
    context.__enter__()
    clocks.work(1.0, 1.0)
    in_thread(lambda: context.__exit__(None, None, None))
    clocks.work(1.0, 1.0)
    assert phases.take().cpu == {"crypto": 1.0, "wait": 1.0}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(PHASES), st.integers(0, 2), st.floats(0, 9), st.floats(0, 9), st.floats(0, 1)),
        max_size=20,
    )
)
def test_the_sum_over_phases_is_the_processs_own(steps: list[tuple[str, int, float, float, float]]) -> None:
    clocks = Clocks()
    phases = Phases(clocks.times)
    began, stacks, taken = clocks.process, [], 0.0
    for name, action, seconds, process, own in steps:
        if action == 0:
            stacks.append(phases.enter(name))  # type: ignore[arg-type]
        elif action == 1 and stacks:
            phases.leave(stacks.pop())
        else:
            taken += phases.take().total
        clocks.work(seconds, process, own)
    last = phases.take()
    assert all(value > 0 for value in last.cpu.values())
    assert taken + last.total == pytest.approx(clocks.process - began)


def test_two_burning_threads_are_as_a_hand_computation_says() -> None:
    """The model's joules against processor seconds that the kernel counts in another way, of the same work."""
    model = Model(core=Range(value=5.0, low=2.0, high=9.0), idle=3.0, method="modelled", source="a processor")
    before = resource.getrusage(resource.RUSAGE_SELF)
    meter = PartsMeter([model])

    def burn(phase: str) -> None:
        with meter.phase(phase):  # type: ignore[arg-type]
            while resource.getrusage(resource.RUSAGE_THREAD).ru_utime < 0.15:
                sum(range(5000))

    threads = [threading.Thread(target=burn, args=(phase,)) for phase in ("train", "crypto")]
    for thread in threads:
        thread.start()
    with meter.phase("wait"):
        for thread in threads:
            thread.join()
    usage = meter.take()
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert usage is not None
    by_hand = 5.0 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert by_hand > 5.0 * 0.3
    assert usage.total == pytest.approx(by_hand, rel=0.15)
    assert usage.low == pytest.approx(0.4 * usage.total) and usage.high == pytest.approx(1.8 * usage.total)
    assert usage.idle == pytest.approx(3.0 * usage.seconds)
    # Who of two got the processor first is the system's choice: their parts are coarse, their sum is not.
    assert min(usage.joules["train"], usage.joules["crypto"]) > 0.1 * usage.total
    assert usage.joules.get("wait", 0.0) < 0.2 * usage.total
