"""A child that is forked inside a meter's phase, while another thread is in the middle of a border, does not hang."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from fedsus.energy.meters.meter import PartsMeter
from fedsus.energy.meters.model import Model, Range
from fedsus.energy.meters.phases import Times
from fedsus.errors import EnvironmentFault

MODEL = Model(core=Range(value=4.0, low=2.0, high=8.0), idle=5.0, method="modelled", source="a processor")
MOST = 60


class Held:
    """A processor clock that stops one thread in the middle of a border, where it holds the lock."""

    def __init__(self) -> None:
        self.thread: int | None = None
        self.there, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> float:
        if threading.get_ident() == self.thread:
            self.there.set()
            self.go_on.wait(MOST)
        return time.process_time()


@contextmanager
def in_the_middle(meter: PartsMeter, held: Held, work: Callable[[], object]) -> Iterator[None]:
    def other() -> None:
        held.thread = threading.get_ident()
        work()

    thread = threading.Thread(target=other)
    thread.start()
    assert held.there.wait(MOST)
    try:
        yield
    finally:
        held.thread = None
        held.go_on.set()
        thread.join(MOST)


def forked(work: Callable[[], bool]) -> int:
    """The status of a child that does ``work``; one that hangs is ended by its alarm."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(MOST)
        code = 3
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return status


def enters(meter: PartsMeter) -> None:
    with meter.phase("crypto"):
        pass


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("taking", [False, True])
def test_a_child_forked_inside_a_phase_does_not_hang(taking: bool) -> None:
    held = Held()
    meter = PartsMeter([MODEL], Times(process=held))

    def child() -> bool:
        context.__exit__(None, None, None)
        for _ in range(300):
            enters(meter)
        meter.sample()
        try:
            meter.take()
        except EnvironmentFault as fault:
            return "forked" in str(fault)
        return False

    context = meter.phase("train")
    context.__enter__()
    with in_the_middle(meter, held, meter.take if taking else lambda: enters(meter)):
        status = forked(child)
    context.__exit__(None, None, None)
    assert status == 0
    used = meter.take()
    # The parent's own figure goes on as if nothing had been.
    assert used.total > 0 and set(used.joules) <= {"train", "crypto", "wait"}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_measures_with_a_meter_of_its_own() -> None:
    meter = PartsMeter([MODEL])

    def child() -> bool:
        own = PartsMeter([MODEL])
        with own.phase("train"):
            sum(range(100_000))
        return own.take().joules["train"] > 0

    with meter.phase("wait"):
        assert forked(child) == 0
