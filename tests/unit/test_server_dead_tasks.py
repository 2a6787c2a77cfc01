"""Flower's search for dead tasks runs at times, not in every request."""

from __future__ import annotations

from fedsus_server.flower.superlink import _look_for_dead_tasks_less_often


class _State:
    def __init__(self) -> None:
        self.looks = 0

    def _cleanup_expired_task_tokens(self) -> None:
        self.looks += 1


def test_requests_of_one_second_look_once_and_a_later_one_again() -> None:
    state, now = _State(), [100.0]
    _look_for_dead_tasks_less_often(state, lambda: now[0])
    for _ in range(50):
        state._cleanup_expired_task_tokens()
    assert state.looks == 1
    now[0] += 0.99
    state._cleanup_expired_task_tokens()
    assert state.looks == 1
    now[0] += 0.02
    state._cleanup_expired_task_tokens()
    assert state.looks == 2
