"""Database work of Flower's handlers that a round can do without.

A statement costs the SuperLink 0.4 ms of processor time and a transaction about 1 ms, and a round's requests ask the
same again and again. What is left out or remembered here decides nothing on its own: whatever takes part in storing
a message is looked up again by Flower in the same transaction.
"""

from __future__ import annotations

import math
import threading
import time
from typing import Any, Final

from flwr.common.constant import Status

from fedsus.types import Clock

REMEMBERED_SECONDS: Final = 1.0


def spare(state: Any, clock: Clock = time.monotonic) -> None:
    """Change Flower's state object in place, all of the below."""
    count_no_traffic(state)
    remember_nodes(state, clock)
    remember_running(state, clock)


def count_no_traffic(state: Any) -> None:
    """Flower adds each request's bytes to its run, in a transaction of its own; our round loop counts them itself."""

    def store_traffic(run_id: int, *, bytes_sent: int, bytes_recv: int) -> None:
        del run_id, bytes_sent, bytes_recv

    state.store_traffic = store_traffic


def remember_nodes(state: Any, clock: Clock) -> None:
    """The number of a node's key, which each request's authentication looks up after it checked the signature.

    Remembered are keys that were found, for `REMEMBERED_SECONDS`, and all are forgotten when any is removed: the
    removal goes through this same object, so that a removed key is refused from its next request on.
    """
    look, remove = state.get_node_id_by_public_key, state.delete_node
    guard = threading.Lock()
    known: dict[bytes, tuple[int, float]] = {}

    def get_node_id_by_public_key(public_key: bytes) -> int | None:
        with guard:
            number, until = known.get(public_key, (None, -math.inf))
            if clock() < until:
                return number
            found: int | None = look(public_key)
            if found is None:
                known.pop(public_key, None)
            else:
                known[public_key] = found, clock() + REMEMBERED_SECONDS
            return found

    def delete_node(*arguments: Any, **named: Any) -> None:
        with guard:
            try:
                remove(*arguments, **named)
            finally:
                known.clear()

    state.get_node_id_by_public_key, state.delete_node = get_node_id_by_public_key, delete_node


def remember_running(state: Any, clock: Clock) -> None:
    """That a run is running, for `REMEMBERED_SECONDS`: four of a device's five requests in a round ask for it.

    A run that ended meanwhile stores nothing more, for Flower asks again, in the transaction that stores; a device
    may read a part of its last message for a second longer.
    """
    look = state.get_run_status
    running: dict[int, tuple[Any, float]] = {}

    def get_run_status(run_ids: set[int]) -> dict[int, Any]:
        now = clock()
        if run_ids and all(now < running.get(run, (None, -math.inf))[1] for run in run_ids):
            return {run: running[run][0] for run in run_ids}
        found: dict[int, Any] = look(run_ids)
        for run in [run for run, (_, until) in running.items() if until <= now]:
            running.pop(run, None)
        running.update(
            (run, (status, now + REMEMBERED_SECONDS))
            for run, status in found.items()
            if status.status == Status.RUNNING
        )
        return found

    state.get_run_status = get_run_status
