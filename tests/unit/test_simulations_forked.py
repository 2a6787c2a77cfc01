"""Clients in processes of their own: the same sums as in one, and a named end when a process is gone."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from fedsus import plan as plans
from fedsus.errors import RunFailed
from fedsus.rounds.server_half.exchange import conduct
from fedsus.secagg.exchange import Patience, establish, secure_sum
from fedsus.secagg.wire import Kind
from fedsus.types import Ask
from fedsus_simulations.whole.forked_clients import ForkedFleet
from fedsus_simulations.whole.secure_clients import federation, random_rings

SIZE = 5_000
PLAN = b"plan"
PATIENCE = Patience(10.0)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_sum_over_processes_is_the_sum(workers: int) -> None:
    fed, give = federation(7, 1, 1), random_rings(SIZE, 1)

    def dropped(index: int, kind: Kind) -> bool:
        return index == 3 and kind in (Kind.SEALED, Kind.CONTRIBUTE)

    clients = fed.clients(give)
    with ForkedFleet(clients, dropped, workers, sorted, 4 * SIZE + 2**16) as fleet:
        established = conduct(establish(fed.opening(), PATIENCE), fleet)
        sums = secure_sum(established, plans.digest(PLAN), (PLAN, b""), SIZE, 32, PATIENCE)
        summed = conduct(sums, fleet).summed
        told = fleet.reports()
    expected = np.zeros(SIZE, np.uint32)
    for index in (0, 1, 2, 4, 5, 6):
        expected += give(index)
    np.testing.assert_array_equal(summed.total, expected)
    assert (summed.survivors, summed.lost) == (6, 1)
    assert sorted(name for part in told for name in part) == sorted(clients)
    assert len(told) == workers


@pytest.mark.parametrize("before", [True, False])
def test_a_process_that_is_gone_ends_the_run_by_name(before: bool) -> None:
    fed = federation(3)
    with ForkedFleet(fed.clients(random_rings(8, 1)), workers=2) as fleet:
        os.kill(fleet._processes[0].pid, signal.SIGKILL)
        if before:
            fleet._processes[0].join()
        with pytest.raises(RunFailed, match="a process of simulated clients ended"):
            list(fleet.ask(Ask(dict.fromkeys(fed.opening().party.clients.values(), b""), 1.0, common=b"x" * 20)))


@pytest.mark.timeout(60)
def test_the_processes_end_with_the_block() -> None:
    """Whatever handlers they have from the process that forked them."""
    kept = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with ForkedFleet(federation(3).clients(random_rings(8, 1)), workers=2) as fleet:
            running = list(fleet._processes)
            assert all(process.is_alive() for process in running)
        assert [process.exitcode for process in running] == [-signal.SIGKILL] * 2
    finally:
        signal.signal(signal.SIGTERM, kept)
