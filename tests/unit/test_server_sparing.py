"""What is remembered of Flower's state is forgotten in time, and at once where it admits somebody."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fedsus_server.flower import sparing


class State:
    """Flower's state: counts what reaches the database."""

    def __init__(self) -> None:
        self.nodes = {b"key": 7, b"other": 8}
        self.status = {1: "running", 2: "running"}
        self.looks: list[Any] = []

    def get_node_id_by_public_key(self, public_key: bytes) -> int | None:
        self.looks.append(public_key)
        return self.nodes.get(public_key)

    def delete_node(self, owner: str, node_id: int) -> None:
        if node_id not in self.nodes.values():
            raise ValueError("unknown")
        self.nodes = {key: number for key, number in self.nodes.items() if number != node_id}

    def get_run_status(self, run_ids: set[int]) -> dict[int, Any]:
        self.looks.append(run_ids)
        return {run: SimpleNamespace(status=self.status[run]) for run in run_ids}

    def store_traffic(self, run_id: int, *, bytes_sent: int, bytes_recv: int) -> None:
        self.looks.append(run_id)


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def state(clock: Time) -> State:
    made = State()
    sparing.spare(made, clock)
    return made


def test_a_key_is_looked_up_once_a_second(state: State, clock: Time) -> None:
    for _ in range(5):
        assert state.get_node_id_by_public_key(b"key") == 7
    assert state.looks == [b"key"]
    clock.now = sparing.REMEMBERED_SECONDS
    state.nodes[b"key"] = 9
    assert state.get_node_id_by_public_key(b"key") == 9


def test_a_removed_key_is_unknown_at_once(state: State) -> None:
    assert [state.get_node_id_by_public_key(key) for key in (b"key", b"other")] == [7, 8]
    state.delete_node("owner", 7)
    assert [state.get_node_id_by_public_key(key) for key in (b"key", b"other")] == [None, 8]


def test_a_removal_that_fails_forgets_too(state: State) -> None:
    assert state.get_node_id_by_public_key(b"key") == 7
    with pytest.raises(ValueError, match="unknown"):
        state.delete_node("owner", 1)
    state.nodes.clear()
    assert state.get_node_id_by_public_key(b"key") is None


def test_an_unknown_key_is_not_remembered(state: State) -> None:
    assert state.get_node_id_by_public_key(b"new") is None
    state.nodes[b"new"] = 3
    assert state.get_node_id_by_public_key(b"new") == 3


def test_only_that_a_run_is_running_is_remembered(state: State, clock: Time) -> None:
    for _ in range(5):
        assert state.get_run_status({1})[1].status == "running"
    assert state.looks == [{1}]
    state.status[1] = "finished"
    assert state.get_run_status({1, 2})[1].status == "finished", "a run that was not asked for before"
    clock.now = sparing.REMEMBERED_SECONDS
    for _ in range(3):
        assert state.get_run_status({1})[1].status == "finished"
    assert state.looks == [{1}, {1, 2}, {1}, {1}, {1}]
    assert state.get_run_status(set()) == {}


def test_bytes_are_not_counted_twice(state: State) -> None:
    state.store_traffic(1, bytes_sent=1, bytes_recv=0)
    assert state.looks == []
